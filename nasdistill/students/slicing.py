"""Cutting a smaller network of a family out of a larger one, channel for channel.

A smaller network takes the first channels of every layer of the larger one ("weight sharing by leading channels":
Yu et al., Slimmable Neural Networks, ICLR 2019; Cai et al., Once-for-All, ICLR 2020). Where a convolution reads a
concatenation, the first channels *of each part* are taken, so the slice is exact: the cut network computes what the large
one computes with the other channels masked. Backbone variants of timm that differ in more than widths (rounding gives
MobileNetV3 small_050 a shortcut that small_100 lacks) are cut the same way, as a starting point that is not exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from ultralytics.nn.modules import C3, SPPF, Concat, Conv, Detect, Index
from ultralytics.nn.tasks import DetectionModel

Segments = tuple[int, ...]
"""Channel counts of the parts that a tensor was concatenated from."""


def input_segments(model: DetectionModel) -> dict[str, Segments]:
    """Parameter name of each convolution that reads a concatenation -> channels of its parts.

    Raises:
        TypeError: a layer type whose concatenations are not known here.
    """
    found: dict[str, Segments] = {}
    outputs: list[Segments | list[Segments]] = []
    for index, layer in enumerate(model.model):
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        inputs = [outputs[index + s if s < 0 else s] for s in sources] if index else [(3,)]
        outputs.append(_layer_segments(f"model.{index}", layer, inputs, found))
    return found


def _layer_segments(name: str, layer: nn.Module, inputs: list, found: dict[str, Segments]) -> Segments | list[Segments]:
    """Note the concatenations inside `layer` in `found`; return the segments of its output (a list for pyramids)."""
    if isinstance(layer, Detect):
        return ()
    if isinstance(layer, Concat):
        return tuple(part for segments in inputs for part in segments)
    if isinstance(layer, Index):
        return inputs[0][layer.index]
    if isinstance(layer, nn.Upsample):
        return inputs[0]
    if hasattr(layer, "channels"):  # TimmBackbone: no concatenation inside, a pyramid outside
        return [(channels,) for channels in layer.channels]
    first_convs = {Conv: ("conv",), C3: ("cv1.conv", "cv2.conv"), SPPF: ("cv1.conv",)}.get(type(layer))
    if first_convs is None:
        raise TypeError(f"{name}: concatenations inside {type(layer).__name__} are not described")
    if len(inputs[0]) > 1:
        found.update({f"{name}.{conv}.weight": inputs[0] for conv in first_convs})
    if isinstance(layer, C3):
        found[f"{name}.cv3.conv.weight"] = (layer.cv1.conv.out_channels, layer.cv2.conv.out_channels)
        return (layer.cv3.conv.out_channels,)
    if isinstance(layer, SPPF):
        found[f"{name}.cv2.conv.weight"] = (layer.cv1.conv.out_channels,) * (layer.n + 1)
        return (layer.cv2.conv.out_channels,)
    return (layer.conv.out_channels,)


@dataclass(frozen=True)
class SlicePlan:
    """How every tensor of a small network is read out of a large one's state.

    `shapes` maps tensor name -> shape in the small network; `segments` maps names of concatenation readers -> the
    pairs (start in the large tensor, length) along dimension 1.
    """

    shapes: Mapping[str, tuple[int, ...]]
    segments: Mapping[str, tuple[tuple[int, int], ...]]

    def cut(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The small network's tensors as views (or concatenated views) of `state`; gradients flow back to it."""
        return dict(self._cut_each(state))

    def _cut_each(self, state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, shape in self.shapes.items():
            tensor = state[name]
            if tensor.shape == shape:
                yield name, tensor
                continue
            tensor = tensor[tuple(slice(length) if dim != 1 else slice(None) for dim, length in enumerate(shape))]
            if name in self.segments:
                tensor = torch.cat([tensor.narrow(1, start, length) for start, length in self.segments[name]], dim=1)
            elif len(shape) > 1:
                tensor = tensor[:, : shape[1]]
            yield name, tensor


def plan_slices(large: DetectionModel, small: DetectionModel) -> SlicePlan:
    """Plan how `small` is cut out of `large` (same family, no layer larger).

    Raises:
        ValueError: a tensor of `small` is missing in `large` or larger than there; all of them are listed.
    """
    large_shapes = {name: tuple(tensor.shape) for name, tensor in large.state_dict().items()}
    small_shapes = {name: tuple(tensor.shape) for name, tensor in small.state_dict().items()}
    misfits = [
        f"{name} {shape} of {large_shapes.get(name, 'nothing')}"
        for name, shape in small_shapes.items()
        if name not in large_shapes or any(s > b for s, b in zip(shape, large_shapes[name], strict=True))
    ]
    if misfits:
        raise ValueError(f"{len(misfits)} tensors do not fit: " + "; ".join(misfits[:5]))
    large_segments, small_segments = input_segments(large), input_segments(small)
    segments = {}
    for name, parts in small_segments.items():
        starts = [sum(large_segments[name][:part]) for part in range(len(parts))]
        segments[name] = tuple(zip(starts, parts, strict=True))
    return SlicePlan(small_shapes, segments)


def load_slice(large_state: Mapping[str, torch.Tensor], large: DetectionModel, small: DetectionModel) -> None:
    """Copy into `small` what it inherits from `large_state`, the state of a network shaped like `large`."""
    cut = plan_slices(large, small).cut(large_state)
    small.load_state_dict({name: tensor.detach().clone() for name, tensor in cut.items()})


@torch.no_grad()
def transplant(source: DetectionModel, target: DetectionModel) -> float:
    """Copy into `target` the channels that both networks have, layer by layer (the first of each part of a concatenation).

    Unlike `load_slice`, either network may be wider or deeper; what `source` lacks keeps its value. Changes `target`.

    Returns:
        The share of `target`'s parameters that were copied, 0..1.
    """
    source_segments, target_segments = input_segments(source), input_segments(target)
    source_state, copied, total = source.state_dict(), 0, 0
    for name, tensor in target.state_dict().items():
        total += tensor.numel()
        other = source_state.get(name)
        if other is None or other.ndim != tensor.ndim or other.shape[2:] != tensor.shape[2:]:
            continue
        if tensor.ndim == 0:
            tensor.copy_(other)
            continue
        rows = min(len(tensor), len(other))
        if tensor.ndim == 1:
            tensor[:rows] = other[:rows]
            copied += rows
            continue
        to_parts = target_segments.get(name, (tensor.shape[1],))
        from_parts = source_segments.get(name, (other.shape[1],))
        if len(to_parts) != len(from_parts):
            continue
        for part, (wanted, offered) in enumerate(zip(to_parts, from_parts, strict=True)):
            to_start, from_start, length = sum(to_parts[:part]), sum(from_parts[:part]), min(wanted, offered)
            tensor[:rows, to_start : to_start + length] = other[:rows, from_start : from_start + length]
            copied += tensor[:rows, :length].numel()
    return copied / total
