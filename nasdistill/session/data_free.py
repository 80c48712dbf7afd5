"""`--data none`: a search that sees no real image. What it is called, and how its images come about in a session."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from nasdistill.data_free.inversion import InversionSettings
from nasdistill.prepare.data_free import Synthetic, synthetic_data
from nasdistill.progress import Progress
from nasdistill.records import Precision
from nasdistill.search.budget import BudgetClock
from nasdistill.store.provenance import data_free_note
from nasdistill.teacher.teacher import Teacher

NO_DATA = "none"
"""What `--data` is called without data; a file of that name is `./none`."""


class SynthesisOnRequest:
    """Makes the data of a search once its other inputs are checked; afterwards it knows what was made.

    A resumed run gets as many images as it had, whatever the budget is now. Synthesis is charged to a time budget.
    `inversion` says how images are made; None: as usual.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        recorded: Mapping[str, Any],
        clock: BudgetClock,
        threads: int,
        cache: Path,
        progress: Progress,
        inversion: InversionSettings | None = None,
    ) -> None:
        self._seed, self._precision = settings["seed"] or 0, cast(Precision, settings["precision"] or "auto")
        self._before = recorded.get("data_free")
        self._clock, self._threads, self._cache, self._progress = clock, threads, cache, progress
        self._inversion = inversion
        self._made: Synthetic | None = None

    def __call__(self, teacher: Teacher, size: int) -> Path:
        """The data.yaml of images of `size` pixels, synthesised from `teacher`."""
        batches = None if self._before is None else (self._before["train_batches"], self._before["val_batches"])
        budget_s = self._clock.budget.amount if self._clock.budget.kind == "time" else None
        self._made = synthetic_data(
            teacher,
            size,
            self._seed,
            self._precision,
            self._cache,
            budget_s,
            self._threads,
            batches,
            self._progress.step,
            self._inversion,
        )
        self._progress.log(f"synthesising images: {self._made.seconds:.1f} s")
        self._progress.log(self.note())
        return self._made.data

    def description(self) -> dict[str, Any]:
        """What `run.json` says of the data."""
        assert self._made is not None
        facts = self._before or self._made.as_json()
        return {"data": "none: images synthesised from the teacher", "data_free": facts, "note": self.note()}

    def note(self) -> str:
        """What a person must know about the scores."""
        assert self._made is not None
        note = data_free_note({"data_free": self._made.as_json()})
        assert note is not None
        return note
