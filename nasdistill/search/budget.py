"""How much a search may spend: time, trials or training epochs."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from nasdistill.errors import InputError
from nasdistill.records import RepeatScore, TrialResult

BudgetKind = Literal["time", "trials", "epochs"]

# Every accepted unit: its kind and how many seconds, trials or epochs one of it is.
_UNITS: dict[str, tuple[BudgetKind, float]] = {
    "s": ("time", 1.0),
    "m": ("time", 60.0),
    "h": ("time", 3600.0),
    "trials": ("trials", 1.0),
    "trial": ("trials", 1.0),
    "epochs": ("epochs", 1.0),
    "epoch": ("epochs", 1.0),
}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)")
_ALLOWED = "time (90s, 30m, 2h), trials (40trials) or training epochs (200epochs)"
_LONGEST_SECONDS = 366 * 24 * 3600.0
_MOST = 1e9  # trials or epochs


@dataclass(frozen=True)
class Budget:
    """`amount` is in seconds for `time`, else a whole number of trials or epochs; always above zero.

    In a run whose epochs are a part of the images, `parts` of them are one of those that a person counts.
    """

    kind: BudgetKind
    amount: float
    text: str
    parts: int = 1

    def __str__(self) -> str:
        return self.text


def parse_budget(text: str) -> Budget:
    """The budget a person wrote, such as `90s`, `30m`, `1.5h`, `40trials` or `200epochs`.

    Raises InputError, naming what is allowed, for anything else, for zero and for part of a trial or epoch.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None or match[2] not in _UNITS:
        raise InputError(f"budget '{text}' is not understood: give {_ALLOWED}")
    kind, factor = _UNITS[match[2]]
    amount = float(match[1]) * factor
    if amount <= 0:
        raise InputError(f"budget '{text}' allows nothing: give more than zero, as {_ALLOWED}")
    if kind != "time" and "." in match[1]:
        raise InputError(f"budget '{text}' is not a whole number of {kind}: give {_ALLOWED}")
    if kind == "time" and amount > _LONGEST_SECONDS:
        raise InputError(f"budget '{text}' is more than a year: give {_ALLOWED}")
    if kind != "time" and amount > _MOST:
        raise InputError(f"budget '{text}' is more than a billion {kind}: give {_ALLOWED}")
    return Budget(kind, amount, text.strip())


class BudgetClock:
    """Counts what has been spent. It runs from its creation, so preparation before the first trial counts as time.

    `seconds_before` is the time that earlier parts of a resumed run took. `now` is replaceable for tests and returns seconds
    since the epoch.
    """

    def __init__(self, budget: Budget, seconds_before: float = 0.0, now: Callable[[], float] = time.time) -> None:
        self.budget = budget
        self._now = now
        # one pair, read at once: a display looks from another thread
        self._started: tuple[float, float | None] = (now(), None)
        self._seconds_before = seconds_before
        self._spent = 0  # trials or epochs
        self._longest = 0

    @classmethod
    def resumed(cls, budget: Budget, results: Iterable[TrialResult], seconds_used: float = 0.0) -> BudgetClock:
        """A clock that goes on from what the finished trials `results` have cost; of time, `seconds_used`."""
        clock = cls(budget, seconds_used)
        for result in results:
            clock.count(result)
        return clock

    def count(self, result: TrialResult) -> None:
        """Charge a finished trial. Rejected and interrupted ones are no trials done, and cost the epochs that they tell of:
        an interrupted one none, since it goes on from its last rung or starts anew.

        One that was stopped at a rung is done: nothing will go on with it. A failed one does not know how far it came, and
        counts as long as the longest so far, or failures would be free.
        """
        if self.budget.kind == "trials":
            stopped_early = result.state == "stopped" and result.fidelity > 0
            self._spent += result.state in ("complete", "failed") or stopped_early
        elif self.budget.kind == "epochs":
            self._longest = max(self._longest, result.epochs)
            self._spent += result.epochs or (self._longest if result.state == "failed" else 0)

    def count_repeat(self, score: RepeatScore) -> None:
        """Charge a trial that was trained again: its epochs. It is no trial."""
        if self.budget.kind == "epochs":
            self._spent += score.epochs

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Time that passes within is not counted, and the deadline moves by it."""
        self._started = (self._started[0], self._now())
        try:
            yield
        finally:
            self._started = (self._start, None)

    @property
    def _start(self) -> float:
        """When the clock was started, later by as long as it has been stopped."""
        started, stopped_at = self._started
        return started + (0.0 if stopped_at is None else self._now() - stopped_at)

    @property
    def seconds(self) -> float:
        """Of whatever kind the budget is: seconds of the run so far, those of its earlier parts included."""
        return round(self._elapsed, 1)

    @property
    def _elapsed(self) -> float:
        return self._seconds_before + self._now() - self._start

    @property
    def used(self) -> float:
        """Seconds, trials or epochs, earlier parts of the run included."""
        return self._elapsed if self.budget.kind == "time" else self._spent

    @property
    def left(self) -> float:
        """Seconds, trials or epochs; never below zero."""
        return max(0.0, self.budget.amount - self.used)

    @property
    def share(self) -> float:
        """The part used, from 0 to 1."""
        return min(1.0, self.used / self.budget.amount)

    @property
    def exhausted(self) -> bool:
        return self.used >= self.budget.amount

    @property
    def deadline(self) -> float | None:
        """When the budget ends, in `time.time()` seconds; None unless it is one of time."""
        return self._start + self.budget.amount - self._seconds_before if self.budget.kind == "time" else None
