"""Early stopping for several objectives as a Ray `TrialScheduler`.

Ray's `ASHAScheduler` takes one metric and ends the trial as if it were complete. Here every objective counts (see
`rungs.py`), a cost such as latency is exact at every rung, and what was stopped keeps its state and its fidelity
(`callback.py`). Scores come in as validated records, so nothing that is not finite ever reaches a rung; and they are on
disk before the decision, so that a resumed search decides by all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import ACCURACY, Objective, losses
from nasdistill.records import RungScore
from nasdistill.search.rungs import Rungs

SCORE = "rung"
"""Key of a result that is a rung's score, as JSON."""
NONE = "none"
"""The scheduler that stops nothing: its trials have no rungs."""


class ParetoAsha(FIFOScheduler):
    """Stops a trial at a rung that does not belong to the promising ones there.

    `scores` are those of earlier parts of the run.
    """

    def __init__(self, objectives: Iterable[Objective], scores: Iterable[RungScore] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._objectives = tuple(objectives)
        uncertain = [index for index, objective in enumerate(self._objectives) if objective.name in ACCURACY]
        self._rungs = Rungs(uncertain)
        for score in scores:
            self._note(score)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if SCORE not in result:
            return TrialScheduler.CONTINUE
        score = RungScore.model_validate_json(result[SCORE])
        self._note(score)
        return TrialScheduler.CONTINUE if self._rungs.goes_on(score.rung, score.trial) else TrialScheduler.STOP

    def _note(self, score: RungScore) -> None:
        self._rungs.note(score.rung, score.trial, losses([score], self._objectives)[0].tolist())


SCHEDULERS: dict[str, Callable[[Iterable[Objective], Iterable[RungScore]], TrialScheduler]] = {
    NONE: lambda objectives, scores: FIFOScheduler(),
    "pareto-asha": ParetoAsha,
}
DEFAULT_SCHEDULER = NONE


def check_scheduler(name: str) -> None:
    """Raises InputError for an unknown name."""
    if name not in SCHEDULERS:
        raise InputError(f"unknown scheduler '{name}'; allowed: {', '.join(SCHEDULERS)}")
