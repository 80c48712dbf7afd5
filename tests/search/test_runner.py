"""Searches on a real Ray, shared by the module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from search_workers import CaseSpace, CaseWorker, CurveWorker, FileRun, SmallSpace, broken_factory

from nasdistill.errors import InputError
from nasdistill.records import TrialResult
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.search.cluster import environment, start_ray
from nasdistill.search.events import DiskFull, RoomAgain, SearchEvent, TrialFinished, TrialStarted
from nasdistill.search.runner import run_search
from nasdistill.search.stop import Patience
from nasdistill.store.provenance import usable_cores


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    # Ray's processes import the workers of the tests by name.
    with environment({"PYTHONPATH": str(Path(__file__).parent)}), start_ray(2, gpus=0):
        yield


def slow_worker() -> CurveWorker:
    return CurveWorker(0.4)


def optuna_states(folder: Path) -> list[str]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return [trial.state.name for trial in optuna.load_study(study_name="nasdistill", storage=storage).trials]


def processes(folder: Path, results: list[TrialResult]) -> set[str]:
    logs = [(folder / "trials" / str(result.trial) / "log.txt").read_text() for result in results]
    return {number for log in logs for number in re.findall(r"process (\d+)", log)}


def test_a_search_runs_every_point_once_on_warm_workers(tmp_path: Path) -> None:
    run, events = FileRun(tmp_path), []

    def on_event(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished):
            # On disk before anyone hears of it.
            assert event.result in run.results()
        events.append(event)

    results = run_search(SmallSpace(), CurveWorker, run, parse_budget("40trials"), workers=2, on_event=on_event)
    # The space has ten points, so it ends long before its budget.
    assert [result.trial for result in results] == list(range(10))
    assert {result.state for result in results} == {"complete"}
    assert [result.params for result in results[:2]] == SmallSpace().anchors()
    assert optuna_states(tmp_path) == ["COMPLETE"] * 10
    started = [event.trial for event in events if isinstance(event, TrialStarted)]
    finished = [event.result.trial for event in events if isinstance(event, TrialFinished)]
    assert sorted(started) == sorted(finished) == list(range(10))
    assert len(processes(tmp_path, results)) <= 2
    log = (tmp_path / "trials" / "0" / "log.txt").read_text()
    assert f"threads {max(1, usable_cores() // 2)}" in log
    assert not (tmp_path / ".stop").exists()


def test_whatever_a_trial_does_the_search_goes_on(tmp_path: Path) -> None:
    expected = {
        "nan": ("failed", r"invalid result: map50: Input should be a finite number \(got nan\)"),
        "smuggled": ("failed", r"invalid result: latency_ms: Input should be a finite number \(got inf\)"),
        "trial_error": ("failed", "no images left"),
        "bug": ("failed", "KeyError: 'missing'"),
        "memory": ("failed", "out of memory"),
        "exit": ("failed", "SystemExit: 3"),
        "wrong_type": ("failed", "TypeError: the worker returned str, not a TrialResult"),
        "rejected": ("rejected", "too slow"),
        "die": ("failed", r"the worker process died twice \(.*"),
        "gpu_broken_once": ("complete", ""),
        "good": ("complete", ""),
    }
    results = run_search(CaseSpace(*expected), CaseWorker, FileRun(tmp_path), parse_budget("40trials"), workers=1)
    outcomes = {str(result.params["case"]): result for result in results}
    assert outcomes.keys() == expected.keys()
    for case, (state, reason) in expected.items():
        assert outcomes[case].state == state, outcomes[case]
        assert re.fullmatch(reason, outcomes[case].reason), outcomes[case]
    states = optuna_states(tmp_path)
    assert sorted(states) == ["COMPLETE"] * 2 + ["FAIL"] * 9

    def log(case: str) -> str:
        return (tmp_path / "trials" / str(outcomes[case].trial) / "log.txt").read_text()

    assert "Traceback" in log("bug") and "printed by bug" in log("bug")
    assert "second line" in log("trial_error")
    assert log("die").count("Worker exit type") == 2
    assert "attempt 2: the first worker died" in log("gpu_broken_once")
    first, second = re.findall(r"process (\d+)", log("gpu_broken_once"))
    assert first != second
    assert "device-side assert" in log("gpu_broken_once")


def test_a_worker_that_cannot_start_is_a_reason_and_not_an_endless_search(tmp_path: Path) -> None:
    space = SmallSpace(endless=True)
    results = run_search(space, broken_factory, FileRun(tmp_path), parse_budget("1000trials"))
    assert {result.reason for result in results} == {"the worker could not start: OSError: teacher.pt is gone"}
    assert len(results) == 3


def test_a_time_budget_starts_no_trial_that_cannot_finish(tmp_path: Path) -> None:
    times: list[float] = []  # of the first start, and of every end
    clock = BudgetClock(parse_budget("10s"))

    def note(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished) or (isinstance(event, TrialStarted) and not times):
            times.append(clock.used)

    run_search(
        SmallSpace(endless=True),
        slow_worker,
        FileRun(tmp_path),
        clock,
        on_event=note,
        # Without overtime a trial begun too late would be stopped.
        patience=Patience(overtime=0.2),
    )
    results = FileRun(tmp_path).results()
    assert {result.state for result in results} == {"complete"}
    # No trial fits after the last one, and none before it was left out, however long they take on a busy machine.
    longest = max(end - start for start, end in zip(times, times[1:], strict=False))
    assert 10 - longest - 1 < times[-1] < 10.2
    assert set(optuna_states(tmp_path)) == {"COMPLETE"}


@pytest.mark.slow
def test_at_the_end_of_the_budget_the_patient_stop_and_the_stubborn_are_killed(tmp_path: Path) -> None:
    clock = BudgetClock(parse_budget("12s"))
    results = run_search(
        CaseSpace("patient", "stubborn"),
        CaseWorker,
        FileRun(tmp_path),
        clock,
        workers=2,
        patience=Patience(overtime=0.5, kill_after=1.0),
    )
    assert 12.5 < clock.used < 12.5 + 1 + 15
    assert {(result.params["case"], result.state, result.reason) for result in results} == {
        ("patient", "stopped", "budget used up"),
        ("stubborn", "stopped", "budget used up"),
    }
    assert optuna_states(tmp_path) == ["FAIL", "FAIL"]


def test_a_trial_budget_counts_earlier_trials_and_goes_on_after_them(tmp_path: Path) -> None:
    first = run_search(SmallSpace(), CurveWorker, FileRun(tmp_path), parse_budget("3trials"))
    assert len(first) == 3
    second = run_search(SmallSpace(), CurveWorker, FileRun(tmp_path), parse_budget("7trials"))
    assert second[:3] == first
    assert [result.trial for result in second] == list(range(7))
    assert len({str(sorted((k, str(v)) for k, v in result.params.items())) for result in second}) == 7
    assert optuna_states(tmp_path) == ["COMPLETE"] * 7
    assert run_search(SmallSpace(), CurveWorker, FileRun(tmp_path), parse_budget("7trials")) == second


def test_an_epoch_budget_is_not_overrun(tmp_path: Path) -> None:
    # Three epochs a trial: a sixth would not fit.
    results = run_search(SmallSpace(), CurveWorker, FileRun(tmp_path), parse_budget("16epochs"))
    assert len(results) == 5


def test_an_estimate_keeps_long_trials_out(tmp_path: Path) -> None:
    def estimate(params: dict[str, object]) -> float:
        return 1000.0 if params["family"] == "a" else 0.1

    results = run_search(SmallSpace(), CurveWorker, FileRun(tmp_path), parse_budget("30s"), estimate=estimate)
    assert results and {result.family for result in results} == {"b"}


def test_a_full_disk_pauses_the_search_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full before a trial starts, when a result is written, and within a trial."""
    looks = iter([True, False, False, True])
    monkeypatch.setattr("nasdistill.search.room.has_room", lambda folder: next(looks, True))
    monkeypatch.setattr("nasdistill.search.room.POLL_S", 0.05)
    full, events = iter([True, True]), []

    class FullAtFirst(FileRun):
        def write_trial(self, result: TrialResult) -> None:
            if next(full, False):
                raise OSError(28, "No space left on device")
            super().write_trial(result)

    space, run = CaseSpace("disk_full", "fine", "fine2"), FullAtFirst(tmp_path)
    results = run_search(space, CaseWorker, run, parse_budget("3trials"), on_event=events.append)
    assert [result.state for result in results] == ["complete"] * 3
    assert optuna_states(tmp_path) == ["COMPLETE"] * 3
    changes = [type(event) for event in events if isinstance(event, DiskFull | RoomAgain)]
    assert changes == [DiskFull, RoomAgain] * 2
    assert "os error 28" in (tmp_path / "trials" / "0" / "log.txt").read_text()


