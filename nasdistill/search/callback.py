"""Ray Tune's side of the ledger: tells it what happens to trials, and ends the search when it must end."""

from __future__ import annotations

import json
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial

from nasdistill.records import TrialResult
from nasdistill.search.ledger import Ledger
from nasdistill.search.stop import StopControl


class StopWhenAsked(Stopper):  # type: ignore[misc]  # ray has no types
    """Ends Tune's loop at once; `LedgerCallback` decides when."""

    def __init__(self) -> None:
        self.now = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.now


class LedgerCallback(Callback):  # type: ignore[misc]  # ray has no types
    """Every outcome goes to the ledger here, before the searcher or any scheduler hears of it.

    A worker process that dies gives its trial one retry on another worker (Tune's `max_failures=1`); the second time the
    trial is failed.
    """

    def __init__(self, ledger: Ledger, stop: StopControl, stopper: StopWhenAsked) -> None:
        self._ledger = ledger
        self._stop = stop
        self._stopper = stopper

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Called at least every 0.1 s, whatever the trials do."""
        if self._stop.must_kill() and not self._stopper.now:
            self.kill(trials)
            self._stopper.now = True

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ledger.began(_number(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._ledger.finish(TrialResult.model_validate_json(result["result"]))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        trial.set_config({**trial.config, "attempt": 1})

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ledger.end(_number(trial), "failed", _crash(trial.get_pickled_error()))

    def kill(self, trials: list[Trial]) -> None:
        """Kill the workers of running trials; whatever the trial was doing is lost."""
        for trial in trials:
            actor = trial.temporary_state.ray_actor
            if actor is not None and not trial.is_finished():
                ray.kill(actor)


def _number(trial: Trial) -> int:
    return int(json.loads(trial.config["job"])["trial"])


def _crash(error: BaseException | None) -> str:
    """Why a worker process died, in a line."""
    if isinstance(error, OutOfMemoryError) or "OutOfMemory" in str(error):
        return "out of memory: Ray killed the worker process, twice"
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    # Errors of the actor's own creation end with the exception's line; a dead process has Ray's explanation of it.
    detail = next((line for line in lines if "exit detail" in line or "exit code" in line), lines[-1] if lines else "")
    return f"the worker process died twice{': ' + detail if detail else ''}"[:300]
