"""Which point to try next, and what the sampler learns from its outcome. Optuna without Ray.

Every point is proposed once: first those an interrupted run had begun, then the space's anchors, then the sampler's.
Only a complete trial with finite objectives is ever told as complete; all else is a failure to Optuna, so that a
partial score can neither steer the sampler nor join a front.
"""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from nasdistill.errors import SpaceExhaustedError
from nasdistill.pareto.limits import Limit
from nasdistill.pareto.objectives import Objective
from nasdistill.records import Scalar, Scouted, TrialResult
from nasdistill.search.distributions import (
    Params,
    Space,
    identity,
    point_of,
    suggest_params,
    unseen_point,
)
from nasdistill.search.journal import ORIGIN, TRIAL, StudyJournal
from nasdistill.search.known import ELSEWHERE, FIDELITY, PARTIAL_VALUES
from nasdistill.search.latency_first import LatencyFirstSampler
from nasdistill.search.reconcile import directions_of, ended, partial_of, reconcile, values_of
from nasdistill.search.samplers import SECONDS
from nasdistill.search.worker import BUDGET_USED_UP, INTERRUPTED, SEARCH_STOPPED

Origin = Literal["interrupted", "enqueued", "anchor", "sampler", "fill"]

# A stopped trial that only ran out of time is worth another go when the run goes on.
_WORTH_REPEATING = (INTERRUPTED, BUDGET_USED_UP, SEARCH_STOPPED)
_DRAWS_BEFORE_FILL = 12
# They compare infeasible trials by how much they violate, never by their values.
_CONSTRAINED = (TPESampler, NSGAIISampler, NSGAIIISampler)


@dataclass(frozen=True)
class Draft:
    """A point chosen but not begun: `Proposals.start` begins it, `withdraw` forgets it."""

    params: Params
    origin: Origin
    asked: optuna.Trial = field(repr=False, compare=False)
    resumes: tuple[int, ...] = ()
    """The numbers of the trials in earlier parts of the run that were interrupted with these parameters, in order."""


@dataclass(frozen=True)
class Warmth:
    """A result of an earlier run on the same space, and what multiple of this run's trial length it had, above 0."""

    result: TrialResult
    fidelity: float = 1.0


@dataclass
class _Running:
    draft: Draft
    journal_id: int


