"""Depthwise convolutions: torch's own numbers, by other kernels."""

import copy
import time

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from nasdistill.distill.compute import Compute
from nasdistill.distill.depthwise import DepthwiseConv2d, DepthwiseConv2dSame, speed_up_depthwise

FLOAT32, BFLOAT16 = (Compute(torch.device("cpu"), dtype) for dtype in (None, torch.bfloat16))
LAYERS = {
    "3x3": lambda: nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
    "3x3 at a stride": lambda: nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False),
    "5x5": lambda: nn.Conv2d(8, 8, 5, 1, 2, groups=8, bias=False),
    "5x5 at a stride": lambda: nn.Conv2d(8, 8, 5, 2, 2, groups=8),
    "7x7": lambda: nn.Conv2d(8, 8, 7, 1, 3, groups=8, bias=False),
    "8x8": lambda: nn.Conv2d(8, 8, 8, 1, 0, groups=8, bias=False),
    "11x11 at a stride of 3": lambda: nn.Conv2d(8, 8, 11, 3, 5, groups=8, bias=False),
    "5x3": lambda: nn.Conv2d(8, 8, (5, 3), 1, (2, 1), groups=8, bias=False),
    "7x1": lambda: nn.Conv2d(8, 8, (7, 1), 1, (3, 0), groups=8, bias=False),
    "timm's 3x3 at a stride": lambda: Conv2dSame(8, 8, 3, 2, groups=8, bias=False),
    "timm's 5x5 at a stride": lambda: Conv2dSame(8, 8, 5, 2, groups=8),
}


def gradients(layer: nn.Module, images: Tensor, compute: Compute) -> dict[str, Tensor]:
    """Of a weighted sum of the layer's output, by what it is taken; the output is `output`."""
    images = images.clone().requires_grad_()
    with compute.context():
        output = layer(images)
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    (output.float() * weights).sum().backward()
    return {"output": output, "input": images.grad} | {name: p.grad for name, p in layer.named_parameters()}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[request.param]()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 8, 14, 13, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )


def test_gradients_in_float32_are_those_of_torch(layer: nn.Module, images: Tensor) -> None:
    expected = gradients(copy.deepcopy(layer), images, FLOAT32)
    speed_up_depthwise(layer)
    assert isinstance(layer, DepthwiseConv2d | DepthwiseConv2dSame)
    found = gradients(layer, images, FLOAT32)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_bfloat16_is_within_its_rounding(layer: nn.Module, images: Tensor) -> None:
    """Which depends on the processor: without AVX512 torch itself sums the gradient of the input more roughly."""
    exact = gradients(copy.deepcopy(layer), images, FLOAT32)
    of_torch = gradients(copy.deepcopy(layer), images, BFLOAT16)
    found = gradients(BFLOAT16.place(layer), images, BFLOAT16)
    assert found["output"].dtype is torch.bfloat16
    for name, gradient in exact.items():
        wrong, wrong_in_torch = ((each[name] - gradient).abs().max() for each in (found, of_torch))
        assert wrong < 0.02 * gradient.abs().max() or wrong <= wrong_in_torch, name


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 16, 3, groups=8),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 8, 3, dilation=2, groups=8),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=8),
    ],
)
def test_other_convolutions_are_left_alone(other: nn.Module) -> None:
    speed_up_depthwise(other)
    assert type(other) is nn.Conv2d


def test_what_is_not_trained_is_left_to_torch(layer: nn.Module, images: Tensor) -> None:
    expected = layer(images)
    speed_up_depthwise(layer.eval())
    assert layer(images).grad_fn.name() == expected.grad_fn.name()
    assert torch.equal(layer(images), expected)


def test_a_frozen_weight_still_hands_a_gradient_on(images: Tensor) -> None:
    layer = nn.Conv2d(8, 8, 5, 2, 2, groups=8, bias=False)
    speed_up_depthwise(layer.requires_grad_(False))
    images.requires_grad_()
    layer(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert layer.weight.grad is None


@pytest.mark.slow
@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="bfloat16 is emulated here")
def test_a_5x5_at_a_stride_is_faster_than_by_torch() -> None:
    seconds = {}
    for faster in (False, True):
        layer = nn.Conv2d(288, 288, 5, 2, 2, groups=288, bias=False)
        if faster:
            speed_up_depthwise(layer)
        images = torch.randn(8, 288, 16, 16).contiguous(memory_format=torch.channels_last)
        gradients(layer, images, BFLOAT16)
        started = time.process_time()
        for _ in range(5):
            gradients(layer, images, BFLOAT16)
        seconds[faster] = time.process_time() - started
    assert seconds[True] < seconds[False] / 2
