"""One trial in a plain loop: no Ray, no Optuna, a small world of 96 px boards."""

import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from small import NAMES, SIZE, TINY_YOLOV5, fill_all, small_teacher, training_views, validation_views

from nasdistill import trial
from nasdistill.config import CLASSIC, RECIPES, Recipe, TrainingSettings, load_recipe
from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import Profiler
from nasdistill.distill.stage import StageTraining
from nasdistill.errors import DeadlineReachedError, InputError, TrialError
from nasdistill.measure.accuracy import Accuracy, score
from nasdistill.measure.detector import OnnxDetector
from nasdistill.pareto.limits import parse_constraints
from nasdistill.records import LatencyStats, RungScore, TrialConfig, TrialResult
from nasdistill.rung_files import BestFiles, RungFiles
from nasdistill.search.worker import TrialJob, at_the_end
from nasdistill.space.loader import load_space
from nasdistill.store.rungs import read_rung_scores
from nasdistill.students.families import build_student
from nasdistill.trial import InRungs, trial_in_rungs
from nasdistill.trial_rungs import TrialPlace
from nasdistill.workbench import Assets, SizedPool, SupernetFile, Workbench
from nasdistill.worker import MakeTrialWorker

QUICK = DeviceProfile(name="quick", runtime="onnxruntime", warmup_s=0.0, min_samples=4, max_seconds=0.05)
SPACE = """
name: boards
families:
  yolov5: {depth: 0.33, width: {range: [0.0625, 0.125], step: 0.0625}}
image_size: 96
distill:
  temperature: {start: {range: [1.0, 8.0], log: true}, end: 1.0, schedule: linear}
  feature_loss: channel_attention
  weights: {feature: 1.0, cls: 1.0, box: 1.0}
prune: {ratio: {range: [0.0, 0.5], step: 0.05}}
"""
WARMED = {"depth": 0.33, "width": 0.125}