class Proposals:
    """The points of one run.

    `results` are those the run folder holds already; they are the truth, and the journal is made to agree with them.
    `enqueued` points come first. The sampler also learns from the `warm` results of an earlier run and from `scouted`
    students; they are no trials of this one. `next_trial` is the number that the next started trial gets.
    """

    def __init__(
        self,
        space: Space,
        sampler: BaseSampler,
        journal: StudyJournal,
        objectives: Iterable[Objective],
        results: Sequence[TrialResult] = (),
        seed: int = 0,
        enqueued: Sequence[Mapping[str, Scalar]] = (),
        warm: Sequence[Warmth] = (),
        constraints: Sequence[Limit] = (),
        scouted: Sequence[Scouted] = (),
    ) -> None:
        self._space = space
        self._sampler = sampler
        self._constraints = tuple(constraints)
        self._journal = journal
        self._objectives = tuple(objectives)
        self._running: dict[int, _Running] = {}
        self._seen: set[str] = set()
        # A resumed run must not replay the random numbers of its first part.
        self._rng = random.Random(f"{seed}/{len(results)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._mind = optuna.create_study(directions=directions_of(self._objectives), sampler=sampler)
        self.next_trial = 0
        unfinished = self._take_over(results)
        for student in scouted:
            self._measured(student.params, student.figures)
        for result in results:
            self._measured(result.params, _told(result))
        for warmth in warm:
            self._warm_up(warmth)
        self._queue: deque[tuple[Params, Origin, tuple[int, ...]]] = deque(self._interrupted(unfinished))
        self._enqueue(enqueued, "enqueued")
        # An earlier run has spread over the space already, anchors included.
        self._enqueue([] if warm else [dict(anchor) for anchor in space.anchors()], "anchor")

    def ask(self) -> Draft | None:
        """The next point, different from all before it; None when the space holds no other."""
        while self._queue:
            params, origin, resumes = self._queue.popleft()
            if identity(self._space, params) not in self._seen:
                return self._draft_of(params, origin, resumes)
        for _ in range(_DRAWS_BEFORE_FILL):
            trial = self._ask_mind()
            try:
                params = suggest_params(trial, self._space)
            except SpaceExhaustedError:
                self._forget(trial)
                break
            if identity(self._space, params) not in self._seen:
                return self._noted(Draft(params, "sampler", trial))
            self._forget(trial)
        point = unseen_point(self._space, self._seen, self._rng)
        return None if point is None else self._draft_of(point, "fill")

    def start(self, draft: Draft) -> int:
        """Give the draft its trial number and put it on disk as running."""
        number = self.next_trial
        frozen = draft.asked._get_latest_trial()
        journal_id = self._journal.start(
            frozen.params, frozen.distributions, {TRIAL: number, ORIGIN: draft.origin}, _lasting(frozen)
        )
        self.next_trial += 1
        self._running[number] = _Running(draft, journal_id)
        return number

    def withdraw(self, draft: Draft) -> None:
        """Forget a draft that is not going to run; it may be proposed again."""
        self._seen.discard(identity(self._space, draft.params))
        self._forget(draft.asked)

    def finish(self, result: TrialResult) -> None:
        """Tell the outcome of a started trial; one that is not running (any more) is ignored."""
        running = self._running.pop(result.trial, None)
        if running is None:
            return
        self._measured(result.params, _told(result))
        values = values_of(result, self._objectives)
        for name, missed in self._missed(result).items():
            running.draft.asked.set_constraint(name, missed)
        if values is None:
            infeasible = self._as_infeasible(result)
            for name, value in partial_of(result, self._objectives).items():
                running.draft.asked.set_user_attr(name, value)
            if infeasible is None:
                self._forget(running.draft.asked)
            else:
                self._mind.tell(running.draft.asked, infeasible)
            self._journal.finish(running.journal_id, None, f"{result.state}: {result.reason or 'objective missing'}")
        else:
            self._mind.tell(running.draft.asked, values)
            self._journal.finish(running.journal_id, values)

    def abandon(self, number: int) -> None:
        """End a started trial that no worker has begun: it leaves no result, and a resumed run begins with it."""
        running = self._running.pop(number)
        self._forget(running.draft.asked)
        self._journal.finish(running.journal_id, None, INTERRUPTED)

    def mend_journal(self, results: Callable[[], Sequence[TrialResult]]) -> None:
        """Bring a journal that was lost on the way what it lacks, if it can be opened again; for the end of a search."""
        if self._journal.lost and self._journal.recover():
            self._reconcile(results())

    @property
    def running(self) -> dict[int, Params]:
        return {number: running.draft.params for number, running in self._running.items()}

    def _ask_mind(self) -> optuna.Trial:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self._mind.ask()

    def _draft_of(self, params: Params, origin: Origin, resumes: tuple[int, ...] = ()) -> Draft:
        self._mind.enqueue_trial(params)
        trial = self._ask_mind()
        return self._noted(Draft(suggest_params(trial, self._space), origin, trial, resumes))

    def _noted(self, draft: Draft) -> Draft:
        self._seen.add(identity(self._space, draft.params))
        return draft

    def _forget(self, trial: optuna.Trial) -> None:
        self._mind.tell(trial, state=TrialState.FAIL)

    def _missed(self, result: TrialResult) -> dict[str, float]:
        """By how much, relative to the limit, a measured student misses each constraint; at most 0 where it keeps it."""
        measured = [(limit, limit.objective.of(result)) for limit in self._constraints]
        return {
            limit.objective.name: (value - limit.value) / limit.value for limit, value in measured if value is not None
        }

    def _as_infeasible(self, result: TrialResult) -> list[float] | None:
        """What a sampler that ranks by violated constraints is told of a rejected trial: None for all others.

        Those samplers never look at the objectives of an infeasible trial, so the accuracy nobody knows may be 0. The
        journal has it as failed.
        """
        if result.state != "rejected" or not isinstance(self._sampler, _CONSTRAINED):
            return None
        if any(limit.objective.of(result) is None for limit in self._constraints) or not self._constraints:
            return None
        values = [objective.of(result) for objective in self._objectives]
        return [0.0 if value is None else float(value) for value in values]

    def _measured(self, params: Params, figures: Mapping[str, float]) -> None:
        """Let a sampler that models costs know those of a student, trained or not."""
        found = point_of(self._space, params)
        if not isinstance(self._sampler, LatencyFirstSampler) or found is None:
            return
        self._sampler.observe(found[0], **figures)

    def _warm_up(self, warmth: Warmth) -> None:
        """Tell the sampler a result of an earlier run; one of shorter or longer training only as what it was."""
        self._measured(warmth.result.params, warmth.result.costs())
        found, values = point_of(self._space, warmth.result.params), values_of(warmth.result, self._objectives)
        if found is None or values is None:
            return
        full = warmth.fidelity == 1.0
        partial: dict[str, Any] = {} if full else {FIDELITY: warmth.fidelity, PARTIAL_VALUES: values, ELSEWHERE: True}
        self._mind.add_trial(ended(*found, values if full else None, partial))
        if full:
            self._seen.add(identity(self._space, found[0]))

    def _enqueue(self, points: Sequence[Mapping[str, Scalar]], origin: Origin) -> None:
        """Queue those points that lie in the space (an anchor written by hand may not)."""
        for point in points:
            found = point_of(self._space, point)
            if found is not None:
                self._queue.append((found[0], origin, ()))

    def _take_over(self, results: Sequence[TrialResult]) -> list[tuple[Params, int | None]]:
        """Bring journal, memory and results to the same state.

        The answer is the points that were begun and not ended, each with the number of its trial.
        """
        by_number = {result.trial: result for result in results}
        journalled, unfinished = self._reconcile(results)
        if self._journal.lost:
            self._remember_results(results)
        self._remember(by_number)

        stopped: list[tuple[Params, int | None]] = []
        for result in results:
            found = point_of(self._space, result.params)
            if found is None:
                continue
            if result.state == "stopped" and result.reason.startswith(_WORTH_REPEATING):
                stopped.append((found[0], result.trial))
            else:
                self._seen.add(identity(self._space, found[0]))
        self.next_trial = 1 + max([-1, *by_number, *journalled])
        return stopped + unfinished

    def _reconcile(self, results: Sequence[TrialResult]) -> tuple[set[int], list[tuple[Params, int | None]]]:
        return reconcile(self._journal, results, self._space, self._objectives)

    def _interrupted(
        self, unfinished: Sequence[tuple[Params, int | None]]
    ) -> list[tuple[Params, Origin, tuple[int, ...]]]:
        """To be queued: those that lie in the space, each once. One interrupted twice was begun under two numbers."""
        begun: dict[str, tuple[Params, list[int]]] = {}
        for params, number in unfinished:
            found = point_of(self._space, params)
            if found is None:
                continue
            _, numbers = begun.setdefault(identity(self._space, found[0]), (found[0], []))
            if number is not None:
                numbers.append(number)
        return [(params, "interrupted", tuple(sorted(numbers))) for params, numbers in begun.values()]

    def _remember_results(self, results: Sequence[TrialResult]) -> None:
        """All that there is to learn from when the journal is out of reach."""
        for result in results:
            found = point_of(self._space, result.params)
            if found is not None:
                partial = partial_of(result, self._objectives)
                values = values_of(result, self._objectives) or self._as_infeasible(result)
                self._mind.add_trial(ended(*found, values, partial, constraints=self._missed(result)))

    def _remember(self, results: Mapping[int, TrialResult]) -> None:
        for frozen in self._journal.trials():
            result = results.get(frozen.user_attrs.get(TRIAL, -1))
            if result is None:
                continue
            # Parameters of an older version of the space would be incompatible with those to come.
            found = point_of(self._space, frozen.params)
            if found is not None:
                complete = frozen.state == TrialState.COMPLETE
                partial = partial_of(result, self._objectives)
                values = frozen.values if complete else self._as_infeasible(result)
                self._mind.add_trial(ended(*found, values, partial, frozen.system_attrs, self._missed(result)))


def _told(result: TrialResult) -> dict[str, float]:
    """The costs of a trial of this run, and its seconds where it went all the way."""
    return result.costs() | ({SECONDS: result.seconds} if result.state == "complete" else {})


def _lasting(frozen: FrozenTrial) -> dict[str, Scalar]:
    """What the sampler noted about a trial (its generation, say), less what only served to fix its parameters."""
    return {name: value for name, value in frozen.system_attrs.items() if name != "fixed_params"}
