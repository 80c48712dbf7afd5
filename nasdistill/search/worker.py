"""The seam between the search and what a trial does: the search needs no more than this from its worker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from nasdistill.records import RungScore, Scalar, TrialResult

# The reasons of a `stopped` trial that had no more time; the last one is followed by what went wrong.
INTERRUPTED = "interrupted"
BUDGET_USED_UP = "budget used up"
SEARCH_STOPPED = "search stopped"


@dataclass(frozen=True)
class TrialJob:
    """One trial to run.

    `params` are the flat parameters of the search space. Everything the trial leaves behind goes to `folder`.
    `deadline` is in `time.time()` seconds, None without one. A worker looks at the deadline and for the existence of
    `stop_file` every second or so and raises `DeadlineReachedError`; one that doesn't is killed a little later.
    `attempt` is 1 when the trial's first worker died and this is the second one. `seed` is None for the run's own; a
    repeat of a trial has another one, and no rungs.
    """

    trial: int
    params: dict[str, Scalar]
    folder: Path
    deadline: float | None
    stop_file: Path
    attempt: int = 0
    seed: int | None = None

    def must_end(self) -> bool:
        """Whether the trial has no more time, or the search was told to stop."""
        return self.stop_file.exists() or (self.deadline is not None and time.time() > self.deadline)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> TrialJob:
        fields = json.loads(text)
        return cls(**{**fields, "folder": Path(fields["folder"]), "stop_file": Path(fields["stop_file"])})


class Worker(Protocol):
    """Runs trials one after the other in one process that stays warm between them.

    `run` returns a `complete` or `rejected` result. Any exception makes the trial `failed` with the message's first
    line as its reason, except `DeadlineReachedError`, which makes it `stopped`. `report` takes a line for the log. A
    generator yields the score of each rung that the trial reaches, and is closed there when the scheduler stops it.
    """

    def run(
        self, job: TrialJob, report: Callable[[str], None]
    ) -> TrialResult | Generator[RungScore, None, TrialResult]: ...


WorkerFactory = Callable[[], Worker]
"""Picklable; called once per worker process, in that process."""


def at_the_end(outcome: TrialResult | Generator[RungScore, None, TrialResult]) -> TrialResult:
    """What a worker's `run` comes to when nothing stops it at a rung."""
    if not isinstance(outcome, Generator):
        return outcome
    while True:
        try:
            next(outcome)
        except StopIteration as end:
            result: TrialResult = end.value
            return result
