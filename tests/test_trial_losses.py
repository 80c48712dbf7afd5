"""Trials whose losses read everything there is of the teacher, from the cache and online."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from small import CPU, NAMES, SIZE, TINY_YOLOV5, small_teacher, training_views, validation_views

from nasdistill.config import Recipe, TrainingSettings
from nasdistill.devices.profile import DeviceProfile
from nasdistill.distill.compute import Compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.objective import DistillationLoss, LossChoice, LossWeights
from nasdistill.distill.stage import Stage, StageRun, StageTraining
from nasdistill.errors import DeadlineReachedError
from nasdistill.measure.accuracy import Accuracy
from nasdistill.records import FeatureLoss, TrialConfig
from nasdistill.search.worker import at_the_end
from nasdistill.students.families import build_student
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.targets import create_maps, create_targets, fill_targets, seal_maps, seal_targets
from nasdistill.trial import InRungs, trial_in_rungs
from nasdistill.trial_rungs import TrialPlace
from nasdistill.workbench import Assets, OnlineSource, SizedPool, Workbench

FULL = TargetForm(bins=True, spatial=True, detections=True, facts=True, maps=True)
SPARSE = TargetForm(sparse=True, bins=True, spatial=True, detections=True, facts=True)
QUICK = DeviceProfile(name="quick", runtime="onnxruntime", warmup_s=0.0, min_samples=4, max_seconds=0.05)
ORDER = tuple(range(len(NAMES)))


@pytest.fixture(scope="module")
def pools(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, SizedPool]:
    """The same 24 views with full targets, sparse ones, and the teacher itself."""
    folder, teacher = tmp_path_factory.mktemp("pools"), small_teacher()
    views = training_views(demo_yaml, folder / "views")
    validation_views(demo_yaml, folder / "val")
    for form in (FULL, SPARSE):
        place, maps = folder / f"sparse-{form.sparse}", folder / "maps" if form.maps else None
        ranges = create_targets(place, teacher, len(views), SIZE, len(NAMES), form)
        if maps is not None:
            create_maps(maps, teacher, len(views), SIZE)
        fill_targets({SIZE: place}, teacher, views, ORDER, ranges, CPU.device, None, form=form, maps=maps)
        seal_targets(place, "key", teacher)
    seal_maps(folder / "maps", "key", teacher)
    source = OnlineSource(teacher, ORDER, folder / "views", dataclasses.replace(FULL, facts=False))
    return {
        "full": SizedPool(folder / "views", folder / "sparse-False", folder / "val", folder / "maps"),
        "sparse": SizedPool(folder / "views", folder / "sparse-True", folder / "val"),
        "online": SizedPool(folder / "views", folder / "nothing", folder / "val", online=source),
    }


@pytest.fixture(scope="module", autouse=True)
def few_batches() -> Iterator[None]:
    """BatchNorm's statistics, averaged anew in every trial, from a few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nasdistill.distill.batchnorm.BATCHES", 2)
        yield


def bench_of(pool: SizedPool) -> Workbench:
    recipe = Recipe(
        name="tiny",
        stage1_share=0.5,
        stage1_learning_rate=1e-3,
        stage2_learning_rate=1e-3,
        stage2_label_weight=1.0,
        batch_size=8,
    )
    training = TrainingSettings(recipe=recipe, epochs=1, precision="float32")
    return Workbench(Assets(NAMES, {SIZE: pool}, {}, (32, 64, 128), 24, QUICK, training))  # small_teacher's channels


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("full", {"feature_loss": "mgd", "box_loss": "l1_giou_ld", "participation": "both", "prune_ratio": 0.25}),
        ("sparse", {"feature_loss": "cbam", "box_loss": "ld", "participation": "error", "stage1_share": 0.34}),
        ("full", {"cls_loss": "bckd", "participation": "both"}),
        ("online", {"feature_loss": "score_weighted", "connector": "conv_bn", "weight_schedule": "off_at_end"}),
    ],
)
def test_a_trial_of_every_loss(pools: dict[str, SizedPool], tmp_path: Path, kind: str, changes: dict) -> None:
    fields = {"family": "yolov5", "arch": TINY_YOLOV5, "image_size": SIZE, "weight_detections": 0.5, **changes}
    lines: list[str] = []
    place = TrialPlace(0, tmp_path, {})
    result = at_the_end(trial_in_rungs(TrialConfig.model_validate(fields), bench_of(pools[kind]), place, lines.append))
    assert result.state == "complete"
    stage1, stage2 = (next(line for line in lines if line.startswith(stage)) for stage in ("stage 1", "stage 2"))
    assert all(f"{part} " in stage1 for part in ("feature", "cls", "box", "detections"))
    assert ("label " in stage2) and ("1 steps" if kind == "sparse" else "2 steps") in stage1


