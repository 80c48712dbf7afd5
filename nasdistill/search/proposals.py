"""Which point to try next, and what is written of its outcome. Optuna without Ray.

Every point is proposed once: first those an interrupted run had begun, then the space's anchors, then the sampler's.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

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
from nasdistill.search.memory import Memory, Possible, Warmth
from nasdistill.search.reconcile import reconcile
from nasdistill.search.worker import BUDGET_USED_UP, INTERRUPTED, SEARCH_STOPPED

Origin = Literal["interrupted", "enqueued", "anchor", "sampler", "fill"]

# A stopped trial that only ran out of time is worth another go when the run goes on.
_WORTH_REPEATING = (INTERRUPTED, BUDGET_USED_UP, SEARCH_STOPPED)
_DRAWS_BEFORE_FILL = 12


@dataclass(frozen=True)
class Draft:
    """A point chosen but not begun: `Proposals.start` begins it, `withdraw` forgets it."""

    params: Params
    origin: Origin
    asked: optuna.Trial = field(repr=False, compare=False)
    resumes: tuple[int, ...] = ()
    """The numbers of the trials in earlier parts of the run that were interrupted with these parameters, in order."""


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
        self._journal = journal
        self._objectives = tuple(objectives)
        self._memory = Memory(space, sampler, self._objectives, constraints)
        self._running: dict[int, _Running] = {}
        self._seen: set[str] = set()
        # A resumed run must not replay the random numbers of its first part.
        self._rng = random.Random(f"{seed}/{len(results)}")
        self.next_trial = 0
        unfinished = self._take_over(results)
        for student in scouted:
            self._memory.observe(student.params, student.figures)
        for result in results:
            self._memory.learn_costs(result)
        self._queue: deque[tuple[Params, Origin, tuple[int, ...]]] = deque(self._interrupted(unfinished))
        self._enqueue(enqueued, "enqueued")
        asked_for = {identity(space, params) for params, _, _ in self._queue}
        for warmth in warm:
            tried = self._memory.warm_up(warmth)
            if tried is not None and identity(space, tried) not in asked_for:
                self._seen.add(identity(space, tried))
        # An earlier run has spread over the space already, anchors included.
        spread = any(warmth.fidelity is not None for warmth in warm)
        self._enqueue([] if spread else [dict(anchor) for anchor in space.anchors()], "anchor")

    def ask(self, possible: Possible | None = None) -> Draft | None:
        """The next point, different from all before it; None when the space holds no other.

        Of what is not `possible` a sampler that heeds it proposes nothing; others, and the queue, do.
        """
        while self._queue:
            params, origin, resumes = self._queue.popleft()
            if identity(self._space, params) not in self._seen:
                return self._draft_of(params, origin, resumes)
        for _ in range(_DRAWS_BEFORE_FILL):
            trial = self._memory.ask(possible=possible)
            try:
                params = suggest_params(trial, self._space)
            except SpaceExhaustedError:
                self._memory.forget(trial)
                break
            if identity(self._space, params) not in self._seen:
                return self._noted(Draft(params, "sampler", trial))
            self._memory.forget(trial)
        point = unseen_point(self._space, self._seen, self._rng)
        return None if point is None else self._draft_of(point, "fill")

    def expecting_seconds(self) -> Callable[[Params], float] | None:
        """What trials are expected to take by what the sampler has learnt of others; None where it has not."""
        return self._memory.expecting_seconds()

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
        self._memory.forget(draft.asked)

    def finish(self, result: TrialResult) -> None:
        """Tell the outcome of a started trial; one that is not running (any more) is ignored."""
        running = self._running.pop(result.trial, None)
        if running is None:
            return
        values = self._memory.tell(running.draft.asked, result)
        reason = "" if values is not None else f"{result.state}: {result.reason or 'objective missing'}"
        self._journal.finish(running.journal_id, values, reason)

    def abandon(self, number: int) -> None:
        """End a started trial that no worker has begun: it leaves no result, and a resumed run begins with it."""
        running = self._running.pop(number)
        self._memory.forget(running.draft.asked)
        self._journal.finish(running.journal_id, None, INTERRUPTED)

    def mend_journal(self, results: Callable[[], Sequence[TrialResult]]) -> None:
        """Bring a journal that was lost on the way what it lacks, if it can be opened again; for the end of a search."""
        if self._journal.lost and self._journal.recover():
            self._reconcile(results())

    @property
    def running(self) -> dict[int, Params]:
        return {number: running.draft.params for number, running in self._running.items()}

    def _draft_of(self, params: Params, origin: Origin, resumes: tuple[int, ...] = ()) -> Draft:
        trial = self._memory.ask(params)
        return self._noted(Draft(suggest_params(trial, self._space), origin, trial, resumes))

    def _noted(self, draft: Draft) -> Draft:
        self._seen.add(identity(self._space, draft.params))
        return draft

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
        for result in results if self._journal.lost else ():  # all that there is to learn from
            self._memory.remember(result)
        for frozen in self._journal.trials():
            kept = by_number.get(frozen.user_attrs.get(TRIAL, -1))
            if kept is not None:
                self._memory.remember(kept, frozen)
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


def _lasting(frozen: FrozenTrial) -> dict[str, Scalar]:
    """What the sampler noted about a trial (its generation, say), less what only served to fix its parameters."""
    return {name: value for name, value in frozen.system_attrs.items() if name != "fixed_params"}
