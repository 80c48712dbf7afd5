"""What a running search shows: turns the session's steps and events into the live display's status."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from nasdistill.pareto.hypervolume import Reference, hypervolume
from nasdistill.pareto.objectives import DEFAULT, Objectives
from nasdistill.records import TrialResult
from nasdistill.report.live import LiveDisplay
from nasdistill.report.status import SearchStatus
from nasdistill.report.teacher import teacher_of
from nasdistill.search.budget import Budget, BudgetClock
from nasdistill.search.events import DiskFull, RoomAgain, SearchEvent, TrialFinished, TrialStarted
from nasdistill.tasks import T, Task

TICK_S = 0.5
LITTLE_MAP50 = 0.2  # of a teacher that was likely made for something else
RunTasks = Callable[..., list[Any]]


@dataclass(frozen=True)
class _Search:
    """What is fixed once the trials start."""

    reference: Reference
    epochs: int
    started: float
    used_before: float


class Progress:
    """The session's side of the display. A thread redraws it while a step blocks; nothing here changes the search."""

    def __init__(self, display: LiveDisplay) -> None:
        self._display = display
        self._lock = threading.Lock()
        self._status = SearchStatus(phase="starting")
        self._clock: BudgetClock | None = None
        self._search: _Search | None = None
        self._started = set[int]()  # trials under way
        self._closed = threading.Event()

    @contextlib.contextmanager
    def showing(self) -> Iterator["Progress"]:
        """The display is shown and kept up to date in this block."""
        ticker = threading.Thread(target=self._tick, daemon=True)
        with self._display:
            ticker.start()
            try:
                yield self
            finally:
                self._closed.set()
                ticker.join()
                self._show()

    def begin(self, clock: BudgetClock, results: Sequence[TrialResult], objectives: Objectives = DEFAULT) -> None:
        """The budget has started to run; `results` are those of the run that is resumed."""
        self._clock = clock
        self._change(phase="starting", phase_progress=None, results=tuple(results), objectives=objectives)

    def phase(self, text: str) -> None:
        """A new step, whose length is not known."""
        self._change(phase=text, phase_progress=None)

    def step(self, text: str, share: float | None = None) -> None:
        """A step and how much of it is done, 0..1; None where its length is not known."""
        self._change(phase=text, phase_progress=share)

    def share(self, share: float) -> None:
        """How much of the current step is done, 0..1."""
        self._change(phase_progress=min(max(share, 0.0), 1.0))

    def log(self, message: str) -> None:
        """One message that stays."""
        self._display.log(message)

    def tasks(self, text: str, tasks: Sequence[Task[T]], run: RunTasks) -> list[T]:
        """Run a step's tasks with `run` and show their mean progress; nothing is shown when there are none."""
        if not tasks:
            return []
        shares = [0.0] * len(tasks)
        self._change(phase=text, phase_progress=0.0)

        def on_progress(index: int, reported: str) -> None:
            with contextlib.suppress(ValueError):
                shares[index] = float(reported)
                self.share(sum(shares) / len(shares))

        started = time.monotonic()
        results: list[T] = run(tasks, on_progress)
        self.log(f"{text}: {time.monotonic() - started:.1f} s")
        return results

    def teacher(self, figures: Mapping[str, Any]) -> None:
        """The teacher has been measured."""
        self._change(teacher=teacher_of({"teacher": figures}))
        self.log(
            f"teacher {figures['name']}: mAP50 {figures['map50']:.3f}, mAP50-95 {figures['map50_95']:.3f}, "
            f"{figures['latency_ms']:.1f} ms, {figures['params_m']:.2f} M parameters at {figures['image_size']} px"
        )
        if figures["map50"] < LITTLE_MAP50:
            self.log(
                "that is little: was this teacher trained on images and labels like these? Students learn its mistakes"
            )

    def searching(self, reference: Reference, epochs: int, images: int) -> None:
        """The trials start, each of so many epochs of so many images."""
        used = 0.0 if self._clock is None else self._clock.used
        self._search = _Search(reference, epochs, time.monotonic(), used)
        self.log(f"each trial trains for {epochs} epochs of {images} images")
        self._change(phase="searching", phase_progress=None, hypervolume=self._hypervolume(self._status.results))

    def event(self, event: SearchEvent) -> None:
        """A trial started or finished, or the disk is full, or no longer."""
        if isinstance(event, TrialStarted):
            self._started.add(event.trial)
            self._change(running=len(self._started))
        elif isinstance(event, TrialFinished):
            results = (*self._status.results, event.result)
            self._started.discard(event.result.trial)
            self._change(results=results, running=len(self._started), hypervolume=self._hypervolume(results))
        elif isinstance(event, DiskFull):
            self.log(
                f"the disk of {event.folder} is full ({event.free_bytes / 1e6:.0f} MB free, "
                f"{event.needed_bytes / 1e6:.0f} needed): nothing starts until there is room; what is done is kept"
            )
            self._change(phase="waiting for room on the disk")
        elif isinstance(event, RoomAgain):
            self.log(f"there is room on the disk again ({event.free_bytes / 1e6:.0f} MB): the search goes on")
            self._change(phase="searching")

    def measured_again(self, results: Sequence[TrialResult]) -> None:
        """The results have other latencies now."""
        self._change(results=tuple(results), hypervolume=self._hypervolume(results))

    def done(self, results: Sequence[TrialResult]) -> None:
        """The final results."""
        self._change(phase="done", phase_progress=None, running=0)
        self.measured_again(results)

    def _hypervolume(self, results: Sequence[TrialResult]) -> float | None:
        if self._search is None or not any(result.state == "complete" for result in results):
            return None
        return hypervolume(results, self._search.reference, self._status.objectives)

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._status = replace(self._status, **fields)
        self._show()

    def _tick(self) -> None:
        while not self._closed.wait(TICK_S):
            self._show()

    def _show(self) -> None:
        with self._lock:
            status = (
                self._status
                if self._clock is None
                else replace(self._status, **_budget_fields(self._clock, self._search))
            )
            self._display.update(status)


def _budget_fields(clock: BudgetClock, search: _Search | None) -> dict[str, Any]:
    """The status fields that tell how much of the budget is used and when it ends: by the clock, or at the pace so far."""
    amount = functools.partial(_amount, clock.budget)
    end = None if clock.deadline is None else datetime.fromtimestamp(clock.deadline)
    if end is None and search is not None and clock.used > search.used_before:
        pace = (time.monotonic() - search.started) / (clock.used - search.used_before)
        with contextlib.suppress(OverflowError):  # a budget that nobody lives to see the end of
            end = datetime.now() + timedelta(seconds=pace * clock.left)
    return {
        "budget_used": amount(min(clock.used, clock.budget.amount)),
        "budget_left": amount(clock.left),
        "budget_share": clock.share,
        "estimated_end": end,
    }


def _amount(budget: Budget, value: float) -> str:
    if budget.kind != "time":
        return f"{round(value / budget.parts, 2):.12g} {budget.kind}"
    return str(timedelta(seconds=round(value)))
