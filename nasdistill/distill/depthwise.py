"""Depthwise convolutions that train fast on a CPU.

oneDNN, which torch computes convolutions with, has no fast kernel for two parts of their backward pass, and falls back
to a reference loop there (measured in docs/decisions.md): the gradient of weights above 3x3, and in bfloat16 the
gradient of the input at a stride. Both are put together here from parts that it has.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FAST_KERNEL = 3
"""Side of the largest kernel for whose weights oneDNN has a fast gradient."""
_convolution_backward = torch.ops.aten.convolution_backward


def speed_up_depthwise(module: nn.Module) -> None:
    """Let the depthwise convolutions in `module` train by this file's backward pass. Changes `module`.

    Numbers, weights and names stay what they are; so does everything outside training.
    """
    for layer in module.modules():
        if type(layer) in _TRAINED_FAST and _is_depthwise(layer):
            layer.__class__ = _TRAINED_FAST[type(layer)]


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution: its backward pass in training is `_Depthwise`."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            return depthwise(input, self.weight, self.bias, self.stride[0], _pair(self.padding))
        return super().forward(input)


class DepthwiseConv2dSame(Conv2dSame):
    """The same for timm's convolution with TensorFlow's padding."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled():
            padded = pad_same(x, list(self.kernel_size), list(self.stride))
            return depthwise(padded, self.weight, self.bias, self.stride[0], (0, 0))
        return super().forward(x)


_TRAINED_FAST: dict[type, type] = {nn.Conv2d: DepthwiseConv2d, Conv2dSame: DepthwiseConv2dSame}


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: tuple[int, int]) -> Tensor:
    """`torch.nn.functional.conv2d` with a group for each channel, in autocast's type where that is on.

    Args:
        x: (n, channels, height, width).
        weight: (channels, 1, k, k), k at least 1.
        bias: (channels,) or none.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    y: Tensor = _Depthwise.apply(x.to(dtype), weight.to(dtype), stride, padding)
    return y if bias is None else y + bias.to(dtype)[:, None, None]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_input, of_weight = ctx.needs_input_grad[:2]
        return (
            _of_input(gradient, x, weight, ctx.stride, ctx.padding) if of_input else None,
            _of_weight(gradient, x, weight, ctx.stride, ctx.padding) if of_weight else None,
            None,
            None,
        )


def _of_input(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: Sequence[int]) -> Tensor:
    if stride > 1 and x.dtype is not torch.float32:
        shape_of = torch.empty_like(x, dtype=torch.float32)  # its values are not read
        exact = _backward(gradient.float(), shape_of, weight.float(), stride, padding, (True, False, False))[0]
        return exact.to(x.dtype)
    return _backward(gradient, x, weight, stride, padding, (True, False, False))[0]


def _of_weight(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: Sequence[int]) -> Tensor:
    """Of a kernel that is larger than FAST_KERNEL in overlapping tiles of that size, each a convolution of its own."""
    rows, columns = weight.shape[2:]
    if max(rows, columns) <= FAST_KERNEL or min(rows, columns) < FAST_KERNEL:
        return _backward(gradient, x, weight, stride, padding, (False, True, False))[1]
    whole, tile = torch.empty_like(weight), weight[:, :, :FAST_KERNEL, :FAST_KERNEL].contiguous()
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = ((size - 1) * stride + FAST_KERNEL for size in gradient.shape[2:])
    for i in _tiles(rows):
        for j in _tiles(columns):
            seen = padded[:, :, i : i + height, j : j + width]
            part = _backward(gradient, seen, tile, stride, (0, 0), (False, True, False))[1]
            whole[:, :, i : i + FAST_KERNEL, j : j + FAST_KERNEL] = part
    return whole


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: Sequence[int], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _convolution_backward(
        gradient, x, weight, None, [stride] * 2, list(padding), [1, 1], False, [0, 0], weight.shape[0], list(wanted)
    )
    return found


def _tiles(side: int) -> list[int]:
    """Where tiles of FAST_KERNEL begin that cover `side`, the last one at its end."""
    return [*range(0, side - FAST_KERNEL, FAST_KERNEL), side - FAST_KERNEL]


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return (
        layer.groups == layer.in_channels == layer.out_channels > 1
        and layer.dilation == (1, 1)
        and layer.stride[0] == layer.stride[1]
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def _pair(padding: Any) -> tuple[int, int]:
    height, width = padding
    return height, width
