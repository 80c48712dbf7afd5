"""The Ray Tune searcher: asks for the next point, within the budget.

It replaces Ray's OptunaSearch, which leaves a trial without a finite metric RUNNING for ever and stores a stopped one
as complete with its partial score. Outcomes don't come through here at all: the callback hands them to the ledger.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from nasdistill.records import Scalar, TrialResult
from nasdistill.search.budget import BudgetClock
from nasdistill.search.ledger import Ledger
from nasdistill.search.memory import Possible
from nasdistill.search.proposals import Proposals
from nasdistill.search.reasons import WORKER_FAILED
from nasdistill.search.reserve import MARGIN, RepeatReserve
from nasdistill.search.stop import StopControl
from nasdistill.search.worker import TrialJob

Estimate = Callable[[Mapping[str, Scalar]], float | None]

# However quick the first trials were, a long estimate is not waved through.
_SMALLEST_FACTOR = 0.5
# The sampler's model of a trial's seconds knows latency, which the estimate does not, and has to have seen some families.
_FEWEST_TO_LEARN_FROM = 6
# Of a family with fewer complete trials it knows nothing but the latency. A trial that it takes for shorter than it is would
# be cut off by the end of the budget.
_FEWEST_OF_A_FAMILY = 3
# How many points in a row may be too long for what is left before the search gives up.
_MOST_TOO_LONG = 10
# With nothing complete in the run, so many failures, or workers that could not start, mean that all trials will fail.
_MOST_FAILURES = 30
_MOST_REJECTED = 100  # likewise by the workers, after timing them: nothing keeps the constraints
_MOST_FAILED_STARTS = 3


class StudySearcher(Searcher):
    """Suggests points for at most `workers` trials at a time until the budget, or the space, is used up.

    `estimate` may tell how many seconds a point takes: it is corrected by the median factor at which it was
    off for the complete trials, and where it answers None (or there is no hook) their median time counts. It is
    not called on a worker, so it must be quick. `trial_epochs` (0: unknown) is how long a trial is meant to be.
    """

    def __init__(
        self,
        proposals: Proposals,
        ledger: Ledger,
        clock: BudgetClock,
        stop: StopControl,
        workers: int,
        results: Sequence[TrialResult] = (),
        estimate: Estimate | None = None,
        reserve: RepeatReserve | None = None,
        trial_epochs: int = 0,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._proposals = proposals
        self._ledger = ledger
        self._clock = clock
        self._stop = stop
        self._workers = workers
        self._earlier = list(results)
        self._estimate = estimate
        self._reserve = reserve
        self._trial_epochs = trial_epochs
        # Trials that Tune has and has not reported as complete. Tune sleeps when it gets None while it has none.
        # Each with the time, on the budget's clock, when it is expected to end.
        self._live: dict[str, float] = {}
        self._retries: deque[TrialJob] = deque()
        self._no_more = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """A config for `TrialActor`, None for "ask again later" (while something runs, or the disk is full), or FINISHED."""
        if self._stop.reason is not None:
            return self.FINISHED
        if len(self._live) >= self._workers or not (self._ledger.room.there() or self._clock.exhausted):
            return None
        job = self._retries.popleft() if self._retries else self._next_job()
        if job is None:
            # A trial that runs may yet need its second attempt, and FINISHED can't be taken back.
            return None if self._live else self.FINISHED
        self._live[trial_id] = self._clock.used + self._expecting()(job.params)
        # As text, Tune neither searches it for things to resolve nor flattens it.
        return {"job": job.to_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Room for another trial. `LedgerCallback` has recorded this one's outcome already, or does so next."""
        self._live.pop(trial_id, None)

    def retry(self, job: TrialJob) -> None:
        """Hand out a job whose worker died again, before any other."""
        self._retries.append(dataclasses.replace(job, attempt=job.attempt + 1))

    def _next_job(self) -> TrialJob | None:
        """The next point as a job, or None: for now, or (`_no_more`) for good."""
        if self._no_more or not self._may_start(len(self._live)):
            return None
        fits, too_long = self._fitting(), 0
        while too_long < _MOST_TOO_LONG and self._stop.reason is None:
            draft = self._proposals.ask(fits if too_long or self._scarce() else None)
            if draft is None:
                break
            if self._clock.exhausted or not fits(draft.params):
                self._proposals.withdraw(draft)
                too_long += 1
                # Without the hook every point is expected to take as long; with it the sampler may have had none that fits.
                if self._estimate is None or self._clock.exhausted or draft.origin == "fill":
                    break
            else:
                started = self._ledger.start(draft)
                if started is None:
                    break
                number, folder = started
                return TrialJob(
                    number,
                    draft.params,
                    folder.absolute(),  # a worker on another node has another current folder
                    self._stop.trial_deadline,
                    self._stop.stop_file.absolute(),
                )
        self._no_more = True
        return None

    def save(self, checkpoint_path: str) -> None:
        """Tune insists on a file; everything that matters is in the run folder already."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run is resumed from its folder, not from Ray Tune's state")

    def _may_start(self, running: int) -> bool:
        if self._clock.exhausted or self._hopeless():
            return False
        if self._clock.budget.kind == "trials":
            return running < self._clock.left
        if self._clock.budget.kind == "epochs":
            epochs = [result.epochs for result in self._complete() if result.epochs]
            each = statistics.median(epochs) if epochs else self._trial_epochs
            trained = (*self._earlier, *self._ledger.finished)
            # something is trained, however small the budget
            first = not running and not any(result.epochs or result.state == "failed" for result in trained)
            return first or (running + 1) * each <= self._left()
        return True

    def _scarce(self) -> bool:
        """Whether little enough time is left for the sampler to be told what fits."""
        longest = max((result.seconds for result in self._complete()), default=0.0)
        return self._estimate is not None and self._clock.budget.kind == "time" and self._left() < 2.0 * longest

    def _fitting(self) -> Possible:
        """Whether a trial can finish in what is left of a time budget."""
        if self._clock.budget.kind != "time":
            return lambda params: True
        left, expected = self._left(), self._expecting()
        return lambda params: expected(params) * MARGIN <= left

    def _left(self) -> float:
        """Seconds or epochs that trials may still use; the end of the budget may be kept for repeats.

        These wait for the last trial to end, so until then another one takes nothing from them.
        """
        left = self._clock.left
        if self._reserve is None:
            return left
        busy = 0.0
        if self._clock.budget.kind == "time":
            busy = min(left, max([0.0, *(end - self._clock.used for end in self._live.values())]))
        return max(busy, left - self._reserve.kept(self._complete(), len(self._live), left - busy))

    def _expecting(self) -> Callable[[Mapping[str, Scalar]], float]:
        """The seconds that a trial is expected to take: by the sampler's model of them, by the hook, or as others took.

        Of a family that is hardly known the longer one of the first two counts. 0 when nothing is known yet: the first
        trials have to be started without.
        """
        complete, estimate = self._complete(), self._estimate
        usual = statistics.median(result.seconds for result in complete) if complete else 0.0
        if estimate is None:
            return lambda params: usual
        learnt = self._proposals.expecting_seconds() if len(complete) >= _FEWEST_TO_LEARN_FROM else None
        known = Counter(result.family for result in complete)
        # Estimates are right up to a factor: other trials on the same machine, say, slow all of them down.
        before = [(result.seconds, estimate(result.params)) for result in complete]
        factors = [seconds / told for seconds, told in before if told]
        factor = max(_SMALLEST_FACTOR, statistics.median(factors)) if factors else 1.0

        def expected(params: Mapping[str, Scalar]) -> float:
            told = estimate(params)
            by_step = None if told is None else told * factor
            if learnt is None:
                return usual if by_step is None else by_step
            by_model = learnt(dict(params))
            well_known = known[str(params.get("family"))] >= _FEWEST_OF_A_FAMILY
            return by_model if well_known or by_step is None else max(by_model, by_step)

        return expected

    def _complete(self) -> list[TrialResult]:
        return [result for result in (*self._earlier, *self._ledger.finished) if result.state == "complete"]

    def _hopeless(self) -> bool:
        failed = [result for result in self._ledger.finished if result.state == "failed"]
        failed_starts = sum(result.reason.startswith(WORKER_FAILED) for result in failed)
        rejected = sum(result.state == "rejected" and result.seconds > 0 for result in self._ledger.finished)
        many = len(failed) >= _MOST_FAILURES or failed_starts >= _MOST_FAILED_STARTS or rejected >= _MOST_REJECTED
        return many and not self._complete()
