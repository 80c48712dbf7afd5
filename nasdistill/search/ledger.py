"""Keeps account of a run's trials: what has begun, and every outcome, on disk before anything else hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from nasdistill.records import RungScore, TrialResult, TrialState
from nasdistill.search.budget import BudgetClock
from nasdistill.search.distributions import Params
from nasdistill.search.events import EventHandler, SearchEvent, TrialFinished, TrialStarted
from nasdistill.search.proposals import Draft, Proposals
from nasdistill.search.room import Room
from nasdistill.search.stop import StopControl
from nasdistill.search.worker import SEARCH_STOPPED
from nasdistill.store.rungs import drop_training, hand_over_training


class Run(Protocol):
    """What the search needs of a run folder; `nasdistill.store.RunFolder` is one."""

    @property
    def path(self) -> Path: ...

    def trial_folder(self, trial: int) -> Path: ...

    def write_trial(self, result: TrialResult) -> None: ...

    def results(self) -> list[TrialResult]: ...


class Ledger:
    """The one place where a trial's outcome goes through, whoever reports it; later reports of the same are ignored.

    Ray Tune swallows or wraps exceptions raised while it handles a result. A failure to write, or of the event handler,
    is therefore kept in `error`, and the search is asked to stop. A full disk is waited for instead, unless the search is
    ending anyway.
    """

    def __init__(
        self, run: Run, proposals: Proposals, clock: BudgetClock, stop: StopControl, on_event: EventHandler | None
    ) -> None:
        self._run = run
        self._proposals = proposals
        self._clock = clock
        self._stop = stop
        self._on_event = on_event
        self.room = Room(run.path, on_event)
        self._begun: dict[int, float] = {}
        self.finished: list[TrialResult] = []
        self.error: Exception | None = None

    def start(self, draft: Draft) -> tuple[int, Path] | None:
        """A trial number and folder for a point about to run; what to go on with is there already. None: they cannot be made,
        and the search ends."""
        number = self._proposals.start(draft)
        folder = self._run.trial_folder(number)
        begun = [self._run.trial_folder(earlier) for earlier in draft.resumes]

        def make_ready() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            hand_over_training(begun, folder)

        try:
            self._when_room(make_ready)
        except OSError as error:
            self._fail(error)
            return None
        return number, folder

    def began(self, number: int) -> None:
        """A worker has taken the trial; a second worker after a crash changes nothing."""
        if number in self._proposals.running and number not in self._begun:
            self._begun[number] = time.time()
            self._tell(TrialStarted(number, self._proposals.running[number]))

    def finish(self, result: TrialResult) -> None:
        if result.trial not in self._proposals.running:
            return
        begun = self._begun.pop(result.trial, None)
        try:
            self._when_room(lambda: self._run.write_trial(result))
            self._proposals.finish(result)
            if result.state == "failed" and begun is not None:  # what no worker had has no folder
                drop_training(self._run.trial_folder(result.trial))
        except Exception as error:
            self._fail(error)
            return
        self._clock.count(result)
        self.finished.append(result)
        self._tell(TrialFinished(result))

    def end(self, number: int, state: TrialState, reason: str) -> None:
        """End a running trial that has no result of its own."""
        params = self._proposals.running.get(number)
        if params is not None:
            seconds = max(0.0, time.time() - self._begun.get(number, time.time()))
            self.finish(_without_scores(number, state, reason, params, seconds))

    def cut(self, score: RungScore) -> None:
        """End a running trial that was stopped at a rung: its score is kept, as one of little training."""
        params = self._proposals.running.get(score.trial)
        if params is not None:
            figures = score.model_dump(exclude={"rung", "trial"})
            reason = f"early, after epoch {score.epochs}: others were better there"
            family = str(params.get("family", ""))
            self.finish(
                TrialResult(
                    trial=score.trial, state="stopped", family=family, reason=reason, params=dict(params), **figures
                )
            )

    def close(self, reason: str) -> None:
        """End what still runs as `stopped`, and forget what no worker had begun."""
        for number in list(self._proposals.running):
            if number in self._begun:
                self.end(number, "stopped", reason)
            else:
                try:
                    self._proposals.abandon(number)
                except OSError as error:
                    # The journal then says that it runs, which a resumed run puts right.
                    self._fail(error)

    @property
    def running(self) -> dict[int, Params]:
        return self._proposals.running

    def _tell(self, event: SearchEvent) -> None:
        handle = self._on_event
        if handle is None:
            return
        try:
            self._when_room(lambda: handle(event))
        except Exception as error:
            self._fail(error)

    def _when_room(self, write: Callable[[], None]) -> None:
        self.room.when_there(write, lambda: self._stop.reason is not None or self._stop.must_kill())

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self._stop.request(f"{SEARCH_STOPPED}: {error}")


def _without_scores(number: int, state: TrialState, reason: str, params: Params, seconds: float) -> TrialResult:
    return TrialResult(
        trial=number,
        state=state,
        family=str(params.get("family", "")),
        reason=reason,
        seconds=seconds,
        params=dict(params),
    )
