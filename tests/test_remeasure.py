"""The last measurement: every artifact, every device, and nothing else changed."""

from pathlib import Path

import pytest
from test_export import tiny_onnx

from nasdistill.devices.onnxruntime_local import OnnxRuntimeLocal
from nasdistill.devices.profile import DeviceProfile
from nasdistill.errors import NasdistillError
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import LatencyStats, TrialResult
from nasdistill.remeasure import ROUNDS, remeasure, timed_beside
from nasdistill.store.run_folder import RunFolder

MAIN, OTHER = (
    DeviceProfile(name=name, runtime="onnxruntime", warmup_s=0.0, min_samples=4, max_seconds=0.01)
    for name in ("main", "other")
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three trials timed at an hour a batch; one lost its artifact, one failed."""
    run = RunFolder.create(tmp_path / "run")
    figures = {"map50": 0.5, "map50_95": 0.3, "latency_ms": 3.6e6, "latency_p90_ms": 3.6e6, "params_m": 1.0}
    further = {"latency_ms@other": 3.6e6, "energy_mj@other": 5.0}
    for number in range(2):
        run.write_trial(
            TrialResult(trial=number, state="complete", family="f", fidelity=1.0, further=further, **figures)
        )
    run.write_trial(TrialResult(trial=2, state="failed", family="f", reason="r"))
    tiny_onnx(run.trial_folder(0) / "student.onnx", 2.0)
    return run


def test_all_devices_are_timed_again(run: RunFolder) -> None:
    before, shares = run.trials(), []
    assert remeasure(run, (MAIN, OTHER), DEFAULT, shares.append, lambda line: None) == 1
    after = run.trials()
    assert after[1:] == before[1:]
    timed = after[0]
    for name in ("latency_ms", "latency_p90_ms", "latency_ms@other", "latency_p90_ms@other"):
        assert 0 < timed.figure(name) < 3.6e6
    assert timed.figure("energy_mj@other") == 5.0, "what is not reported stays as it was"
    assert (timed.params_m, timed.map50_95) == (1.0, 0.3)
    assert len(shares) == ROUNDS * 2 and shares[-1] == 1.0


def test_one_device_leaves_the_others_alone(run: RunFolder) -> None:
    remeasure(run, (MAIN,), DEFAULT, lambda share: None, lambda line: None)
    assert run.trials()[0].further == {"latency_ms@other": 3.6e6, "energy_mj@other": 5.0}
    assert run.trials()[0].latency_ms < 3.6e6


def test_a_damaged_artifact_keeps_its_figures(run: RunFolder) -> None:
    told: list[str] = []
    (run.trial_folder(1) / "student.onnx").write_bytes(b"cut off")
    assert remeasure(run, (MAIN,), DEFAULT, lambda share: None, told.append) == 1
    first, second, _ = run.trials()
    assert first.latency_ms < 3.6e6 and second.latency_ms == 3.6e6
    assert [line for line in told if line.startswith("trial 1 keeps the latency it had: ")] != []


def test_what_fails_on_its_way_keeps_all_its_figures(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new latency on one device beside an old one on another is nothing to compare."""
    real, calls, before = OnnxRuntimeLocal.measure, [], run.trials()

    def gone_later(profiler: OnnxRuntimeLocal, artifact: Path) -> LatencyStats:
        calls.append(artifact)
        if len(calls) == 2:
            raise NasdistillError("the device is gone")
        return real(profiler, artifact)

    monkeypatch.setattr(OnnxRuntimeLocal, "measure", gone_later)
    assert remeasure(run, (MAIN, OTHER), DEFAULT, lambda share: None, lambda line: None) == 0
    assert run.trials() == before and len(calls) == 2


def test_a_busy_machine_is_told(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    real = OnnxRuntimeLocal.measure
    monkeypatch.setattr(
        OnnxRuntimeLocal,
        "measure",
        lambda self, *given: real(self, *given).model_copy(update={"disturbed": True}),
    )
    remeasure(run, (MAIN,), DEFAULT, lambda share: None, told.append)
    assert told == ["the machine was busy in 3 of 3 measurements: do not trust the latencies too far"]


def test_of_many_students_those_that_are_clearly_beaten_are_left_out(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasdistill.remeasure.MOST_SECONDS", 3.0)
    told: list[str] = []
    figures = {"map50_95": 0.3, "latency_p90_ms": 9.9, "params_m": 1.0}
    # of trial 0's second device nobody knows the others' latency; trial 4 may have been disturbed, trial 5 is beaten,
    # trial 6 is slow and accurate
    for number, accuracy, latency in ((3, 0.5, 1.0), (4, 0.5, 1.4), (5, 0.5, 1.6), (6, 0.9, 99.0)):
        scores = {"map50": accuracy, "latency_ms": latency, **figures}
        run.write_trial(TrialResult(trial=number, state="complete", family="f", fidelity=1.0, **scores))
        tiny_onnx(run.trial_folder(number) / "student.onnx", 2.0)
    assert remeasure(run, (MAIN,), DEFAULT, lambda share: None, told.append) == 4
    assert told[0] == "1 of 5 students are clearly beaten and keep their latency"
    assert [result.trial for result in run.trials() if result.latency_p90_ms == 9.9] == [5]


def test_what_was_measured_once_counts(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = OnnxRuntimeLocal.measure, list[int]()

    def breaks(self: OnnxRuntimeLocal, *given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise NasdistillError("the device went away")
        return real(self, *given)

    monkeypatch.setattr(OnnxRuntimeLocal, "measure", breaks)
    assert remeasure(run, (MAIN,), DEFAULT, lambda share: None, lambda line: None) == 1
    assert run.trials()[0].latency_ms < 3.6e6


@pytest.mark.parametrize(("latency_ms", "again"), [(3.6e2, True), (3.6e6, False)])
def test_the_teacher_takes_its_turns_unless_it_is_very_slow(run: RunFolder, latency_ms: float, again: bool) -> None:
    run.update_run(teacher={"name": "t", "map50": 0.9, "latency_ms": latency_ms, "latency_ms@other": 3.6e6})
    tiny_onnx(run.path / "teacher.onnx", 2.0)
    sized = MAIN.model_copy(update={"image_size": 640})  # of students
    shares: list[float] = []
    remeasure(run, (sized, OTHER), DEFAULT, shares.append, lambda line: None, run.path / "teacher.onnx")
    found = run.read_run()["teacher"]
    assert (found["name"], found["map50"]) == ("t", 0.9)
    assert (found["latency_ms"] < latency_ms, found["latency_ms@other"] < 3.6e6) == (again, again)
    assert len(shares) == ROUNDS * 2 * (1 + again)


def test_the_median_of_rounds_taken_in_turns_counts(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_onnx(run.trial_folder(1) / "student.onnx", 2.0)
    left = {
        ("main", "0000"): [9.0, 3.0, 2.0],
        ("other", "0000"): [50.0, 90.0, 70.0],
        ("main", "0001"): [4.0, 6.0, 5.0],
        ("other", "0001"): [8.0, 7.0, 1.0],
    }
    turns, order = list(left), list[tuple[str, str]]()

    def told(self: OnnxRuntimeLocal, artifact: Path, *given: object) -> LatencyStats:
        order.append((self.profile.name, artifact.parent.name))
        ms = left[order[-1]].pop(0)
        return LatencyStats(device="d", median_ms=ms, p90_ms=100.0 + ms, min_ms=ms, cv=0.0, samples=4)

    monkeypatch.setattr(OnnxRuntimeLocal, "measure", told)
    assert remeasure(run, (MAIN, OTHER), DEFAULT, lambda share: None, lambda line: None) == 2
    first, second, _ = run.trials()
    assert (first.latency_ms, first.latency_p90_ms, first.figure("latency_ms@other")) == (3.0, 103.0, 70.0)
    assert (second.latency_ms, second.figure("latency_ms@other")) == (5.0, 7.0)
    assert order == turns * ROUNDS


def test_a_student_trained_for_longer_is_timed_by_the_pace_of_the_search(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is three times as slow now, and the new student half as slow again as the old one."""
    known = run.trials()[0].model_copy(update={"latency_ms": 10.0, "latency_p90_ms": 12.0, "further": {}})
    real, order = OnnxRuntimeLocal.measure, list[str]()

    def paced(self: OnnxRuntimeLocal, artifact: Path, *given: object) -> object:
        order.append(artifact.parent.name)
        median = 30.0 if artifact.parent.name == "0000" else 45.0
        return real(self, artifact, *given).model_copy(
            update={"median_ms": median, "p90_ms": median + 6.0, "energy_mj": 7.0 if len(order) == 3 else None}
        )

    monkeypatch.setattr(OnnxRuntimeLocal, "measure", paced)
    old, new = run.trial_folder(0) / "student.onnx", run.path / "longer" / "student.onnx"
    new.parent.mkdir()
    tiny_onnx(new, 2.0)
    result = TrialResult(
        trial=0,
        state="complete",
        family="f",
        fidelity=1.0,
        map50=0.6,
        map50_95=0.4,
        latency_ms=99.0,
        further={"energy_mj@x": 1.0},
    )
    timed = timed_beside(result, new, known, old, (MAIN, OTHER))
    assert (timed.latency_ms, timed.latency_p90_ms) == pytest.approx((15.0, 18.0))
    assert timed.further == {"energy_mj@x": 1.0, "latency_ms@other": 45.0, "latency_p90_ms@other": 51.0}
    assert order == ["longer", "0000"] * (2 * ROUNDS)
    assert (timed.map50_95, timed.energy_mj) == (0.4, 7.0), "energy was read once, of one of them"
