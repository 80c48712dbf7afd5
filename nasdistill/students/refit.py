"""Fitting what is cut out of a network to the network: every convolution anew, by least squares on real images.

A slice computes with a share of the channels what was learnt with all of them, and each layer hands its error on. Here the
layers are fitted one after the other, each from the inputs that the already fitted ones give it, to what the same layer of
the large network says to the same images (He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017,
eq. 5; the inputs of the network being cut, not of the large one, as in their sect. 3.2). One forward pass does it: a
convolution is solved for just before it runs. No gradients are needed, and a few seconds are enough, because a layer is
compared at a few places of each map alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional
from ultralytics.nn.modules import DFL, Conv

from nasdistill.students.slicing import Pieces, SlicePlan

SAMPLES = 3072
"""Places that each convolution is compared at, over all images: several for each of its unknowns."""
MOST_IMAGES, FEWEST_IMAGES = 48, 16
RIDGE = 0.1
"""Share of the inputs' mean power that is added to each of them (ridge regression, towards the weights as they are)."""
CHUNK = 16


@dataclass(frozen=True)
class Answers:
    """What convolutions of a network say to images, before normalisation, at places drawn at random.

    By the convolution's name: `places` (images, p) int64 are positions in its output map, row by row; `said`
    (images, p, channels) bfloat16 what stands there.
    """

    places: Mapping[str, Tensor]
    said: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """All of it by one name each, for a file."""
        parts = {"places": self.places, "said": self.said}
        return {f"{part}/{name}": tensor for part, found in parts.items() for name, tensor in found.items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "Answers":
        """What `tensors` returned."""
        parts: dict[str, dict[str, Tensor]] = {"places": {}, "said": {}}
        for name, tensor in tensors.items():
            part, _, convolution = name.partition("/")
            parts[part][convolution] = tensor
        return cls(**parts)


def views_to_ask(views: int, image_size: int) -> np.ndarray:
    """Which of so many views are shown, evenly spread, (n,) int64: as many as fit into memory all at once."""
    count = min(views, MOST_IMAGES, max(FEWEST_IMAGES, round(MOST_IMAGES * (256 / image_size) ** 2)))
    return np.arange(count) * views // count


def rows_kept(plan: SlicePlan, small: nn.Module) -> dict[str, Tensor]:
    """For each convolution of `small` that is cut from a large network: which of its output channels, (channels,) int64."""
    return {
        name: _rows(plan.pieces[f"{name}.weight"], layer.out_channels)
        for name, layer in _convolutions(small).items()
        if f"{name}.weight" in plan.pieces
    }


def _rows(axes: tuple[Pieces, ...], channels: int) -> Tensor:
    if not axes:
        return torch.arange(channels)
    return torch.cat([torch.arange(piece.large, piece.large + piece.length) for piece in axes[0]])


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The plain and the depthwise ones with their padding written down; the head's fixed sum over bins is none."""
    sums = {id(layer.conv) for layer in model.modules() if isinstance(layer, DFL)}
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d)
        and not isinstance(layer, Conv2dSame)
        and id(layer) not in sums
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and (layer.groups == 1 or layer.groups == layer.in_channels == layer.out_channels)
    }


@contextmanager
def _listening(model: nn.Module, hooks: Mapping[nn.Module, Callable], before: bool = False) -> Iterator[None]:
    """A block in which `model` is in eval mode and the hooks run after (or `before`) their modules."""
    training = model.training
    handles = [
        module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook)
        for module, hook in hooks.items()
    ]
    try:
        model.eval()
        yield
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


@torch.no_grad()
def ask(model: nn.Module, images: Tensor, rows: Mapping[str, Tensor], seed: int = 0) -> Answers:
    """What the convolutions of `model` named in `rows` say to `images`, in those of their output channels.

    Args:
        model: a detection model; it is left in the mode it was in.
        images: (n, 3, s, s) in 0..1, on the model's device.
        rows: by the convolution's name, (channels,) int64.
        seed: of the places.
    """
    generator, places, said = torch.Generator().manual_seed(seed), dict[str, Tensor](), dict[str, list[Tensor]]()

    def listen(name: str) -> Callable:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            area = output.shape[2] * output.shape[3]
            if name not in places:
                count = min(area, math.ceil(SAMPLES / len(images)))
                drawn = [torch.randperm(area, generator=generator)[:count] for _ in range(len(images))]
                places[name], said[name] = torch.stack(drawn), []
            first = sum(map(len, said[name]))
            at = places[name][first : first + len(output)].to(output.device)
            found = _at(output.flatten(2)[:, rows[name].to(output.device)], at)
            said[name].append(found.to(torch.bfloat16).cpu())

        return hook

    layers = _convolutions(model)
    with _listening(model, {layers[name]: listen(name) for name in rows if name in layers}):
        for chunk in images.split(CHUNK):
            model(chunk)
    return Answers(places, {name: torch.cat(parts) for name, parts in said.items()})


