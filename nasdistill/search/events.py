"""What a search tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass(frozen=True)
class DiskFull:
    """The run's disk has too few bytes free: no trial starts until there is room, nothing that runs is lost."""

    folder: Path
    free_bytes: int
    needed_bytes: int


@dataclass(frozen=True)
class RoomAgain:
    """There is room again, and the search goes on."""

    folder: Path
    free_bytes: int


SearchEvent = TrialStarted | TrialFinished | DiskFull | RoomAgain
EventHandler = Callable[[SearchEvent], None]
