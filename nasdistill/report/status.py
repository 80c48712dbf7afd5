"""What a running search tells the display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from nasdistill.pareto.objectives import DEFAULT, Objectives
from nasdistill.records import TrialResult
from nasdistill.report.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class SearchStatus:
    """A search at one moment. `results` are all finished trials in the order they finished, whatever their state.

    `phase` is what happens now (`teacher targets`, `searching`); `phase_progress` its share done, 0..1, or None when it
    has none. `budget_used` and `budget_left` are texts with a unit (`2 min 10 s`, `12 trials`), `budget_share` is what
    is used, 0..1. `hypervolume` is a share of the reference box, None before the first score.
    """

    phase: str
    phase_progress: float | None = None
    results: Sequence[TrialResult] = field(default_factory=tuple)
    running: int = 0
    budget_used: str = ""
    budget_left: str = ""
    budget_share: float = 0.0
    hypervolume: float | None = None
    estimated_end: datetime | None = None
    objectives: Objectives = DEFAULT
    teacher: Teacher | None = None
