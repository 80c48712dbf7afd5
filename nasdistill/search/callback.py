"""Ray Tune's side of the ledger: tells it what happens to trials, and ends the search when it must end."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial

from nasdistill.records import RungScore, TrialResult
from nasdistill.search.ledger import Ledger
from nasdistill.search.pareto_asha import SCORE
from nasdistill.search.searcher import StudySearcher
from nasdistill.search.stop import StopControl
from nasdistill.search.worker import TrialJob


class StopWhenAsked(Stopper):
    """Ends Tune's loop at once; `LedgerCallback` decides when."""

    def __init__(self) -> None:
        self.now = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.now


class LedgerCallback(Callback):
    """Every outcome goes to the ledger here, before the searcher or any scheduler hears of it.

    When a worker process dies, its trial is tried once more on another worker; the second time it is failed. Tune's own
    `max_failures` is not used for it: a process that dies while it is handed its next trial counts twice there, and
    ends the trial whatever the setting.
    """

    def __init__(self, ledger: Ledger, searcher: StudySearcher, stop: StopControl, stopper: StopWhenAsked) -> None:
        self._ledger = ledger
        self._searcher = searcher
        self._stop = stop
        self._stopper = stopper

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called at least every 0.1 s, whatever the trials do."""
        if self._stop.must_kill() and not self._stopper.now:
            self.kill(trials)
            self._stopper.now = True
        self._ledger.room.there()  # says so also while all workers are busy

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ledger.began(_job(trial).trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if SCORE not in result:
            self._ledger.finish(TrialResult.model_validate_json(result["result"]))
        elif result["done"]:  # the scheduler has said so just now
            self._ledger.cut(RungScore.model_validate_json(result[SCORE]))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        job = _job(trial)
        reason = _crash(trial)
        if self._stop.reason is not None:
            self._ledger.end(job.trial, "stopped", self._stop.reason)
        elif job.attempt == 0:
            self._searcher.retry(job)
        else:
            self._ledger.end(job.trial, "failed", reason)

    def kill(self, trials: list[Trial]) -> None:
        """Kill the workers of running trials; whatever the trial was doing is lost."""
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            if actor is not None and trial.status not in (Trial.TERMINATED, Trial.ERROR):
                ray.kill(actor)


def _job(trial: Trial) -> TrialJob:
    return TrialJob.from_json(trial.config["job"])


def _crash(trial: Trial) -> str:
    """Why a worker process died, in a line; all that Ray knows about it goes to the trial's log."""
    text = ""
    with contextlib.suppress(OSError, TypeError):
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
        with open(_job(trial).folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(text)
    if "memory monitor" in text or "OutOfMemoryError" in text or "running low on memory" in text:
        return "out of memory: Ray killed the worker process twice"
    if "creation task" in text:
        last_line = [line.strip() for line in text.splitlines() if line.strip()][-1]
        return f"the worker process could not start: {last_line}"[:300]
    return "the worker process died twice (a crash in native code, or killed for its memory)"