def _at(maps: Tensor, places: Tensor) -> Tensor:
    """Maps (n, channels, h * w) at places (n, p): (n, p, channels)."""
    return maps.gather(2, places[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


@torch.no_grad()
def refit(model: nn.Module, images: Tensor, answers: Answers, rows: Mapping[str, Tensor]) -> list[str]:
    """Fit the convolutions of `model` to `answers`, given to the same images by the network it is cut from.

    A BatchNorm that reads a convolution gets the statistics of what it now reads, and scales and shifts that make it the
    same function as before. Convolutions that nothing was said about stay as they are, and so do those that have neither
    a BatchNorm nor a bias. Changes `model`; its mode stays.

    Args:
        model: a detection model, sliced.
        images: (n, 3, s, s) in 0..1, those that were asked about, on the model's device.
        answers: of the large network.
        rows: for each convolution to fit, which channels of `answers.said` are its own (`rows_kept`).

    Returns:
        The names of the convolutions that were fitted.
    """
    fitted: list[str] = []
    layers = _convolutions(model)
    norms: dict[nn.Module, nn.BatchNorm2d] = {
        block.conv: block.bn for block in model.modules() if isinstance(block, Conv)
    }

    def fit(name: str) -> Callable:
        def hook(layer: nn.Conv2d, args: tuple[Tensor]) -> None:
            patches = _patches(layer, args[0], answers.places[name])
            said = answers.said[name][..., rows[name]]
            if _fit(layer, patches, said.flatten(0, 1).to(layer.weight), norms.get(layer)):
                fitted.append(name)

        return hook

    hooks = {
        layer: fit(name)
        for name, layer in layers.items()
        if name in answers.said and name in rows and (layer.bias is not None or layer in norms)
    }
    with _listening(model, hooks, before=True):
        model(images)
    return fitted


def _patches(layer: nn.Conv2d, maps: Tensor, places: Tensor) -> Tensor:
    """What the convolution reads for the `places` (n, p) of its output: (n * p, channels, kernel area)."""
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    pad_y, pad_x = (int(pad) for pad in layer.padding)
    padded = functional.pad(maps, (pad_x, pad_x, pad_y, pad_y))
    width = padded.shape[3]
    columns = (width - wide) // right + 1
    places = places.to(maps.device)
    corner = places // columns * down * width + places % columns * right
    flat = padded.flatten(2)
    parts = [_at(flat, corner + y * width + x) for y in range(high) for x in range(wide)]
    return torch.stack(parts, dim=3).flatten(0, 1)


def _fit(layer: nn.Conv2d, patches: Tensor, said: Tensor, norm: nn.BatchNorm2d | None) -> bool:
    """Ridge regression of `said` (samples, channels out) on `patches`, with an intercept; whether it has a solution."""
    # one regression for all channels, or one for each of a depthwise layer's: (regressions, samples, unknowns)
    inputs = patches.flatten(1)[None] if layer.groups == 1 else patches.transpose(0, 1)
    wanted = said[None] if layer.groups == 1 else said.T[..., None]
    means, levels = inputs.mean(dim=1, keepdim=True), wanted.mean(dim=1, keepdim=True)
    inputs, wanted = inputs - means, wanted - levels
    power = (inputs.transpose(1, 2) @ inputs).double()
    ridge = RIDGE * power.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None] + 1e-9
    power.diagonal(dim1=1, dim2=2).add_(ridge)
    before = layer.weight.flatten(1)[None] if layer.groups == 1 else layer.weight.flatten(1)[:, None]
    goal = (inputs.transpose(1, 2) @ wanted).double() + ridge[..., None] * before.transpose(1, 2)
    factor, failed = torch.linalg.cholesky_ex(power)
    weights = torch.cholesky_solve(goal, factor).to(said.dtype)
    if failed.any() or not torch.isfinite(weights).all():
        return False
    layer.weight.copy_(weights.transpose(1, 2).reshape(layer.weight.shape))
    level, offset = levels.flatten(), (means @ weights).flatten()
    if layer.bias is not None:
        layer.bias.copy_(level - offset)
    if norm is not None:
        made = offset if layer.bias is None else level
        _same_function(norm, level, made, (inputs @ weights).pow(2).mean(dim=1).flatten())
    return True


def _same_function(norm: nn.BatchNorm2d, level: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Let `norm` read channels of this `mean` and `variance`; their mean stands for `level` of what it read before."""
    before = torch.sqrt(norm.running_var + norm.eps)
    norm.bias.add_(norm.weight * (level - norm.running_mean) / before)
    norm.weight.mul_(torch.sqrt(variance + norm.eps) / before)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
