"""Warming a family: the supernet and its members learn together."""

import copy
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, NAMES, small_feed, small_teacher

from nasdistill.distill import warm as warming
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Batch, Feed
from nasdistill.distill.objective import DistillationLoss, LossWeights
from nasdistill.distill.warm import warm_supernet
from nasdistill.errors import DeadlineReachedError
from nasdistill.students.families import build_student
from nasdistill.students.slicing import load_slice
from nasdistill.students.student import Student

CHANNELS = (32, 64, 128)
LARGE, MIDDLE, SMALL = ({"depth": 0.33, "width": width} for width in (0.1875, 0.125, 0.0625))


@pytest.fixture(scope="module")
def feed(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return small_feed(demo_yaml, tmp_path_factory.mktemp("warm"), small_teacher())


def family() -> tuple[Student, list[Student]]:
    """A supernet and two members, smallest first."""
    return build_student("yolov5", LARGE, NAMES), [build_student("yolov5", arch, NAMES) for arch in (SMALL, MIDDLE)]


def response_loss(student: Student, feed: Feed) -> float:
    """Loss against the teacher's responses and the labels on one fixed batch, in training mode, nothing changed."""
    student = copy.deepcopy(student)
    student.model.train()
    batch = feed.batch(np.arange(12), CPU.device)
    criterion = DistillationLoss(student, Connectors(student.pyramid_channels, CHANNELS))
    with torch.no_grad():
        parts = criterion(
            student.model(batch.images), batch.targets, batch.labels, LossWeights(feature=0.0, label=1.0), 2.0
        )
    return float(parts["total"])


def warm(supernet: Student, members: list[Student], feeds: list[Feed], steps: int, **options: object) -> int:
    torch.manual_seed(0)
    return warm_supernet(supernet, members, CHANNELS, feeds, steps, 2e-2, CPU, seed=0, batch_size=8, **options)


def test_supernet_and_members_learn(feed: Feed) -> None:
    supernet, members = family()

    def losses() -> list[float]:
        for member in members:
            load_slice(supernet.model.state_dict(), supernet.model, member.model)
        return [response_loss(student, feed) for student in (supernet, *members)]

    before, progress = losses(), []
    assert warm(supernet, members, [feed], 30, on_progress=progress.append) == 30
    after = losses()
    assert all(late < 0.92 * early for early, late in zip(before, after, strict=True)), (before, after)
    assert len(progress) == 30 and progress == sorted(progress) and progress[-1] < 1


def test_a_members_turn_only_touches_what_it_has(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels that the member lacks wait, and the supernet's own statistics are not touched by it."""
    supernet, members = family()
    warm(supernet, members[:1], [feed], 1)
    parameters = dict(supernet.model.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    statistics = {name: tensor.clone() for name, tensor in supernet.model.named_buffers()}
    monkeypatch.setattr(warming, "_turn", lambda step, tried, chooser: tried[0])
    warm(supernet, members[:1], [feed], 1)
    width = members[0].model.model[0].conv.out_channels
    name = "model.0.conv.weight"
    assert not torch.equal(parameters[name][:width], before[name][:width])
    moved = (parameters[name][width:] - before[name][width:]).abs().max()
    assert moved <= 1e-5  # weight decay alone
    assert all(torch.equal(tensor, statistics[key]) for key, tensor in supernet.model.named_buffers())


@pytest.mark.parametrize("sizes", [2, 3])
def test_everyone_meets_every_size(feed: Feed, monkeypatch: pytest.MonkeyPatch, sizes: int) -> None:
    class Counting(Feed):
        label: int

        def batch(self, indices: np.ndarray, device: torch.device, strides: Sequence[int] | None = None) -> Batch:
            asked.append(self.label)
            return super().batch(indices, device, strides)

    def turn(step: int, tried: Sequence[warming.Member], chooser: random.Random) -> warming.Member | None:
        member = taken(step, tried, chooser)
        who.append(0 if member is None else 1 + tried.index(member))
        return member

    asked, who, feeds, taken = list[int](), list[int](), [], warming._turn
    for label in range(sizes):
        counting = Counting(feed.views, feed.targets)
        object.__setattr__(counting, "label", label)
        feeds.append(counting)
    monkeypatch.setattr(warming, "_turn", turn)
    supernet, members = family()
    torch.manual_seed(0)
    steps = 8 * sizes
    assert warm_supernet(supernet, members, CHANNELS, feeds, steps, 2e-2, CPU, seed=0, batch_size=2) == steps
    assert asked == list(range(sizes)) * 8
    assert set(zip(who, asked, strict=True)) == {(one, size) for one in range(3) for size in range(sizes)}


def test_a_gradient_that_is_not_finite_changes_nothing(feed: Feed) -> None:
    """One bad step must not spoil a lineage for all its trials: the file would stay in the cache."""
    supernet, members = family()
    weight = supernet.model.model[0].conv.weight
    asked = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        asked.append(len(asked))
        return gradient * float("inf") if len(asked) == 2 else gradient

    weight.register_hook(spoil)
    assert warm(supernet, members, [feed], 4) == 3
    assert all(torch.isfinite(tensor).all() for tensor in supernet.model.state_dict().values())


def test_the_clock_ends_it(feed: Feed) -> None:
    supernet, members = family()
    assert 0 < warm(supernet, members, [feed], 10_000, seconds=1.0) < 10_000


def test_a_stop_is_heard(feed: Feed) -> None:
    supernet, members = family()
    with pytest.raises(DeadlineReachedError, match="warming"):
        warm(supernet, members, [feed], 5, should_stop=lambda: True)


def test_the_same_seed_gives_the_same_supernet(feed: Feed) -> None:
    states = []
    for _ in range(2):
        supernet, members = family()
        warm(supernet, members, [feed], 4)
        states.append(supernet.model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