def test_a_result_that_cannot_be_written_ends_the_search_with_its_own_error(tmp_path: Path) -> None:
    class Unwritable(FileRun):
        def write_trial(self, result: TrialResult) -> None:
            if result.trial == 3:
                raise OSError(30, "Read-only file system")
            super().write_trial(result)

    with pytest.raises(OSError, match="Read-only"):
        run_search(SmallSpace(endless=True), CurveWorker, Unwritable(tmp_path), parse_budget("1000trials"))
    assert "RUNNING" not in optuna_states(tmp_path) or len(FileRun(tmp_path).results()) < 3
    resumed = run_search(SmallSpace(endless=True), CurveWorker, FileRun(tmp_path), parse_budget("8trials"))
    assert "RUNNING" not in optuna_states(tmp_path)
    assert sum(result.state == "complete" for result in resumed) == 8


def test_resources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    wanted = {"cpu": 1, "gpu": 0.5}
    with pytest.raises(InputError, match="a trial needs 0.5 GPU, but Ray has 0 in all"):
        run_search(SmallSpace(), CurveWorker, FileRun(tmp_path), parse_budget("1trial"), resources_per_trial=wanted)


def test_an_unknown_sampler_is_refused_before_anything_happens(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown sampler"):
        run_search(SmallSpace(), CurveWorker, FileRun(tmp_path), parse_budget("1trials"), sampler="best")
    assert not (tmp_path / "study.journal").exists()
