"""The pools of a run on disk: what a space needs and no more, filled once, made whole again after damage."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, small_teacher

from nasdistill.config import TrainingSettings
from nasdistill.prepare.inputs import Inputs
from nasdistill.prepare.needs import needs_of
from nasdistill.prepare.pools import (
    POLICIES,
    PoolPlan,
    plan_pools,
    pool_size,
    seal,
    target_tasks,
    view_tasks,
)
from nasdistill.space.parse import parse_space
from nasdistill.teacher import cache as chunks
from nasdistill.teacher.forms import TargetForm

TRAINING = TrainingSettings(views_per_image=1, max_views=12, precision="float32")
SPACE = "name: a\nfamilies: {yolov5: {depth: 0.33, width: 0.0625}}\nimage_size: [64, 96]\n"


def fill(inputs: Inputs, plans: list[PoolPlan], workers: int = 1) -> int:
    """Do all work in this process; returns the teacher's passes."""
    own = next(plan for plan in plans if plan.image_size == inputs.teacher_size)
    for task in view_tasks(plans, inputs.dataset.names, 0):
        task(lambda text: None)
    tasks = target_tasks(plans, own, inputs.teacher, inputs.class_order, TRAINING, workers)
    passes = sum(task(lambda text: None) for task in tasks)
    seal(plans, inputs.teacher)
    return passes


def test_maps_are_filled_with_the_targets_and_both_are_found_again(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)
    plain = plan_pools(inputs, TRAINING, tmp_path)
    assert len(plain) == 2 and plain[0].count == pool_size(inputs, TRAINING) == 12
    assert fill(inputs, plain) == 3
    assert not (tmp_path / "maps").exists(), "channel attention alone pays for no maps"
    form = needs_of(parse_space(SPACE + "distill: {feature_loss: [cwd, cbam]}\n", "a.yaml")).form
    assert form == TargetForm(spatial=True, maps=True)
    plans = plan_pools(inputs, TRAINING, tmp_path, form)
    assert {plan.folders.views for plan in plans} == {plan.folders.views for plan in plain}
    assert not {plan.folders.targets for plan in plans} & {plan.folders.targets for plan in plain}
    assert fill(inputs, plans, workers=2) == 3 and fill(inputs, plans) == 0
    batch = plans[0].folders.feed(CPU).batch(np.array([0, 7]), CPU.device)
    assert [tuple(maps.shape[1:]) for maps in batch.targets.maps] == [(32, 12, 12), (64, 6, 6), (128, 3, 3)]
    # one flipped bit of the maps: its chunk is made anew, and the targets that share the pass are left alone
    maps = np.load(plans[0].folders.maps / "maps.npy", mmap_mode="r+")
    before = np.array(maps)
    maps[5, 3] += 1
    maps.flush()
    assert fill(inputs, plans) == 1
    assert np.array_equal(np.load(plans[0].folders.maps / "maps.npy"), before)


def test_online_keeps_nothing_and_says_the_same(inputs: Inputs, tmp_path: Path) -> None:
    kept, asked = plan_pools(inputs, TRAINING, tmp_path), plan_pools(inputs, TRAINING, tmp_path, online=True)
    fill(inputs, kept)
    assert fill(inputs, asked) == 0
    indices = np.array([3, 4])
    for one, other in zip(kept, asked, strict=True):
        cached, online = (plan.folders.feed(CPU).batch(indices, CPU.device).targets for plan in (one, other))
        assert torch.allclose(cached.logits_bac, online.logits_bac, rtol=1e-3, atol=1e-3)
        assert torch.allclose(cached.distances_ba4, online.distances_ba4, rtol=1e-3, atol=2e-3)


def test_everything_that_changes_targets_changes_their_key(inputs: Inputs, tmp_path: Path) -> None:
    def key(found: Inputs = inputs, training: TrainingSettings = TRAINING, form: TargetForm = TargetForm()) -> str:  # noqa: B008
        return plan_pools(found, training, tmp_path, form)[0].target_key

    teacher = small_teacher(seed=8)
    teacher.sha256 = "1" * 64
    others = [
        key(dataclasses.replace(inputs, teacher=teacher)),
        key(dataclasses.replace(inputs, data_hash="another")),
        key(dataclasses.replace(inputs, class_order=(1, 0, 2, 3, 4, 5))),
        key(training=TRAINING.model_copy(update={"seed": 1})),
        key(training=TRAINING.model_copy(update={"max_views": 11})),
        key(training=TRAINING.model_copy(update={"views": "heavy"})),
        key(training=TRAINING.model_copy(update={"precision": "bfloat16"})),
        key(form=TargetForm(sparse=True)),
        key(form=TargetForm(bins=True)),
    ]
    assert key() == key() and len({key(), *others}) == len(others) + 1


def test_the_heavy_policy_has_each_with_probability_a_half() -> None:
    heavy = POLICIES["heavy"]
    assert {heavy.p_mosaic, heavy.p_mixup, heavy.p_cutmix, heavy.p_hsv, heavy.p_erase} == {0.5}
    assert POLICIES["plain"].is_light and not heavy.is_light


@pytest.mark.parametrize("online", [False, True])
def test_the_order_of_the_datas_classes_reaches_the_targets(inputs: Inputs, tmp_path: Path, online: bool) -> None:
    order, said = (3, 0, 5, 1, 2, 4), []  # two rings of three: turned back it is another one
    for found in (inputs, dataclasses.replace(inputs, class_order=order)):
        plans = plan_pools(found, TRAINING, tmp_path, TargetForm(detections=True), online)
        fill(found, plans)
        batch = plans[0].folders.feed(CPU).batch(np.array([0, 7]), CPU.device)
        assert batch.targets is not None
        said.append(batch.targets)
    plain, turned = said
    torch.testing.assert_close(turned.logits_bac, plain.logits_bac[..., list(order)])
    torch.testing.assert_close(turned.distances_ba4, plain.distances_ba4)
    there = plain.detections.scores_bd > 0
    back = torch.tensor(order)[turned.detections.classes_bd]
    assert there.any() and torch.equal(back[there], plain.detections.classes_bd[there])
