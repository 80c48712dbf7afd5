"""Dynamic convolution against one convolution an image, its mixture, and the temperature that falls."""

import pytest
import torch
import torch.nn.functional as F
from small import NAMES, images_of
from timm.layers import CondConv2d

from nasdistill.students.dynamic_conv import ANNEALED, CondConv, DynamicConv2d, annealer
from nasdistill.students.families import build_student


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_each_image_has_the_mixture_of_kernels_that_its_attention_says(kernel_size: int) -> None:
    torch.manual_seed(0)
    layer, x = DynamicConv2d(6, 5, experts=3, temperature=2.0, kernel_size=kernel_size), torch.randn(4, 6, 7, 7)
    found = layer(x)
    for image in range(4):
        hidden = F.relu(layer.attention[0](x[image].mean(dim=(1, 2))))
        mixture = torch.softmax(layer.attention[2](hidden) / 2.0, dim=0)
        kernel = sum(share * kernel for share, kernel in zip(mixture, layer.kernels, strict=True))
        expected = F.conv2d(x[image : image + 1], kernel, padding=kernel_size // 2)[0]
        assert torch.allclose(found[image], expected, atol=1e-5)
    found.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_a_high_temperature_uses_all_kernels_alike() -> None:
    torch.manual_seed(0)
    layer, x = DynamicConv2d(6, 5, experts=4, temperature=1e6), torch.randn(2, 6, 5, 5)
    assert torch.allclose(layer(x), F.conv2d(x, sum(layer.kernels) / 4), atol=1e-4)
    layer.temperature = 1.0
    assert not torch.allclose(layer(x), F.conv2d(x, sum(layer.kernels) / 4), atol=1e-3)


def test_the_temperature_falls_to_one_in_training() -> None:
    arch = {"width": 0.5, "depth": 1, "experts": 2, "temperature": 31.0, "neck": 16}
    model = build_student("dynamicconv", arch, NAMES).model
    anneal = annealer(model)
    layers = [module for module in model.modules() if isinstance(module, DynamicConv2d)]
    seen = []
    for progress in (0.0, ANNEALED / 2, ANNEALED, 1.0):
        anneal(progress)
        assert len({layer.temperature for layer in layers}) == 1
        seen.append(layers[0].temperature)
    assert seen == [31.0, 16.0, 1.0, 1.0]
    annealer(build_student("yolov5", {"depth": 0.33, "width": 0.0625}, NAMES).model)(0.5)  # none there: nothing happens


@pytest.mark.parametrize("stride", [1, 2])
def test_our_condconv_computes_what_timms_does(stride: int) -> None:
    torch.manual_seed(0)
    theirs = CondConv2d(8, 8, 3, stride=stride, padding="same", groups=4, num_experts=3)
    x, routing = images_of(0, 9, 2)[:, :1].expand(2, 8, 9, 9) + torch.randn(2, 8, 1, 1), torch.rand(2, 3)
    expected = theirs(x, routing)
    theirs.__class__ = CondConv
    assert torch.allclose(theirs(x, routing), expected, atol=1e-5)
