"""How a search is stopped: by the person, by the end of its budget, or by a failure of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from nasdistill.search.budget import BudgetClock
from nasdistill.search.worker import BUDGET_USED_UP, INTERRUPTED


@dataclass(frozen=True)
class Patience:
    """How long the search waits for its workers, in seconds.

    A trial may overrun a time budget by `overtime` (at most a tenth of the budget), so that one which was slower than
    expected is not lost; then it is told to stop, and killed `kill_after` later. After Ctrl-C it has `grace`.
    """

    overtime: float = 15.0
    kill_after: float = 15.0
    grace: float = 2.0


class StopControl:
    """Whether and why the search must end. Workers see it by the existence of `stop_file`."""

    def __init__(self, stop_file: Path, clock: BudgetClock, patience: Patience) -> None:
        self.stop_file = stop_file
        self.reason: str | None = None
        self._grace = patience.grace
        self._kill_at: float | None = None
        self.trial_deadline: float | None = None
        """When trials are to stop by themselves, in `time.time()` seconds."""
        self._last_moment: float | None = None
        if clock.deadline is not None:
            self.trial_deadline = clock.deadline + min(patience.overtime, 0.1 * clock.budget.amount)
            self._last_moment = self.trial_deadline + patience.kill_after

    def request(self, reason: str) -> None:
        """Ask running trials to stop and start no more. The first reason stays."""
        if self.reason is None:
            self.reason = reason
            self._kill_at = time.time() + self._grace
            # Without the file the workers are killed when their grace is over, so a full disk changes little.
            with contextlib.suppress(OSError):
                self.stop_file.touch()

    def must_kill(self) -> bool:
        """True when workers that still run have had all the time they get."""
        now = time.time()
        if self._last_moment is not None and now >= self._last_moment:
            self.reason = self.reason or BUDGET_USED_UP
            return True
        return self._kill_at is not None and now >= self._kill_at

    @property
    def interrupted(self) -> bool:
        return self.reason == INTERRUPTED

    def clear(self) -> None:
        """Remove the stop file, which a killed search may have left as well."""
        with contextlib.suppress(OSError):
            self.stop_file.unlink()


@contextlib.contextmanager
def stopping_on_signals(control: StopControl) -> Iterator[None]:
    """Within this context the first Ctrl-C (or SIGTERM) asks the search to stop, the second raises KeyboardInterrupt.

    Outside the main thread, where Python allows no signal handlers, signals keep doing what they did.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if control.interrupted:
            raise KeyboardInterrupt
        control.request(INTERRUPTED)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
