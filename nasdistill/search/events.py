"""What a search tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from nasdistill.records import Scalar, TrialResult


@dataclass(frozen=True)
class TrialStarted:
    """A worker begins a trial (told once, also when the trial is retried on another worker)."""

    trial: int
    params: dict[str, Scalar] = field(hash=False)


@dataclass(frozen=True)
class TrialFinished:
    """A trial has ended in whatever state, and its result is already on disk."""

    result: TrialResult


SearchEvent = TrialStarted | TrialFinished
EventHandler = Callable[[SearchEvent], None]
