"""Searches as processes of their own: Ctrl-C, kill -9, and going on afterwards. Nothing may be lost or left over."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from search_workers import FileRun, SlowWorker, SmallSpace

from nasdistill.records import TrialResult
from nasdistill.search.budget import parse_budget
from nasdistill.search.cluster import environment
from nasdistill.search.runner import run_search

HERE = Path(__file__).parent


class Search:
    """A search process, its lines as they come, and everything it has started."""

    def __init__(self, folder: Path, budget: str, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "search_workers.py"), str(folder), budget, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Its own group, so that a signal to the group is what a terminal sends on Ctrl-C.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), str(HERE.parent.parent)))},
        )
        self.lines: list[str] = []
        self.family: list[psutil.Process] = []

    def wait_for(self, word: str, times: int = 1) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if sum(word in seen for seen in self.lines) >= times:
                self.family = psutil.Process(self.process.pid).children(recursive=True)
                return
        pytest.fail(f"ended before '{word}': {self.lines}")

    def training_worker(self) -> psutil.Process:
        """A worker in the middle of a trial; Ray names it so for that time only."""
        end = time.monotonic() + 30.0
        while time.monotonic() < end:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "_Inner.train" in "".join(process.cmdline()):
                        return process
            time.sleep(0.02)
        pytest.fail("no worker trains")

    def end(self) -> int:
        assert self.process.stdout is not None
        self.lines += [line.strip() for line in self.process.stdout]
        return self.process.wait()

    def survivors(self, *patient: str) -> list[str]:
        """Processes it started that are still there ten seconds later, but for those with one of these words."""

        def title(process: psutil.Process) -> str:
            with contextlib.suppress(psutil.NoSuchProcess):
                return " ".join(process.cmdline())
            return ""

        watched = [process for process in self.family if not any(word in title(process) for word in patient)]
        _, alive = psutil.wait_procs(watched, timeout=10)
        return [title(process) for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def optuna_states(folder: Path) -> list[str]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return [trial.state.name for trial in optuna.load_study(study_name="nasdistill", storage=storage).trials]


def check_resumed(folder: Path, before: list[TrialResult], interrupted: list[dict[str, object]]) -> None:
    """Go on for a few trials: what was finished is untouched, what was interrupted comes first."""
    done = sum(result.state == "complete" for result in before)
    with environment({"PYTHONPATH": str(HERE)}):
        run_search(SmallSpace(endless=True), SlowWorker, FileRun(folder), parse_budget(f"{done + 4}trials"))
    after = FileRun(folder).results()
    assert after[: len(before)] == before
    new = after[len(before) :]
    assert [result.state for result in new] == ["complete"] * 4
    assert {str(result.params) for result in new} >= {str(params) for params in interrupted}
    assert min(result.trial for result in new) > max([result.trial for result in before], default=-1)
    keys = [str(sorted(result.params.items())) for result in after if result.state == "complete"]
    assert len(keys) == len(set(keys))
    assert set(optuna_states(folder)) <= {"COMPLETE", "FAIL"}


def test_ctrl_c_keeps_everything_leaves_nothing_behind_and_resume_goes_on(tmp_path: Path) -> None:
    search = Search(tmp_path, "1000trials")
    # The fifth has just begun, whether the second worker is up by now or not: something is there to be interrupted.
    search.wait_for("started", times=5)
    asked = time.time()
    os.killpg(search.process.pid, signal.SIGINT)
    assert search.end() == 130, search.lines
    assert time.time() - asked < 20
    assert "InterruptedSearchError" in search.lines[-1] and "Traceback" not in "".join(search.lines)
    # Nothing but its own lines: Ray and Tune have printed none.
    assert all(line.split()[0] in ("started", "finished", "InterruptedSearchError:") for line in search.lines)
    assert search.survivors() == []
    before = FileRun(tmp_path).results()
    stopped = [result for result in before if result.state == "stopped"]
    assert {result.reason for result in stopped} == {"interrupted"}, before
    assert len(before) == sum("started" in line for line in search.lines)
    assert "RUNNING" not in optuna_states(tmp_path)
    check_resumed(tmp_path, before, [result.params for result in stopped])


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_workers_that_do_not_listen(tmp_path: Path) -> None:
    search = Search(tmp_path, "10m", "2", "StubbornWorker")
    search.wait_for("started")
    asked = time.time()
    # To the driver alone, as `kill -INT` does: its workers hear of it through the stop file only.
    search.process.send_signal(signal.SIGINT)
    assert search.end() == 130, search.lines
    assert time.time() - asked < 20
    assert search.survivors() == []
    assert {(result.state, result.reason) for result in FileRun(tmp_path).results()} == {("stopped", "interrupted")}


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    search = Search(tmp_path, "10m", "1", "StubbornWorker")
    search.wait_for("started")
    search.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    search.process.send_signal(signal.SIGINT)
    assert search.end() == 130, search.lines
    assert search.survivors() == []
    assert "RUNNING" not in optuna_states(tmp_path)


def test_after_kill_9_nothing_finished_is_lost_and_nothing_runs_on(tmp_path: Path) -> None:
    search = Search(tmp_path, "1000trials")
    search.wait_for("finished", times=2)
    # First one of the workers: its trial is begun again by another.
    search.training_worker().kill()
    search.wait_for("finished", times=5)
    logs = [file.read_text() for file in tmp_path.glob("trials/*/log.txt")]
    assert sum("attempt 2" in log for log in logs) == 1
    search.process.kill()
    search.end()
    # Two idle helpers of Ray try for a minute to tell the server, which is gone, that they are going as well; a worker
    # that was just starting tries to reach it for half a minute.
    idle = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "default_worker.py")
    assert search.survivors(*idle) == []
    before = FileRun(tmp_path).results()
    assert len(before) >= 5 and {result.state for result in before} == {"complete"}
    journalled = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    trials = optuna.load_study(study_name="nasdistill", storage=journalled).trials
    unfinished = [trial.params for trial in trials if trial.user_attrs["trial"] >= len(before)]
    assert unfinished
    check_resumed(tmp_path, before, unfinished)
