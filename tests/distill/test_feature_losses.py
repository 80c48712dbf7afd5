"""Each feature loss against a slow twin, cell by cell; nothing when the maps agree; one contract for all of them."""

import math
from collections.abc import Callable

import pytest
import torch

from nasdistill.distill.connectors import Connectors
from nasdistill.distill.losses import feature

Maps = list[torch.Tensor]


def some(*shape: int, seed: int = 0, gain: float = 2.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * gain


def levels(seed: int = 0) -> Maps:
    return [some(3, 5, 4, 4, seed=seed), some(3, 6, 2, 2, seed=seed + 10)]


SCORES = [torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(3)), torch.rand(3, 2, 2)]
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "channel": lambda s, t, w=None: feature.channel_attention(s, [m.mean(dim=(2, 3)) for m in t], w),
    "spatial": lambda s, t, w=None: feature.spatial_attention(
        [m.mean(dim=1) for m in s], [m.mean(dim=1) for m in t], w
    ),
    "cwd": feature.cwd,
    "pkd": feature.pkd,
    "mgd": feature.mgd,
    "score_weighted": lambda s, t, w=None: feature.score_weighted_l2(s, t, SCORES, w),
}


@pytest.mark.parametrize("name", LOSSES)
class TestContract:
    """What every feature loss promises."""

    def test_nothing_when_they_agree_and_more_when_they_do_not(self, name: str) -> None:
        teacher, noise = levels(), levels(7)
        near = [t + 0.05 * n for t, n in zip(teacher, noise, strict=True)]
        far = [t + 0.5 * n for t, n in zip(teacher, noise, strict=True)]
        loss = LOSSES[name]
        assert loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
        assert 0 < loss(near, teacher) < loss(far, teacher)

    def test_only_the_student_gets_a_gradient_and_half_maps_are_widened(self, name: str) -> None:
        student = [maps.requires_grad_(True) for maps in levels()]
        loss = LOSSES[name](student, [maps.half() for maps in levels(4)])
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(maps.grad is not None and maps.grad.abs().sum() > 0 for maps in student)

    def test_images_weigh_as_told(self, name: str) -> None:
        student, teacher = levels(), levels(4)
        assert LOSSES[name](student, teacher, torch.ones(3)).item() == pytest.approx(
            LOSSES[name](student, teacher).item(), rel=1e-6
        )
        assert LOSSES[name](student, teacher, torch.zeros(3)).item() == 0.0
        parts = [LOSSES[name](student, teacher, torch.eye(3)[image]).item() for image in range(3)]
        assert sum(parts) == pytest.approx(LOSSES[name](student, teacher).item(), rel=1e-5)
        assert len({round(part, 6) for part in parts}) == 3

    def test_memory_layout_does_not_matter(self, name: str) -> None:
        student, teacher = levels(), levels(4)
        other = [maps.contiguous(memory_format=torch.channels_last) for maps in student]
        assert LOSSES[name](student, teacher).item() == pytest.approx(LOSSES[name](other, teacher).item(), rel=1e-5)

    def test_a_silent_teacher_does_not_blow_up(self, name: str) -> None:
        assert math.isfinite(LOSSES[name](levels(), [torch.zeros_like(maps) for maps in levels()]).item())


@pytest.mark.parametrize("name", ["channel", "spatial", "pkd", "mgd", "score_weighted"])
def test_the_teachers_scale_does_not_matter(name: str) -> None:
    student, teacher = levels(), levels(4)
    large = LOSSES[name]([100 * maps for maps in student], [100 * maps for maps in teacher])
    assert large.item() == pytest.approx(LOSSES[name](student, teacher).item(), rel=1e-4)


