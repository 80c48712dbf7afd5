"""Convolutions with a kernel of their own for each image, mixed from several; and a small backbone of them.

Chen et al., Dynamic Convolution: Attention over Convolution Kernels, CVPR 2020. The softmax over kernels has a temperature
that starts high, so that all kernels learn at first (sect. 3.2), and falls linearly to 1 (sect. 4, "softmax temperature").
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import CondConv2d
from timm.layers.padding import pad_same_arg
from torch import Tensor, nn

from nasdistill.space.rounding import channels_of

STAGE_CHANNELS = (32, 64, 128, 256)  # at strides 4, 8, 16, 32, width 1
STEM_CHANNELS = 16
REDUCTION = 4  # of the attention's hidden layer
ANNEALED = 0.5
"""The share of a training after which the temperature is 1. The paper takes 10 of its 100 to 300 epochs; students here
train for minutes, from where all kernels are alike."""


class DynamicConv2d(nn.Module):
    """A convolution whose kernel is the mixture of `experts` kernels, weighted by attention over the input.

    kernel(x) = sum over k of softmax(attention(mean over space of x) / temperature)_k * kernel_k (eq. 2 to 4), without bias:
    a BatchNorm follows. Each image of a batch has a kernel of its own.
    """

    def __init__(self, inputs: int, outputs: int, experts: int, temperature: float, kernel_size: int = 1) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        shape = (
            outputs,
            inputs,
            kernel_size,
            kernel_size,
        )  # a parameter each: slices and channels_last need four dimensions
        self.kernels = nn.ParameterList(nn.Parameter(torch.empty(shape)) for _ in range(experts))
        for kernel in self.kernels:
            nn.init.kaiming_normal_(kernel, mode="fan_out", nonlinearity="relu")
        hidden = max(4, inputs // REDUCTION)
        self.attention = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, experts))
        self.temperature = self.first_temperature = temperature

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, inputs, h, w) to (b, outputs, h, w)."""
        kernels = torch.stack(list(self.kernels))
        mixture_bk = F.softmax(self.attention(x.mean(dim=(2, 3))).float() / self.temperature, dim=1)
        weight = (mixture_bk.to(kernels.dtype) @ kernels.flatten(1)).view(-1, *self.kernels[0].shape)
        return convolve_each(x, weight.to(x.dtype), padding=self.padding)


class CondConv(CondConv2d):
    """timm's CondConv2d (Yang et al., NeurIPS 2019) with shapes that the ONNX exporter can follow; weights are the same."""

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """Map (b, inputs, h, w), with routing weights (b, experts), to (b, outputs, h / stride, w / stride)."""
        weight = torch.matmul(routing_weights, self.weight).view(-1, *self.weight_shape)
        if self.dynamic_padding:
            sides = [int(side) for side in x.shape[2:]]
            x = F.pad(x, pad_same_arg(sides, self.kernel_size, self.stride, self.dilation))
        padding = (0, 0) if self.dynamic_padding else self.padding
        return convolve_each(x, weight.to(x.dtype), self.stride, padding, self.dilation, self.groups)


def convolve_each(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] | int = 0,
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve each image of x (b, inputs, h, w) with its own kernel of weight (b, outputs, inputs / groups, kh, kw).

    All at once, the images as groups of one convolution. Sizes are plain numbers, so that an export has them as constants.
    """
    batch, inputs, height, width = (int(side) for side in x.shape)
    outputs, *kernel = (int(side) for side in weight.shape[1:])
    kernels = weight.reshape(batch * outputs, *kernel)
    found = F.conv2d(
        x.reshape(1, batch * inputs, height, width), kernels, None, stride, padding, dilation, groups * batch
    )
    return found.view(batch, outputs, int(found.shape[2]), int(found.shape[3]))


class DynamicBlock(nn.Module):
    """Depthwise 3x3, then a dynamic 1x1 convolution, each with BatchNorm and ReLU; a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, experts: int, temperature: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pointwise = DynamicConv2d(inputs, outputs, experts, temperature)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, inputs, h, w) to (b, outputs, h / stride, w / stride)."""
        y = F.relu(self.norm1(self.depthwise(x)))
        y = F.relu(self.norm2(self.pointwise(y)))
        return x + y if self.shortcut else y


class DynamicBackbone(nn.Module):
    """A stem and four stages of dynamic blocks; returns the maps at strides 8, 16 and 32."""

    def __init__(self, width: float, depth: int, experts: int, temperature: float) -> None:
        super().__init__()
        counts = [channels_of(count, width) for count in (STEM_CHANNELS, *STAGE_CHANNELS)]
        self.stem = nn.Sequential(nn.Conv2d(3, counts[0], 3, 2, 1, bias=False), nn.BatchNorm2d(counts[0]), nn.ReLU())
        stages = [
            nn.Sequential(
                *(
                    DynamicBlock(inputs if index == 0 else outputs, outputs, 2 - min(index, 1), experts, temperature)
                    for index in range(depth)
                )
            )
            for inputs, outputs in zip(counts, counts[1:], strict=False)
        ]
        self.stages = nn.ModuleList(stages)
        self.channels: tuple[int, ...] = tuple(counts[2:])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images (b, 3, s, s) to three maps (b, c_l, s / stride_l, s / stride_l)."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]


def annealer(model: nn.Module) -> Callable[[float], None]:
    """A function that sets the temperature of all dynamic convolutions of `model` by progress through training, 0..1.

    From each convolution's first temperature, linearly, to 1 at ANNEALED. For models without any it does nothing.
    """
    found = [module for module in model.modules() if isinstance(module, DynamicConv2d)]

    def anneal(progress: float) -> None:
        rest = max(0.0, 1.0 - progress / ANNEALED)
        for module in found:
            module.temperature = 1.0 + (module.first_temperature - 1.0) * rest

    return anneal
