"""What an image must be like to have been among those that the teacher was trained on: losses over images and features."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def statistics_distance(inputs_bchw: Tensor, mean_c: Tensor, variance_c: Tensor, eps: float) -> Tensor:
    """How far the mean and deviation of a layer's inputs are from the given ones, a scalar from 0 on.

    Per channel ((mean - mean_c) / s)^2 + (deviation / s - 1)^2 with s the given deviation, averaged over channels: the
    squared 2-Wasserstein distance between two normal distributions, in units of the second's variance. 0 for a batch
    whose mean and unbiased variance are exactly those given. `eps` is added to both variances. To match them is the idea of
    Yin et al., Dreaming to Distill (DeepInversion), CVPR 2020, eq. 4, where channels are not brought to one scale.
    """
    values = inputs_bchw.numel() // inputs_bchw.shape[1]
    centred = inputs_bchw - mean_c.to(inputs_bchw.dtype).view(
        1, -1, 1, 1
    )  # a mean far from 0 would swallow the variance
    mean, mean_square = _Moments.apply(centred)
    variance = (mean_square - mean.square()).clamp(min=0.0) * (values / max(1, values - 1))
    deviation_c = (variance_c.float() + eps).sqrt()
    spread = (variance + eps).sqrt() / deviation_c - 1.0
    distance: Tensor = ((mean / deviation_c).square() + spread.square()).mean()
    return distance


def total_variation(images_bchw: Tensor) -> Tensor:
    """Mean absolute difference between neighbouring pixels (0..1), to the right and below, a scalar.

    Rudin, Osher and Fatemi, Nonlinear total variation based noise removal, Physica D 1992, without its square root.
    """
    right = images_bchw[..., 1:] - images_bchw[..., :-1]
    below = images_bchw[..., 1:, :] - images_bchw[..., :-1, :]
    return right.abs().mean() + below.abs().mean()


def grey_distance(images_bchw: Tensor) -> Tensor:
    """Mean squared distance of the pixels (0..1) from middle grey: the L2 prior of a centred image, a scalar."""
    return (images_bchw - 0.5).square().mean()


class NormStatistics:
    """Collects `statistics_distance` of every BatchNorm layer of a model while it runs."""

    def __init__(self, model: nn.Module) -> None:
        self._norms = [
            norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats
        ]
        self._distances: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._norms)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Forward passes in this block are watched."""
        hooks = [norm.register_forward_pre_hook(self._before) for norm in self._norms]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self) -> Tensor:
        """The mean distance over the layers that ran since it was last asked for, a scalar; forgets them."""
        found, self._distances = torch.stack(self._distances).mean(), []
        return found

    def _before(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        with torch.autocast(inputs[0].device.type, enabled=False):
            self._distances.append(statistics_distance(inputs[0], norm.running_mean, norm.running_var, norm.eps))


class _Moments(torch.autograd.Function):
    """Mean and mean square of each channel, summed in float32. Written out because autograd's way reads the maps five
    times as often, which took longer than the teacher itself."""

    @staticmethod
    def forward(ctx: Any, inputs_bchw: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(inputs_bchw)
        dims = (0, 2, 3)
        count = inputs_bchw.numel() // inputs_bchw.shape[1]
        total = inputs_bchw.sum(dims, dtype=torch.float32)
        squares = (inputs_bchw * inputs_bchw).sum(dims, dtype=torch.float32)
        return total / count, squares / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (inputs_bchw,) = ctx.saved_tensors
        count = inputs_bchw.numel() // inputs_bchw.shape[1]
        of_mean, of_square = (gradient.view(1, -1, 1, 1) / count for gradient in gradients)
        dtype = inputs_bchw.dtype
        return torch.addcmul(of_mean.to(dtype), inputs_bchw, 2.0 * of_square.to(dtype))