class TestAgainstLoops:
    """Slow twins, written from the papers."""

    def test_channel_attention(self) -> None:
        maps, targets = levels(), [some(3, 5, seed=1), some(3, 6, seed=2)]
        found = []
        for map_bchw, target_bc in zip(maps, targets, strict=True):
            squares, energy = [], []
            for image in range(3):
                for channel in range(map_bchw.shape[1]):
                    mean = sum(map_bchw[image, channel].flatten().tolist()) / map_bchw[image, channel].numel()
                    squares.append((mean - float(target_bc[image, channel])) ** 2)
                    energy.append(float(target_bc[image, channel]) ** 2)
            found.append(sum(squares) / sum(energy))
        assert feature.channel_attention(maps, targets).item() == pytest.approx(sum(found) / 2, rel=1e-5)

    def test_cbam_is_seven_to_three(self) -> None:
        assert feature.cbam_attention(torch.tensor(2.0), torch.tensor(5.0)).item() == pytest.approx(0.7 * 2 + 0.3 * 5)

    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_cwd(self, temperature: float) -> None:
        student, teacher = levels(), levels(4)
        found = []
        for ours, theirs in zip(student, teacher, strict=True):
            total = 0.0
            for image in range(3):
                for channel in range(ours.shape[1]):
                    p = torch.softmax(theirs[image, channel].double().flatten() / temperature, dim=0)
                    q = torch.softmax(ours[image, channel].double().flatten() / temperature, dim=0)
                    total += float((p * (p.log() - q.log())).sum())
            found.append(temperature**2 * total / 3 / ours.shape[1])
        assert feature.cwd(student, teacher, None, temperature).item() == pytest.approx(sum(found) / 2, rel=1e-5)

    def test_pkd_is_one_minus_pearson(self) -> None:
        student, teacher = levels(), levels(4)
        found = []
        for ours, theirs in zip(student, teacher, strict=True):
            pairs = [(ours[:, c].flatten(), theirs[:, c].flatten()) for c in range(ours.shape[1])]
            found.append(sum(1 - float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs) / len(pairs))
        assert feature.pkd(student, teacher).item() == pytest.approx(sum(found) / 2, rel=1e-4)

    def test_score_weighted(self) -> None:
        student, teacher = levels(), levels(4)
        found = []
        for ours, theirs, score in zip(student, teacher, SCORES, strict=True):
            distance, energy = 0.0, 0.0
            for image in range(3):
                for row in range(ours.shape[2]):
                    for column in range(ours.shape[3]):
                        share = float(score[image, row, column])
                        o, t = ours[image, :, row, column], theirs[image, :, row, column]
                        distance += share * float((o - t).square().sum())
                        energy += share * float(t.square().sum())
            found.append(distance / energy)
        assert feature.score_weighted_l2(student, teacher, SCORES).item() == pytest.approx(sum(found) / 2, rel=1e-4)


class TestConnectors:
    """From the student's channels to the teacher's, with short cuts that must agree with the long way."""

    @pytest.mark.parametrize("kind", ["conv", "conv_bn"])
    def test_short_cuts_are_the_means_of_the_connected_maps(self, kind: str) -> None:
        torch.manual_seed(0)
        connectors = Connectors((3, 5), (4, 6), kind)
        maps = [some(2, 3, 8, 8), some(2, 5, 4, 4)]
        connected = connectors(maps)
        for pooled, whole in zip(connectors.over_space(maps), connected, strict=True):
            assert pooled.shape == (*whole.shape[:2], 1, 1)
            assert torch.allclose(pooled[..., 0, 0], whole.mean(dim=(2, 3)), atol=1e-5)
        for spatial, whole in zip(connectors.over_channels(maps), connected, strict=True):
            assert torch.allclose(spatial, whole.mean(dim=1), atol=1e-5)

    def test_norms_standardise(self) -> None:
        (maps,) = Connectors((3,), (4,), "conv_bn")([some(8, 3, 8, 8, gain=30.0)])
        assert torch.allclose(maps.std(dim=(0, 2, 3)), torch.ones(4), atol=0.01)

    def test_generators_see_only_what_is_kept(self) -> None:
        torch.manual_seed(0)
        connectors = Connectors((3,), (4,), generators=True)
        connected = [some(2, 4, 6, 6)]
        keep = feature.keep_mask(connected[0])
        assert keep.shape == (2, 1, 6, 6) and set(keep.unique().tolist()) == {0.0, 1.0}
        other = [connected[0] + some(2, 4, 6, 6, seed=5) * (1 - keep)]
        assert torch.equal(connectors.generated(connected, [keep])[0], connectors.generated(other, [keep])[0])
        assert connectors.generated(connected, [keep])[0].shape == (2, 4, 6, 6)

    def test_about_two_thirds_are_masked(self) -> None:
        torch.manual_seed(0)
        assert feature.keep_mask(torch.zeros(4, 1, 64, 64)).mean().item() == pytest.approx(
            1 - feature.MGD_MASKED, abs=0.02
        )
