"""What a search tells its display."""

import io

from rich.console import Console

from nasdistill.progress import Progress
from nasdistill.records import TrialResult
from nasdistill.report.live import LiveDisplay
from nasdistill.report.status import SearchStatus
from nasdistill.search.events import TrialFinished, TrialStarted


class _Seen(LiveDisplay):
    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.running = list[int]()

    def update(self, status: SearchStatus) -> None:
        self.running.append(status.running)


def test_trials_that_a_worker_rejects_no_longer_run() -> None:
    seen = _Seen()
    progress = Progress(seen)
    for number, state in enumerate(("rejected", "failed", "rejected")):
        progress.event(TrialStarted(number, {}))
        progress.event(TrialFinished(TrialResult(trial=number, state=state, family="f", reason="r")))
    # refused before any worker saw it
    progress.event(TrialFinished(TrialResult(trial=3, state="rejected", family="f", reason="r")))
    assert seen.running == [1, 0, 1, 0, 1, 0, 0]
