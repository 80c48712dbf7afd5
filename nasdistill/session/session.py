"""What every step of a search, or of a training for longer, works with."""

from dataclasses import dataclass
from pathlib import Path

from nasdistill.prepare.inputs import Inputs
from nasdistill.progress import Progress
from nasdistill.search.budget import BudgetClock
from nasdistill.session.goals import Goals
from nasdistill.session.resources import Workplace
from nasdistill.store.run_folder import RunFolder


@dataclass(frozen=True)
class Session:
    """A run folder, what is worked on and for what, where, within which budget; `cache` outlives the run."""

    run: RunFolder
    inputs: Inputs
    goals: Goals
    clock: BudgetClock
    place: Workplace
    cache: Path
    progress: Progress

    @property
    def timed(self) -> bool:
        """Whether the budget is one of time."""
        return self.clock.budget.kind == "time"
