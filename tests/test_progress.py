"""What a search tells its display."""

import io
import time
from dataclasses import replace

from rich.console import Console

from nasdistill.pareto.hypervolume import Reference
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.progress import Progress
from nasdistill.records import TrialResult
from nasdistill.report.live import LiveDisplay
from nasdistill.report.status import SearchStatus
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.search.events import TrialFinished, TrialStarted


class _Seen(LiveDisplay):
    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.running = list[int]()
        self.last: SearchStatus | None = None

    def update(self, status: SearchStatus) -> None:
        self.running.append(status.running)
        self.last = status


def test_trials_that_a_worker_rejects_no_longer_run() -> None:
    seen = _Seen()
    progress = Progress(seen)
    for number, state in enumerate(("rejected", "failed", "rejected")):
        progress.event(TrialStarted(number, {}))
        progress.event(TrialFinished(TrialResult(trial=number, state=state, family="f", reason="r")))
    # refused before any worker saw it
    progress.event(TrialFinished(TrialResult(trial=3, state="rejected", family="f", reason="r")))
    assert seen.running == [1, 0, 1, 0, 1, 0, 0]


def test_epochs_are_shown_as_a_person_counts_them_and_an_end_beyond_all_calendars_is_left_out() -> None:
    seen = _Seen()
    progress = Progress(seen)
    budget = replace(parse_budget("1000000000epochs"), amount=4e15, parts=4)
    clock = BudgetClock(budget)
    progress.begin(clock, (), DEFAULT)
    progress.searching(Reference(latency_ms=10.0), epochs=6, images=100)
    clock.count(TrialResult(trial=0, state="failed", family="f", reason="r", epochs=6))
    time.sleep(0.05)
    progress.step("anything", 0.25)
    assert seen.last is not None and seen.last.phase_progress == 0.25
    assert seen.last.budget_used == "1.5 epochs" and seen.last.estimated_end is None


def test_a_teacher_of_something_else_is_told() -> None:
    lines: list[str] = []
    seen = _Seen()
    seen.log = lines.append  # type: ignore[method-assign]
    figures = {"name": "t.pt", "map50": 0.6, "map50_95": 0.3, "latency_ms": 20.0, "params_m": 7.0, "image_size": 640}
    progress = Progress(seen)
    progress.teacher(figures)
    assert len(lines) == 1 and "t.pt" in lines[0]
    progress.teacher({**figures, "map50": 0.02})
    assert len(lines) == 3 and "that is little" in lines[2]
