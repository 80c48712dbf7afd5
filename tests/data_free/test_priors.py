"""The losses that say what an image must be like, against their definitions written out slowly."""

import pytest
import torch
from small import images_of, small_teacher
from torch import Tensor, nn

from nasdistill.data_free.priors import NormStatistics, grey_distance, statistics_distance, total_variation


def slow_distance(inputs: Tensor, mean_c: Tensor, variance_c: Tensor, eps: float) -> Tensor:
    """The definition, a channel at a time."""
    parts = []
    for channel in range(inputs.shape[1]):
        values = inputs[:, channel].flatten()
        given = (variance_c[channel] + eps).sqrt()
        own = (values.var() + eps).sqrt()
        parts.append(((values.mean() - mean_c[channel]) / given) ** 2 + (own / given - 1) ** 2)
    return torch.stack(parts).mean()


def test_the_distance_is_its_definition_and_so_is_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(6, generator=generator) + 5, torch.rand(6, generator=generator) + 0.5
    values = torch.randn(4, 6, 8, 8, generator=generator) * 3 + 5
    fast, slow = values.clone().requires_grad_(), values.clone().requires_grad_()
    found, expected = (
        statistics_distance(fast, mean, variance, 1e-3),
        slow_distance(slow, mean, variance, 1e-3),
    )
    found.backward(), expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert fast.grad is not None and slow.grad is not None
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-4, atol=1e-7)


def test_it_is_zero_for_a_batch_that_has_exactly_those_statistics_and_for_no_other() -> None:
    norm = nn.BatchNorm2d(5, momentum=1.0)
    batch = torch.randn(3, 5, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 - 7
    norm.train()(batch)  # with momentum 1 it remembers this batch alone
    assert norm.running_mean is not None and norm.running_var is not None
    exact = statistics_distance(batch, norm.running_mean, norm.running_var, norm.eps).item()
    assert exact == pytest.approx(0.0, abs=1e-9)
    assert statistics_distance(batch + 0.2, norm.running_mean, norm.running_var, norm.eps).item() > 1e-3
    assert statistics_distance(batch * 1.1, norm.running_mean, norm.running_var, norm.eps).item() > 1e-3


def test_bfloat16_is_close_and_constant_channels_are_no_trouble() -> None:
    batch = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(2)) + 3
    mean, variance = torch.full((4,), 2.5), torch.full((4,), 1.5)
    exact = statistics_distance(batch, mean, variance, 1e-3)
    assert statistics_distance(batch.bfloat16(), mean, variance, 1e-3).item() == pytest.approx(exact.item(), rel=0.05)
    flat = torch.zeros(2, 4, 4, 4, requires_grad=True)
    statistics_distance(flat, mean, variance, 1e-3).backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_every_norm_of_a_teacher_is_watched_only_within_the_block() -> None:
    model = small_teacher().model
    statistics = NormStatistics(model)
    assert len(statistics) == sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    images = images_of(count=2, size=64).requires_grad_()
    with statistics.watching():
        model(images)
    statistics.loss().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    model(images)
    with pytest.raises(RuntimeError):  # nothing was seen since
        statistics.loss()


def test_variation_and_grey_by_hand() -> None:
    assert total_variation(torch.full((1, 3, 4, 4), 0.3)).item() == 0.0
    step = torch.zeros(1, 1, 2, 3)
    step[..., 2] = 1.0  # one of two steps to the right is 1, none of those below
    assert total_variation(step).item() == pytest.approx(0.5)
    assert grey_distance(torch.tensor([0.5, 1.0]).view(1, 1, 1, 2)).item() == pytest.approx(0.125)