def test_what_a_trial_chose_reaches_every_step(
    pools: dict[str, SizedPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, drawn = [], []
    call, one_step = DistillationLoss.__call__, StageTraining._one_step

    def noted(self: DistillationLoss, *given: Any) -> Any:
        seen.append((self._choice, self._connectors.norms is not None, *given[3:]))
        return call(self, *given)

    def drawing(training: StageTraining, indices: np.ndarray) -> Any:
        drawn.append(indices)
        return one_step(training, indices)

    monkeypatch.setattr(DistillationLoss, "__call__", noted)
    monkeypatch.setattr(StageTraining, "_one_step", drawing)
    fields = {
        "family": "yolov5",
        "arch": TINY_YOLOV5,
        "image_size": SIZE,
        "feature_loss": "pkd",
        "box_loss": "ld",
        "cls_loss": "bckd",
        "box_where": "better",
        "participation": "error",
        "connector": "conv_bn",
        "weight_feature": 0.5,
        "weight_cls": 2.0,
        "weight_box": 0.25,
        "weight_detections": 0.125,
        "temperature_start": 6.0,
        "temperature_end": 1.0,
        "temperature_schedule": "linear",
        "weight_schedule": "cosine",
        "closing_share": 1 / 3,
    }
    place = TrialPlace(0, tmp_path, {})
    at_the_end(trial_in_rungs(TrialConfig.model_validate(fields), bench_of(pools["full"]), place, lambda line: None))
    choices, bridges, weights, temperatures, shares = zip(*seen, strict=True)  # two steps of stage 1, one of stage 2
    assert set(choices) == {LossChoice("pkd", "ld", "error", "better", "bckd")} and all(bridges)
    assert weights == tuple(LossWeights(0.5, 2.0, 0.25, label, 0.125) for label in (0.0, 0.0, 1.0))
    assert temperatures == pytest.approx((6.0, 3.5, 1.0)) and shares == pytest.approx((1.0, 0.55, 0.1))
    closing = pools["full"].feed(CPU).views.closing
    assert closing[drawn[-1]].all() and not closing[np.concatenate(drawn[:-1])].all()


@pytest.mark.parametrize(
    ("family", "arch", "given", "steps"),
    [
        ("yolov5", TINY_YOLOV5, {"weight_feature": 0.0, "weight_cls": 0.0, "weight_box": 0.0}, 0),
        ("yolov5", TINY_YOLOV5, {}, 2),
        ("yolo26", {"depth": 0.5, "width": 0.0625}, {}, 2),
        ("yolo26", {"depth": 0.5, "width": 0.0625}, {"weight_detections": 1.0}, 2),
        ("yolo26", {"depth": 0.5, "width": 0.0625, "head": "nms"}, {}, 2),
    ],
)
def test_stage_1_teaches_the_head_that_is_deployed_or_nothing_at_all(
    pools: dict[str, SizedPool], tmp_path: Path, family: str, arch: dict, given: dict, steps: int
) -> None:
    fields = {"family": family, "arch": arch, "image_size": SIZE, **given}
    lines: list[str] = []
    whole = not given or "weight_feature" in given
    place = TrialPlace(0, tmp_path, {}, lambda: not whole and any(line.startswith("stage 1") for line in lines))
    trial = trial_in_rungs(TrialConfig.model_validate(fields), bench_of(pools["full"]), place, lines.append)
    if whole:
        assert at_the_end(trial).state == "complete"
    else:  # all there is to see is over
        with pytest.raises(DeadlineReachedError, match="stage 2"):
            at_the_end(trial)
    stage1 = next(line for line in lines if line.startswith("stage 1"))
    assert stage1.startswith(f"stage 1: {steps} steps")
    labels_alone = family == "yolo26" and arch.get("head") is None and not given
    assert ("label " in stage1) == labels_alone


def test_a_resumed_trial_draws_the_masks_that_it_would_have_drawn(
    pools: dict[str, SizedPool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasdistill.trial_rungs.export_and_score", lambda *given: Accuracy(0.5, 0.3))  # of rungs alone
    assets = bench_of(pools["full"]).assets
    training = assets.training.model_copy(update={"epochs": 4, "rungs": (1, 3)})
    bench = Workbench(dataclasses.replace(assets, training=training, images_per_epoch=8))
    fields = {"family": "yolov5", "arch": TINY_YOLOV5, "image_size": SIZE, "feature_loss": "mgd"}

    def trial(name: str) -> InRungs:
        place = TrialPlace(0, tmp_path / name, {})
        return trial_in_rungs(TrialConfig.model_validate(fields), bench, place, lambda line: None)

    folders = [tmp_path / name for name in ("whole", "from the first rung", "from the second rung")]
    for folder in folders:
        folder.mkdir()
    whole = trial(folders[0].name)
    for folder in folders[1:]:
        next(whole)
        shutil.copy(folders[0] / "rung.safetensors", folder)
    for unfinished in (whole, *(trial(folder.name) for folder in folders[1:])):
        for _ in unfinished:
            pass
    weights = [(folder / "student.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1] == weights[2]


def losses(
    pool: SizedPool, choice: LossChoice, weights: LossWeights, compute: Compute = CPU, connector: str = "conv"
) -> StageRun:
    torch.manual_seed(0)
    student = build_student("yolov5", TINY_YOLOV5, NAMES)
    connectors = Connectors(student.pyramid_channels, (32, 64, 128), connector, generators=choice.feature == "mgd")
    compute.place(student.model)
    compute.place(connectors)
    stage = Stage("agree", 1, 1e-3, weights, False, 0, 1, 8, choice)  # before weights part ways
    return StageTraining(student, connectors, pool.feed(CPU), stage, lambda progress: 2.0, compute, seed=0).run()


@pytest.mark.parametrize(
    ("feature", "connector"),
    [*((feature, "conv") for feature in get_args(FeatureLoss)), ("cbam", "conv_bn"), ("cwd", "conv_bn")],
)
def test_every_feature_loss_trains_in_bfloat16(pools: dict[str, SizedPool], feature: str, connector: str) -> None:
    choice, weights = LossChoice(feature, "ld"), LossWeights(detections=1.0)
    half = Compute(torch.device("cpu"), torch.bfloat16)
    exact, rounded = (losses(pools["full"], choice, weights, compute, connector).losses for compute in (CPU, half))
    assert rounded["feature"] == pytest.approx(exact["feature"], rel=0.05)
    assert rounded["total"] == pytest.approx(exact["total"], rel=0.05)


@pytest.mark.parametrize("feature", ["channel_attention", "cbam", "cwd", "pkd", "score_weighted"])
def test_cached_and_online_losses_agree_within_a_thousandth(pools: dict[str, SizedPool], feature: str) -> None:
    choice, weights = LossChoice(feature, "l1_giou_ld"), LossWeights(detections=1.0, label=1.0)
    cached, online = (losses(pools[kind], choice, weights).losses for kind in ("full", "online"))
    assert cached.keys() == online.keys()
    assert all(cached[name] == pytest.approx(online[name], rel=1e-3) for name in cached), (cached, online)


def test_the_last_steps_draw_light_views(pools: dict[str, SizedPool]) -> None:
    feed = pools["full"].feed(CPU)
    closing = feed.views.closing
    assert 0 < closing.sum() < len(closing)
    drawn = list(feed.indices(12, 4, seed=0, closing_steps=5))
    assert all(len(batch) == 4 for batch in drawn)
    assert all(closing[batch].all() for batch in drawn[7:])
    assert not closing[np.concatenate(drawn[:7])].all()
    plain = list(feed.indices(12, 4, seed=0))
    assert all(np.array_equal(a, b) for a, b in zip(drawn[:7], plain[:7], strict=True))
