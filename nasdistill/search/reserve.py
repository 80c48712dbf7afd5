"""What part of a budget is kept for training the front's members again, and when keeping it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import DEFAULT, Objectives
from nasdistill.records import TrialResult
from nasdistill.search.budget import Budget

REPEATS = 2
"""Further seeds for each member, unless asked otherwise: three scores, the fewest that show an outlier."""
# A seventh of the budget at most. Repeats say how far to trust a front, they don't move it: a search of 40 trials loses 6.
SHARE = 0.15
# Below a dozen trials each one still moves the front, and a search that short is not what a choice is founded on.
FEWEST_TRIALS = 12
WORKER_START_S = 15.0
"""Seconds until a new worker process trains (importing torch, opening views and targets), before this run has shown it: 6.5 s
on a quiet machine (benchmarks.overhead, without views), 30 s and more on one that runs three other things."""
MARGIN = 1.1
"""A trial takes a little longer than expected every second time, a repeat than its member's first training."""


def repeats_for(budget: Budget, asked: int | None) -> int:
    """Further seeds for each member of the front: as asked, else REPEATS, or none where trials are what is counted."""
    if asked is not None:
        return asked
    return 0 if budget.kind == "trials" else REPEATS


class RepeatReserve:
    """The seconds or epochs of a budget in which no trial may be started any more.

    It is nothing until enough trials are done (FEWEST_TRIALS, or one when repeats were `asked` for), then what `repeats`
    further seeds of the present front cost, at most SHARE of the budget; and nothing when that is not enough for a single
    repeat, be it because trials that run leave too little. A budget of trials has none: repeats are no trials.
    """

    def __init__(
        self,
        budget: Budget,
        repeats: int,
        workers: int = 1,
        asked: bool = False,
        objectives: Objectives = DEFAULT,
    ) -> None:
        self._objectives = objectives
        self._budget = budget
        self._repeats = repeats
        self._workers = workers
        self._fewest = 1 if asked else FEWEST_TRIALS
        self._known = (-1, 0.0, 0.0)

    def kept(self, complete: Sequence[TrialResult], running: int = 0, room: float = math.inf) -> float:
        """Seconds or epochs to keep, after the `complete` trials and while `running` others are on their way.

        Repeats begin when these have ended, and get `room` at most: where that is too little, nothing is kept for them.
        """
        if self._budget.kind == "trials" or not self._repeats or not complete:
            return 0.0
        if len(complete) + running < self._fewest:
            return 0.0
        if self._known[0] != len(complete):
            self._known = (len(complete), *self._amounts(complete))
        _, amount, least = self._known
        return min(amount, room) if min(amount, room) >= least else 0.0

    def _amounts(self, complete: Sequence[TrialResult]) -> tuple[float, float]:
        """What repeats of the front may have, and what the shortest of them needs."""
        missing = [(m, max(0, self._repeats - len(m.repeats_map50_95))) for m in front(complete, self._objectives)]
        owed = [(self._cost(member), times) for member, times in missing if times]
        if not owed:
            return 0.0, 0.0
        if self._budget.kind == "epochs":
            least, wanted = min(cost for cost, _ in owed), sum(cost * times for cost, times in owed)
        else:
            longest = max(cost for cost, _ in owed)
            least = WORKER_START_S + min(cost for cost, _ in owed)
            wanted = WORKER_START_S + max(longest, sum(cost * times for cost, times in owed) / self._workers)
        return min(SHARE * self._budget.amount, wanted), least

    def _cost(self, member: TrialResult) -> float:
        return float(member.epochs) if self._budget.kind == "epochs" else member.seconds * MARGIN
