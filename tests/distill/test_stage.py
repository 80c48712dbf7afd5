"""A stage: what is frozen stays, the loss falls, a broken or late one ends as it should, a seed says all."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, NAMES, SIZE, small_feed, small_teacher, tiny_student
from torch import nn

from nasdistill.distill.compute import Compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import LossWeights
from nasdistill.distill.optimizers import parameter_groups
from nasdistill.distill.stage import (
    FINAL_LR_SHARE,
    Stage,
    StageRun,
    StageTraining,
    learning_rate_share,
    set_trainable,
)
from nasdistill.errors import DeadlineReachedError, TrialError
from nasdistill.students.dynamic_conv import DynamicConv2d
from nasdistill.students.families import build_student
from nasdistill.students.student import Student
from nasdistill.teacher.forms import TargetForm

CHANNELS = (32, 64, 128)


@pytest.fixture(scope="module")
def feed(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return small_feed(demo_yaml, tmp_path_factory.mktemp("stage"), small_teacher(), form=TargetForm(levels=5))


def train(
    student: Student,
    feed: Feed,
    steps: int = 15,
    freeze: bool = False,
    weights: LossWeights | None = None,
    rate: float = 2e-3,
    compute: Compute = CPU,
    should_stop: Callable[[], bool] = lambda: False,
    connectors: Connectors | None = None,
    batch_size: int = 8,
) -> StageRun:
    torch.manual_seed(0)
    connectors = connectors or Connectors(student.pyramid_channels, CHANNELS)
    compute.place(student.model)
    compute.place(connectors)
    stage = Stage("stage 7", steps, rate, weights or LossWeights(label=1.0), freeze, 0, steps, batch_size)
    return StageTraining(
        student, connectors, feed, stage, lambda progress: 2.0, compute, seed=3, should_stop=should_stop
    ).run()


def state_of(modules: list[nn.Module]) -> list[torch.Tensor]:
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


@pytest.mark.parametrize("family", ["yolov5", "mobilenetv3"])
def test_a_frozen_backbone_stays_bit_for_bit_and_the_rest_moves(family: str, feed: Feed) -> None:
    student = tiny_student(family)
    backbone, rest = student.backbone(), list(student.model.model[student.backbone_layers :])
    connectors = Connectors(student.pyramid_channels, CHANNELS)
    before, rest_before, bridge = state_of(backbone), state_of(rest), state_of([connectors])
    train(student, feed, steps=3, freeze=True, connectors=connectors)
    assert all(map(torch.equal, state_of(backbone), before))
    changed = [not torch.equal(*pair) for pair in zip(state_of(rest), rest_before, strict=True)]
    assert sum(changed) >= len(changed) - 1  # all but the fixed bins of the DFL
    assert not any(map(torch.equal, state_of([connectors]), bridge))


def test_a_free_backbone_moves_and_the_bins_stay(feed: Feed) -> None:
    student = tiny_student()
    before, bins = state_of(student.backbone()), student.head.dfl.conv.weight.clone()
    train(student, feed, steps=2)
    assert not any(map(torch.equal, state_of(student.backbone()), before))
    assert torch.equal(student.head.dfl.conv.weight, bins)


def test_a_freeze_is_lifted_by_the_next_stage() -> None:
    student = tiny_student()
    set_trainable(student, True)
    assert not any(parameter.requires_grad for layer in student.backbone() for parameter in layer.parameters())
    set_trainable(student, False)
    assert all(parameter.requires_grad for layer in student.backbone() for parameter in layer.parameters())
    assert all(layer.training for layer in student.backbone())


@pytest.mark.parametrize(
    ("weights", "share"), [(LossWeights(), 0.9), (LossWeights(feature=0.0, cls=0.0, box=0.0, label=1.0), 0.6)]
)
def test_every_part_of_the_loss_falls(feed: Feed, weights: LossWeights, share: float) -> None:
    student = tiny_student()
    first = train(copy.deepcopy(student), feed, steps=1, rate=1e-9, weights=weights).losses
    last = train(student, feed, steps=25, rate=2e-2, weights=weights).losses
    assert set(last) == set(first) == ({"feature", "cls", "box", "total"} if weights.cls else {"label", "total"})
    assert all(last[name] < share * first[name] for name in last), (first, last)


@pytest.mark.parametrize("steps", [1, 11])
def test_even_the_shortest_stage_says_its_losses(feed: Feed, steps: int) -> None:
    assert train(tiny_student(), feed, steps=steps, rate=1e-4).losses["total"] > 0


def test_a_stage_of_no_steps_changes_nothing(feed: Feed) -> None:
    student = tiny_student()
    before = state_of([student.model])
    assert train(student, feed, steps=0).losses == {}
    assert all(map(torch.equal, state_of([student.model]), before))


def test_the_same_seed_gives_the_same_weights(feed: Feed) -> None:
    students = [tiny_student() for _ in range(2)]
    for student in students:
        train(student, feed, steps=3)
    assert all(map(torch.equal, *(state_of([student.model]) for student in students)))


class TestBrokenTrials:
    """Values that are not finite make a failed trial, never a scored one."""

    def test_a_loss_that_is_not_finite(self, feed: Feed) -> None:
        student = tiny_student()
        student.head.cv3[0][-1].bias.data[0] = math.nan
        with pytest.raises(TrialError, match="the loss became nan in stage 7 at step 0"):
            train(student, feed, steps=2)

    def test_a_rate_that_explodes(self, feed: Feed) -> None:
        with pytest.raises(TrialError, match="stage 7"):
            train(tiny_student(), feed, steps=8, rate=1e30)

    def test_statistics_that_training_does_not_read(self, feed: Feed) -> None:
        student = tiny_student()
        student.model.model[0].bn.running_var[0] = math.inf
        with pytest.raises(TrialError, match=r"stage 7 left values .* model\.0\.bn\.running_var"):
            train(student, feed, steps=1)

    def test_a_gradient_that_is_not_finite(self, feed: Feed) -> None:
        student = tiny_student()
        student.model.model[0].conv.weight.register_hook(lambda gradient: gradient * math.inf)
        with pytest.raises(TrialError, match="the gradient is not finite in stage 7 at step 0"):
            train(student, feed, steps=2)

    def test_the_budget_ends_in_the_middle(self, feed: Feed) -> None:
        asked = []

        def third_time() -> bool:
            asked.append(1)
            return len(asked) == 3

        with pytest.raises(DeadlineReachedError, match="stage 7 at step 2 of 5"):
            train(tiny_student(), feed, steps=5, should_stop=third_time)


def test_bfloat16_trains_as_well_and_keeps_float32_weights(feed: Feed) -> None:
    half = Compute(torch.device("cpu"), torch.bfloat16)
    for family in ("yolov5", "mobilenetv3"):
        exact, rounded = tiny_student(family), tiny_student(family)
        expected = train(exact, feed, steps=3, rate=1e-4).losses
        got = train(rounded, feed, steps=3, rate=1e-4, compute=half).losses
        assert got["total"] == pytest.approx(expected["total"], rel=0.03)
        assert {parameter.dtype for parameter in rounded.model.parameters()} == {torch.float32}


def test_float16_leaves_out_steps_that_overflow_and_trains_on(feed: Feed) -> None:
    """Both optimisers wait: what overflows in the gradient of one would be clipped into the other's weights."""
    student, half = tiny_student(), Compute(torch.device("cpu"), torch.float16)
    adamws, muons = student.model.model[1].bn.bias, student.model.model[1].conv.weight
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def overflow_now_and_then(gradient: torch.Tensor) -> torch.Tensor:
        seen.append((adamws.detach().clone(), muons.detach().clone()))
        return gradient * math.inf if len(seen) % 4 == 0 else gradient

    adamws.register_hook(overflow_now_and_then)
    train(student, feed, steps=9, compute=half, batch_size=4)
    assert all(torch.isfinite(tensor).all() for tensor in student.model.state_dict().values())
    moved = [tuple(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(seen)]
    assert set(moved) == {(True, True), (False, False)}
    assert not moved[3][0] and not moved[7][0]


def test_depthwise_layers_run_in_the_type_of_autocast() -> None:
    student = tiny_student("mobilenetv3")
    Compute(torch.device("cpu"), torch.bfloat16).place(student.model)
    seen = []
    for layer in student.model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student.model.train()(torch.rand(2, 3, 64, 64))
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    student.model(torch.rand(2, 3, 64, 64))
    assert set(seen) == {torch.float32}


class TestLearningRate:
    """A short warm-up, then a cosine fall."""

    @pytest.mark.parametrize("steps", [1, 5, 40, 1000])
    def test_rises_then_falls(self, steps: int) -> None:
        shares = [learning_rate_share(step, steps) for step in range(steps)]
        peak = shares.index(max(shares))
        assert all(0 < share <= 1 for share in shares)
        assert shares[:peak] == sorted(shares[:peak]) and shares[peak:] == sorted(shares[peak:], reverse=True)
        assert peak <= max(1, steps // 20)
        if steps >= 40:
            assert max(shares) == 1.0
            assert shares[-1] == pytest.approx(FINAL_LR_SHARE, abs=0.01)
        assert learning_rate_share(steps * 2, steps) == pytest.approx(FINAL_LR_SHARE)


def test_only_weights_of_more_than_one_dimension_decay() -> None:
    student = tiny_student()
    student.head.dfl.requires_grad_(False)
    decayed, plain = parameter_groups([student.model])
    assert decayed["weight_decay"] > 0 and plain["weight_decay"] == 0
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in plain["params"])
    trainable = [parameter for parameter in student.model.parameters() if parameter.requires_grad]
    assert len(decayed["params"]) + len(plain["params"]) == len(trainable)


class TestFeed:
    """Batches of the same indices from views, labels and targets."""

    def test_every_view_once_before_any_twice(self, feed: Feed) -> None:
        count = len(feed.views)
        drawn = np.concatenate(list(feed.indices(count // 4, 4, seed=1)))
        assert sorted(drawn) == list(range(count))
        again = np.concatenate(list(feed.indices(count // 4, 4, seed=1)))
        other = np.concatenate(list(feed.indices(count // 4, 4, seed=2)))
        assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)

    def test_a_batch_larger_than_the_pool(self, feed: Feed) -> None:
        (batch,) = feed.indices(1, len(feed.views) * 2 + 3, seed=0)
        assert len(batch) == len(feed.views) * 2 + 3
        assert set(batch) == set(range(len(feed.views)))

    def test_images_labels_and_targets_belong_together(self, feed: Feed) -> None:
        indices = np.array([2, 5, 11])
        batch = feed.batch(indices, CPU.device)
        assert batch.images.shape == (3, 3, SIZE, SIZE) and 0 <= batch.images.min() <= batch.images.max() <= 1
        for place, index in enumerate(indices):
            assert np.array_equal(np.rint(batch.images[place].numpy() * 255), feed.views.images[index])
            rows = batch.labels["batch_idx"] == place
            assert np.allclose(batch.labels["bboxes"][rows].numpy(), feed.views.boxes(index)[:, 1:])
            assert np.array_equal(
                batch.targets.logits_bac[place].numpy(), feed.targets.arrays["logits"][index].astype("f4")
            )

    def test_labels_alone(self, feed: Feed) -> None:
        assert Feed(feed.views, None).batch(np.array([0]), CPU.device).targets is None


@pytest.mark.parametrize(
    ("family", "arch"),
    [
        ("yolo26", {"depth": 0.5, "width": 0.0625, "levels": 4}),
        ("mobilenetv3", {"variant": "small_050", "neck": 16, "levels": 4, "neck_type": "light"}),
        ("dynamicconv", {"width": 0.25, "depth": 1, "experts": 2, "neck": 16}),
    ],
)
def test_two_branches_more_levels_and_falling_temperatures_train_too(family: str, arch: dict, feed: Feed) -> None:
    """Every part of the loss, from targets at the student's own levels."""
    student = build_student(family, arch, NAMES)
    branch = student.head.one2one_cv3[0][-1].weight if family == "yolo26" else None
    before = None if branch is None else branch.detach().clone()
    run = train(student, feed, steps=3)
    assert set(run.losses) == {"feature", "cls", "box", "label", "total"}
    assert all(math.isfinite(loss) for loss in run.losses.values())
    if before is not None and branch is not None:
        assert not torch.equal(before, branch), "labels teach the branch that is deployed"
    assert all(m.temperature == 1.0 for m in student.model.modules() if isinstance(m, DynamicConv2d))


def test_a_student_of_three_levels_reads_nothing_of_the_coarser_ones(feed: Feed) -> None:
    indices = np.arange(2)
    targets = feed.batch(indices, CPU.device, (8, 16, 32)).targets
    assert (
        targets is not None and targets.logits_bac.shape[1] == (SIZE // 8) ** 2 + (SIZE // 16) ** 2 + (SIZE // 32) ** 2
    )
    everything = feed.batch(indices, CPU.device).targets
    assert everything is not None and everything.logits_bac.shape[1] == targets.logits_bac.shape[1] + 4 + 1


def test_a_stage_gone_on_with_has_the_temperature_of_where_it_was_left(feed: Feed) -> None:
    """It is none of the weights, and what is scored or pruned then depends on it."""
    arch = {"width": 0.25, "depth": 1, "experts": 2, "neck": 16}
    left = []
    for trained in (True, False):
        student = build_student("dynamicconv", arch, NAMES)
        connectors = Connectors(student.pyramid_channels, CHANNELS)
        stage = Stage("stage 7", 2, 1e-3, LossWeights(label=1.0), True, 0, 5, batch_size=4)
        training = StageTraining(student, connectors, feed, stage, lambda progress: 2.0, CPU, seed=3)
        if trained:
            training.run()
        else:
            training.go_on_from(2)
        left.append({m.temperature for m in student.model.modules() if isinstance(m, DynamicConv2d)})
    assert left[0] == left[1] and max(left[0]) < 30.0