@pytest.fixture(scope="module")
def assets(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """24 boards, a random teacher, a YOLOv5 supernet with random weights; MobileNetV3 has none."""
    folder, teacher = tmp_path_factory.mktemp("assets"), small_teacher()
    fill_all(folder / "targets", teacher, training_views(demo_yaml, folder / "views"))
    validation_views(demo_yaml, folder / "val")
    supernet = build_student("yolov5", WARMED, NAMES, seed=3)
    save_file({name: tensor.contiguous() for name, tensor in supernet.model.state_dict().items()}, folder / "super.st")
    recipe = Recipe(
        name="tiny",
        stage1_share=0.5,
        stage1_learning_rate=1e-3,
        stage2_learning_rate=1e-3,
        stage2_label_weight=1.0,
        batch_size=8,
    )
    return Assets(
        names=NAMES,
        pools={SIZE: SizedPool(folder / "views", folder / "targets", folder / "val")},
        supernets={"yolov5": SupernetFile(folder / "super.st", WARMED, "warmed")},
        teacher_channels=teacher.channels,
        images_per_epoch=24,
        device=QUICK,
        training=TrainingSettings(recipe=recipe, epochs=2, precision="float32"),
    )


@pytest.fixture(scope="module", autouse=True)
def few_batches() -> Iterator[None]:
    """BatchNorm's statistics, averaged anew in every trial and at every rung, from a few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nasdistill.distill.batchnorm.BATCHES", 2)
        yield


@pytest.fixture(scope="module")
def bench(assets: Assets) -> Workbench:
    return Workbench(assets)


def config(**changes: object) -> TrialConfig:
    fields = {"family": "yolov5", "arch": TINY_YOLOV5, "image_size": SIZE, **changes}
    return TrialConfig.model_validate(fields)


def run(bench: Workbench, folder: Path, **changes: object) -> tuple[TrialResult, list[str]]:
    lines: list[str] = []
    place = TrialPlace(4, folder, {"family": "yolov5", "image_size": SIZE})
    return at_the_end(trial_in_rungs(config(**changes), bench, place, lines.append)), lines


class Plain(NamedTuple):
    """The trial without anything special."""

    folder: Path
    result: TrialResult
    lines: list[str]


@pytest.fixture(scope="module")
def plain(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = tmp_path_factory.mktemp("plain")
    return Plain(folder, *run(bench, folder))


@pytest.mark.parametrize("family", ["yolov5", "mobilenetv3"])
def test_a_trial_ends_with_a_scored_and_timed_artifact(
    bench: Workbench, plain: Plain, tmp_path: Path, family: str
) -> None:
    folder, result, lines = plain
    if family != "yolov5":
        folder = tmp_path
        result, lines = run(bench, folder, family=family, arch={"variant": "small_050", "neck": 32})
    assert (result.trial, result.state, result.family, result.fidelity) == (4, "complete", family, 1.0)
    numbers = [value for value in result.model_dump(exclude={"energy_mj"}).values() if isinstance(value, float)]
    assert len(numbers) == 10 and all(map(math.isfinite, numbers))
    assert 0 <= result.map50_95 <= result.map50 <= 1 and 0 <= result.confidence <= 1
    assert 0 < result.latency_ms <= result.latency_p90_ms
    assert result.params == {
        "family": "yolov5",
        "image_size": SIZE,
        "init": "warmed" if family == "yolov5" else "random",
        "prune.achieved": 0.0,
    }
    assert result.epochs == 2 and result.seconds > 0
    artifact = folder / "student.onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["student.onnx", "student.safetensors"]
    assert result.size_mb == artifact.stat().st_size / 1e6
    again = score(OnnxDetector(artifact), bench.validation(SIZE))
    assert (again.map50, again.map50_95) == (result.map50, result.map50_95)
    assert [line.split(":")[0] for line in lines[1:3]] == ["stage 1", "stage 2"]
    assert "before training" in lines[0] and lines[3].startswith("mAP50 ")
    with safe_open(folder / "student.safetensors", "pt") as file:
        assert file.metadata() == {"family": family}


def test_a_student_beyond_a_constraint_is_rejected_untrained_with_its_figures(bench: Workbench, tmp_path: Path) -> None:
    lines: list[str] = []
    limits = parse_constraints(["latency_ms<=1000 params_m<=0.01"])
    result = at_the_end(trial_in_rungs(config(), bench, TrialPlace(4, tmp_path, {}, constraints=limits), lines.append))
    assert result.state == "rejected" and "params_m" in result.reason and "params_m<=0.01" in result.reason
    assert "latency_ms" not in result.reason
    assert result.latency_ms > 0 and result.params_m > 0.01 and result.gflops > 0 and result.size_mb > 0
    assert result.map50 is None and result.epochs == 0
    assert not any(line.startswith("stage") for line in lines) and list(tmp_path.iterdir()) == []


def test_every_device_times_every_student(assets: Assets, tmp_path: Path) -> None:
    other = QUICK.model_copy(update={"name": "other"})
    bench = Workbench(replace(assets, further_devices=(other,), needed=("latency_ms", "latency_ms@other")))
    result, lines = run(bench, tmp_path)
    assert result.state == "complete" and set(result.further) >= {"latency_ms@other", "latency_p90_ms@other"}
    assert 0 < result.figure("latency_ms@other") <= result.figure("latency_p90_ms@other")
    assert "ms on other" in lines[0] and "ms on other" in lines[-1]
    limits = parse_constraints(["latency_ms@other<=0.00001"], ["quick", "other"])
    rejected = at_the_end(
        trial_in_rungs(config(), bench, TrialPlace(4, tmp_path, {}, constraints=limits), lines.append)
    )
    assert rejected.state == "rejected" and "latency_ms@other" in rejected.reason
    assert rejected.further.keys() == result.further.keys() and rejected.epochs == 0


def test_a_student_without_a_figure_that_counts_fails(assets: Assets, tmp_path: Path) -> None:
    bench = Workbench(replace(assets, needed=("energy_mj@other",)))
    with pytest.raises(TrialError, match="no energy_mj@other could be measured"):
        run(bench, tmp_path)


def test_saved_weights_are_the_artifacts(bench: Workbench, plain: Plain) -> None:
    student = build_student("yolov5", TINY_YOLOV5, NAMES)
    student.model.load_state_dict(load_file(plain.folder / "student.safetensors"))
    images = np.asarray(bench.validation(SIZE).images[:2]).astype(np.float32) / 255
    with torch.no_grad():
        expected = student.model.eval()(torch.from_numpy(images))[0].numpy()
    got = OnnxDetector(plain.folder / "student.onnx").raw(images)
    assert np.abs(got[:, 4:] - expected[:, 4:]).max() < 1e-3


class Recording:
    """A profiler that notes what it is asked, and what the artifact weighed then."""

    def __init__(self, inner: Profiler, notes: list[str]) -> None:
        self.inner, self.notes = inner, notes
        self.sizes: list[int] = []

    def measure(self, artifact: Path, image_size: int | None = None) -> LatencyStats:
        self.notes.append(f"measured at {image_size}")
        self.sizes.append(artifact.stat().st_size)
        return self.inner.measure(artifact, image_size)


def test_latency_is_known_before_training_and_of_the_same_shapes(
    assets: Assets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, notes = Workbench(assets), []
    bench.profiler = profiler = Recording(bench.profiler, notes)
    batch = type(bench.feed(SIZE)).batch

    def noted(feed: object, *arguments: object) -> object:
        if torch.is_grad_enabled():  # training, not the counting of BatchNorm statistics
            notes.append("trained")
        return batch(feed, *arguments)

    monkeypatch.setattr(type(bench.feed(SIZE)), "batch", noted)
    result, _ = run(bench, tmp_path, prune_ratio=0.4)
    assert notes == [f"measured at {SIZE}", *["trained"] * 6, f"measured at {SIZE}"]
    # the artifact timed first is as large as the last: the same graph with other weights
    assert profiler.sizes[0] == pytest.approx(profiler.sizes[1], rel=0.01)
    assert result.params["prune.achieved"] > 0.1


def test_pruning_makes_the_artifact_smaller(bench: Workbench, plain: Plain, tmp_path: Path) -> None:
    whole = plain.result
    pruned, _ = run(bench, tmp_path / "pruned", prune_ratio=0.4)
    assert pruned.params_m < 0.8 * whole.params_m
    assert pruned.size_mb < 0.9 * whole.size_mb
    assert pruned.gflops < whole.gflops
    assert pruned.params["prune.achieved"] > 0.2


def test_pruning_by_the_loss_gives_the_shapes_that_were_timed(bench: Workbench, tmp_path: Path) -> None:
    by_norm, _ = run(bench, tmp_path / "norm", prune_ratio=0.4, prune_backbone=0.5)
    by_loss, _ = run(bench, tmp_path / "loss", prune_ratio=0.4, prune_backbone=0.5, prune_importance="taylor")
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("norm", "loss"))
    assert {name: tensor.shape for name, tensor in one.items()} == {name: tensor.shape for name, tensor in two.items()}
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert by_norm.params["prune.achieved"] == by_loss.params["prune.achieved"] > 0.1


def test_the_same_trial_twice_is_the_same_student(bench: Workbench, plain: Plain, tmp_path: Path) -> None:
    second, _ = run(bench, tmp_path)
    weights, again = (load_file(folder / "student.safetensors") for folder in (plain.folder, tmp_path))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    before = bench.start(config()).student.model.state_dict()
    assert any(not torch.equal(weights[name], before[name]) for name in weights)
    assert (plain.result.map50, plain.result.map50_95) == (second.map50, second.map50_95)


def test_values_that_are_not_finite_fail_the_trial(assets: Assets, tmp_path: Path) -> None:
    broken = build_student("yolov5", WARMED, NAMES)
    broken.head.cv3[0][-1].bias.data[0] = math.nan
    save_file({name: tensor.contiguous() for name, tensor in broken.model.state_dict().items()}, tmp_path / "broken.st")
    supernets = {"yolov5": SupernetFile(tmp_path / "broken.st", WARMED, "warmed")}
    with pytest.raises(TrialError, match="the loss became nan in stage 1 at step 0"):
        run(Workbench(replace(assets, supernets=supernets)), tmp_path)


def test_the_budget_may_end_in_the_middle(bench: Workbench, tmp_path: Path) -> None:
    asked = []

    def after_four() -> bool:
        asked.append(1)
        return len(asked) > 4

    place = TrialPlace(0, tmp_path, {}, after_four)
    with pytest.raises(DeadlineReachedError, match="stage 2"):
        at_the_end(trial_in_rungs(config(), bench, place, lambda line: None))


def test_a_student_takes_its_first_channels_from_the_supernet(bench: Workbench, assets: Assets) -> None:
    supernet = load_file(assets.supernets["yolov5"].path)
    start = bench.start(config())
    assert start.init == "warmed"
    weight = start.student.model.model[0].conv.weight
    assert torch.equal(weight, supernet["model.0.conv.weight"][: len(weight)])
    assert bench.start(config()).student.model is not start.student.model
    deeper = bench.start(config(arch={"depth": 0.67, "width": 0.0625}))  # deeper than its supernet
    assert deeper.init == "warmed+random"
    stranger = bench.start(config(family="efficientnet_lite0", arch={"neck": 32}))
    assert stranger.init == "random" and stranger.student.family == "efficientnet_lite0"


def test_assets_travel_to_a_worker(assets: Assets, tmp_path: Path) -> None:
    """What a search sends: the factory is pickled, its worker turns flat parameters into a trial."""
    (tmp_path / "space.yaml").write_text(SPACE)
    space = load_space(str(tmp_path / "space.yaml"))
    make = pickle.loads(pickle.dumps(MakeTrialWorker(assets, space)))
    worker = make()
    params = {
        "family": "yolov5",
        "yolov5.depth": 0.33,
        "yolov5.width": 0.0625,
        "image_size": SIZE,
        "temperature.start": 4.0,
        "temperature.end": 1.0,
        "temperature.schedule": "linear",
        "feature_loss": "channel_attention",
        "connector": "conv",
        "box_loss": "l1_giou",
        "participation": "none",
        "schedule": "constant",
        "weight.feature": 1.0,
        "weight.cls": 1.0,
        "weight.box": 1.0,
        "weight.detections": 0.0,
        "prune.ratio": 0.0,
        "prune.importance": "l2",
        "prune.backbone": 1.0,
        "prune.neck": 1.0,
        "prune.head": 1.0,
    }
    job = TrialJob(2, {**params, "init": "warmed"}, tmp_path, None, tmp_path / "stop")
    scores, result = drained(worker.run(job, lambda line: None))
    assert not scores and result.state == "complete" and result.params["yolov5.width"] == 0.0625
    # A repeat: the same student with another seed, and the worker goes back to the run's own.
    places = {seed: tmp_path / str(seed) for seed in (None, 77)}
    for seed, place in places.items():
        place.mkdir()
        _, repeated = drained(worker.run(replace(job, folder=place, seed=seed), lambda line: None))
        assert (repeated.params_m, repeated.epochs) == (result.params_m, result.epochs)
    weights = {seed: (place / "student.safetensors").read_bytes() for seed, place in places.items()}
    assert weights[77] != weights[None] == (tmp_path / "student.safetensors").read_bytes()
    (tmp_path / "stop").touch()
    with pytest.raises(DeadlineReachedError):
        drained(worker.run(job, lambda line: None))
    with pytest.raises(DeadlineReachedError):
        drained(worker.run(replace(job, stop_file=tmp_path / "none", deadline=1.0), lambda line: None))


class TestRungs:
    """A trial that is scored on its way, left there, and gone on with."""

    @pytest.fixture(scope="class")
    def rung_bench(self, assets: Assets) -> Workbench:
        # 4 epochs of 3 steps; stage 1 ends after 3 of the 12 steps, the first rung
        recipe = assets.training.recipe.model_copy(update={"stage1_share": 0.25})
        training = assets.training.model_copy(update={"epochs": 4, "rungs": (1, 2), "recipe": recipe})
        return Workbench(replace(assets, training=training))

    def trial(
        self, bench: Workbench, folder: Path, lines: list[str], should_stop: Callable[[], bool] = lambda: False
    ) -> InRungs:
        folder.mkdir(exist_ok=True)
        place = TrialPlace(4, folder, {"family": "yolov5"}, should_stop)
        return trial_in_rungs(config(prune_ratio=0.3), bench, place, lines.append)

    @pytest.fixture(scope="class")
    def whole(
        self, rung_bench: Workbench, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[list[RungScore], TrialResult, bytes]:
        folder = tmp_path_factory.mktemp("whole")
        scores, result = drained(self.trial(rung_bench, folder, []))
        assert read_rung_scores(folder) == scores
        assert sorted(path.name for path in folder.iterdir()) == ["rungs.json", "student.onnx", "student.safetensors"]
        return scores, result, (folder / "student.safetensors").read_bytes()

    def test_scores_carry_fidelity_and_final_costs(
        self, rung_bench: Workbench, whole: tuple[list[RungScore], TrialResult, bytes], tmp_path: Path
    ) -> None:
        scores, result, weights = whole
        # the first rung is in stage 1, before pruning: what it would score is not the student of these costs
        assert [(s.trial, s.rung, s.epochs, s.fidelity) for s in scores] == [(4, 1, 2, 0.5)]
        assert all(s.params_m == result.params_m and s.gflops == result.gflops for s in scores)
        assert result.state == "complete" and result.fidelity == 1.0 and result.epochs == 4
        # scoring on the way changes nothing: the same trial without rungs is the same student
        assets = rung_bench.assets
        plain = Workbench(replace(assets, training=assets.training.model_copy(update={"rungs": ()})))
        _, alone = drained(self.trial(plain, tmp_path, []))
        assert (alone.map50, alone.map50_95) == (result.map50, result.map50_95)
        assert (tmp_path / "student.safetensors").read_bytes() == weights

    @pytest.mark.parametrize("stage", [1, 2])
    def test_a_killed_trial_goes_on_from_its_last_rung_to_the_same_end(
        self, rung_bench: Workbench, whole: tuple[list[RungScore], TrialResult, bytes], tmp_path: Path, stage: int
    ) -> None:
        scores, result, weights = whole
        lines, steps = list[str](), iter(range(100))
        # in stage 1 after the rung that scores nothing, or at that of stage 2
        killed = self.trial(rung_bench, tmp_path / "first", [], lambda: stage == 1 and next(steps) == 4)
        if stage == 1:
            with pytest.raises(DeadlineReachedError):
                next(killed)
        first = [] if stage == 1 else [next(killed)]
        left = (tmp_path / "first" / "rung.safetensors").read_bytes()  # what kill -9 leaves
        killed.close()
        assert (tmp_path / "first" / "rung.safetensors").exists() == (stage == 1)
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "rung.safetensors").write_bytes(left)  # as the search hands it over
        more, again = drained(self.trial(rung_bench, tmp_path / "second", lines))
        assert [s.rung for s in more] == [s.rung for s in scores[len(first) :]]
        assert (again.map50, again.map50_95) == (result.map50, result.map50_95)
        assert (tmp_path / "second" / "student.safetensors").read_bytes() == weights
        assert any("goes on in stage" in line for line in lines)
        assert sum(line.startswith("stage 1:") for line in lines) == (stage == 1)
        assert not (tmp_path / "second" / "rung.safetensors").exists()
        seconds = [score.seconds for score in [*first, *more]]
        assert seconds == sorted(seconds) and again.seconds >= seconds[-1], "the seconds of the first part count"

    @pytest.mark.parametrize(
        ("prune_ratio", "scores", "epoch", "killed"),
        [
            (0.0, (0.9, 0.5, 0.3, 0.2), 2, True),  # the best was before the kill; the first is of stage 1
            (0.3, (0.3, 0.5, 0.2), 3, True),  # one after it takes its place
            (0.3, (0.5, 0.3, 0.5), 4, False),  # no better than the end
        ],
    )
    def test_a_long_training_ends_with_its_best(
        self,
        rung_bench: Workbench,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        prune_ratio: float,
        scores: tuple[float, ...],
        epoch: int,
        killed: bool,
    ) -> None:
        training = rung_bench.assets.training.model_copy(update={"rungs": (1, 2, 3)})
        bench = Workbench(replace(rung_bench.assets, training=training))
        scored: list[bytes] = []

        def scoring(detector: OnnxDetector, views: object) -> Accuracy:
            scored.append(max(tmp_path.glob("*.onnx"), key=lambda path: path.stat().st_mtime_ns).read_bytes())
            return Accuracy(0.95, scores[len(scored) - 1])

        monkeypatch.setattr("nasdistill.trial_rungs.score", scoring)
        place, lines = TrialPlace(4, tmp_path, {"family": "yolov5"}, best_by="map50_95"), list[str]()
        trial = trial_in_rungs(config(prune_ratio=prune_ratio), bench, place, lines.append)
        if killed:  # as kill -9 does: nothing is tidied up
            while next(trial).epochs < 2:
                pass
            monkeypatch.setattr(RungFiles, "remove", lambda files: None)
            monkeypatch.setattr(BestFiles, "remove", lambda files, but=None: None)
            kept = (tmp_path / "student.onnx").read_bytes()
            trial.close()
            monkeypatch.undo()
            monkeypatch.setattr("nasdistill.trial_rungs.score", scoring)
            (tmp_path / "student.onnx").write_bytes(kept)
            trial = trial_in_rungs(config(prune_ratio=prune_ratio), bench, place, lines.append)
        _, result = drained(trial)
        best = epoch - (5 - len(scores))  # of one that is pruned the first epoch has no score
        assert (result.map50_95, result.epochs) == (scores[best], epoch)
        assert (tmp_path / "student.onnx").read_bytes() == scored[best]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["rungs.json", "student.onnx", "student.safetensors"]
        assert any(f"the student is that of epoch {epoch} of 4" in line for line in lines) == (epoch < 4)
        weights = load_file(tmp_path / "student.safetensors")
        exported = {tensor.name: tensor for tensor in onnx.load(tmp_path / "student.onnx").graph.initializer}
        bias = next(name for name in weights if name.endswith("cv3.0.2.bias"))  # no norm is folded into it
        assert np.allclose(onnx.numpy_helper.to_array(exported[bias]), weights[bias].numpy())

    def test_a_training_that_breaks_on_its_way_has_its_best(
        self, rung_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scores = iter((0.3,))
        monkeypatch.setattr("nasdistill.trial_rungs.score", lambda *given: Accuracy(0.9, next(scores)))
        one_step, steps = StageTraining._one_step, []

        def breaking(training: StageTraining, indices: np.ndarray) -> Any:
            steps.append(indices)
            if training.stage.name == "stage 2" and training.step == training.stage.steps - 1:
                raise TrialError("the loss became nan")
            return one_step(training, indices)

        monkeypatch.setattr(StageTraining, "_one_step", breaking)
        lines: list[str] = []
        place = TrialPlace(4, tmp_path, {"family": "yolov5"}, best_by="map50_95")
        _, result = drained(trial_in_rungs(config(prune_ratio=0.3), rung_bench, place, lines.append))
        assert result.state == "complete" and result.map50_95 == 0.3, "stage 2 has one rung"
        assert "the loss became nan" in lines and any("there is no end" in line for line in lines)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["rungs.json", "student.onnx", "student.safetensors"]
        place = TrialPlace(5, tmp_path / "plain", {"family": "yolov5"})
        place.folder.mkdir()
        scores = iter((0.3,))
        with pytest.raises(TrialError, match="the loss became nan"):
            drained(trial_in_rungs(config(prune_ratio=0.3), rung_bench, place, lines.append))

    def test_a_training_that_fails_after_its_end_still_has_its_best(
        self, rung_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scores = iter((0.5, 0.2, 0.2))  # a rung, the end, and the end again
        monkeypatch.setattr("nasdistill.trial_rungs.score", lambda *given: Accuracy(0.9, next(scores)))
        place = TrialPlace(4, tmp_path, {"family": "yolov5"}, best_by="map50_95")
        costs, calls = trial._costs, []

        def timing(*given: Any) -> Any:
            calls.append(given)
            if len(calls) == 2:  # the first is before training
                raise TrialError("the device is gone")
            return costs(*given)

        monkeypatch.setattr(trial, "_costs", timing)
        with pytest.raises(TrialError, match="the device is gone"):
            drained(trial_in_rungs(config(prune_ratio=0.3), rung_bench, place, lambda line: None))
        _, result = drained(trial_in_rungs(config(prune_ratio=0.3), rung_bench, place, lambda line: None))
        assert (result.map50_95, result.epochs) == (0.5, 2)
        assert not list(tmp_path.glob("best-*"))

    def test_what_another_trial_or_a_crash_left_is_not_used(self, rung_bench: Workbench, tmp_path: Path) -> None:
        (tmp_path / "rung.safetensors").write_bytes(b"half a file")
        lines: list[str] = []
        trial = self.trial(rung_bench, tmp_path, lines)
        next(trial)
        place = TrialPlace(5, tmp_path / "other", {})
        place.folder.mkdir()
        (place.folder / "rung.safetensors").write_bytes((tmp_path / "rung.safetensors").read_bytes())
        other = trial_in_rungs(config(prune_ratio=0.2), rung_bench, place, lines.append)
        next(other)
        assert not any("goes on" in line for line in lines)
        trial.close()
        other.close()


def drained(trial: InRungs) -> tuple[list[RungScore], TrialResult]:
    """All scores of a trial, and its result."""
    scores: list[RungScore] = []
    while True:
        try:
            scores.append(next(trial))
        except StopIteration as end:
            return scores, end.value


class TestSettings:
    """What all trials share."""

    def test_recipes_by_name(self) -> None:
        assert load_recipe("classic") is CLASSIC
        with pytest.raises(InputError, match="unknown recipe 'fast'; allowed: short, classic"):
            load_recipe("fast")

    def test_unknown_keys_and_values_out_of_range_are_refused(self) -> None:
        for wrong in ({"epoch": 3}, {"epochs": 0}, {"precision": "int8"}, {"seed": -1}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                TrainingSettings(**wrong)
        with pytest.raises(ValueError, match="frozen"):
            RECIPES["short"].batch_size = 3

    def test_an_epoch_is_the_training_images(self, assets: Assets) -> None:
        assert assets.steps_per_epoch == 3
        assert replace(assets, images_per_epoch=1).steps_per_epoch == 1
