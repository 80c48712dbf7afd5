"""The display while a search runs: a panel that redraws itself in a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import DEFAULT, LATENCY_MS, Objectives
from nasdistill.records import TrialResult
from nasdistill.report.columns import with_unit
from nasdistill.report.console import counts_line, front_table
from nasdistill.report.format import number, percent
from nasdistill.report.status import SearchStatus

PLAIN_INTERVAL_S = 10.0
"""Plain output says where the search is at most this often, beside one line for each finished trial and each phase."""

FRONT_ROWS = 8
MOST_COLUMNS = 120

# A phase that counts ("warming family 2 of 3", "targets 45 %") is still the same phase.
_NO_DIGITS = str.maketrans("", "", "0123456789.")


class LiveDisplay:
    """Shows a running search. Use as a context manager; `update` with each new status, `log` for messages.

    `plain` None decides by the console: a panel in a terminal that can move its cursor, otherwise lines without
    carriage returns or colour codes, so that a log file stays readable. `clock` gives seconds, for the plain interval.
    """

    def __init__(
        self, console: Console | None = None, plain: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console if console is not None else Console()
        # Without UTF-8 a name in another script could not be drawn; plain lines replace what can't be written.
        drawable = self.console.is_terminal and self.console.encoding.lower().startswith("utf")
        self.plain = plain if plain is not None else not drawable or self.console.is_dumb_terminal
        self._clock = clock
        self._view = _StatusView()
        self._live: Live | None = None
        self._seen = 0
        self._phase = ""
        self._last_line = float("-inf")

    def __enter__(self) -> LiveDisplay:
        if not self.plain:
            self._live = Live(self._view, console=self.console, refresh_per_second=4, vertical_overflow="crop")
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            # The last panel stays on the screen, above the command's closing words.
            self._live.__exit__(kind, error, trace)
            self._live = None

    def update(self, status: SearchStatus) -> None:
        """Show `status`. Cheap enough to be called at every report of a trial: drawing is limited to 4 a second."""
        if self.plain:
            self._update_plain(status)
        else:
            self._view.show(status)

    def log(self, message: str) -> None:
        """One message that stays: above the panel in a terminal, a line with the time of day otherwise."""
        self._line(message)

    def _update_plain(self, status: SearchStatus) -> None:
        now = self._clock()
        phase = status.phase.translate(_NO_DIGITS)
        if phase != self._phase:
            self._phase = phase
            self._line(status.phase)
            self._last_line = now
        for result in status.results[self._seen :]:
            self._line(trial_line(result, status.objectives))
            self._last_line = now
        self._seen = max(self._seen, len(status.results))
        if now - self._last_line >= PLAIN_INTERVAL_S:
            self._line(progress_line(status))
            self._last_line = now

    def _line(self, message: str) -> None:
        text = f"{datetime.now():%H:%M:%S} {' '.join(message.split())}"
        # A pipe may take ASCII only; a class name in another script must not end a search.
        encoding = self.console.encoding or "utf-8"
        text = text.encode(encoding, "replace").decode(encoding, "replace")
        if self.plain:
            self.console.file.write(text + "\n")
            self.console.file.flush()
        else:
            self.console.print(Text(text), soft_wrap=True)


def trial_line(result: TrialResult, objectives: Objectives = DEFAULT) -> str:
    """One finished trial in one line, with its latency and whatever else is an objective."""
    if result.state == "complete":
        scores = f"mAP50 {number(result.map50)}, mAP50-95 {number(result.map50_95)}"
        costs = dict.fromkeys((LATENCY_MS, *objectives.costs))
        return f"trial {result.trial} {result.family}: {scores} at {', '.join(with_unit(c, result) for c in costs)}"
    return f"trial {result.trial} {result.family} {result.state}: {result.reason}"


def progress_line(status: SearchStatus) -> str:
    """Where the search is, in one line."""
    parts = [_phase_text(status), counts_line(status.results, status.running)]
    if status.budget_used:
        parts.append(f"budget {_budget_text(status)}")
    if status.hypervolume is not None:
        parts.append(f"hypervolume {number(status.hypervolume)}")
    if status.estimated_end is not None:
        parts.append(f"ends about {_clock_time(status.estimated_end)}")
    return "; ".join(parts)


class _StatusView:
    """Draws the latest status, at the size the terminal has at that moment; the front is computed once per tuple
    of results."""

    def __init__(self) -> None:
        self._status: SearchStatus | None = None
        self._front: list[TrialResult] = []
        self._front_of: Sequence[TrialResult] | None = None

    def show(self, status: SearchStatus) -> None:
        if status.results is not self._front_of:
            self._front = front(status.results, status.objectives)
            self._front_of = status.results
        self._status = status

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._status is not None:
            yield draw_status(self._status, self._front, options.max_width, console.height)


def draw_status(
    status: SearchStatus, members: list[TrialResult], width: int, height: int | None = None
) -> RenderableType:
    """The panel for `status` and the front `members`, for a terminal of `width` x `height` characters."""
    width = min(width, MOST_COLUMNS)
    inner = max(width - 4, 10)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True, overflow="crop")
    facts.add_column(ratio=1, overflow="fold")
    facts.add_row("now", Text(_phase_text(status)))
    facts.add_row("trials", Text(counts_line(status.results, status.running)))
    if status.budget_used or status.budget_left:
        facts.add_row("budget", Text(_budget_text(status)))
        facts.add_row(
            "", ProgressBar(total=1.0, completed=min(max(status.budget_share, 0.0), 1.0), width=min(inner - 10, 60))
        )
    if status.hypervolume is not None:
        facts.add_row("hypervolume", Text(number(status.hypervolume)))
    if status.estimated_end is not None:
        facts.add_row("ends about", Text(_clock_time(status.estimated_end)))
    parts: list[RenderableType] = [facts]
    if members:
        # Borders, facts and the table's head take 12 lines; a panel that is higher than the terminal would be cut.
        rows = FRONT_ROWS if height is None else max(2, min(FRONT_ROWS, height - 13))
        table = front_table(
            status.results, members, status.teacher, objectives=status.objectives, width=inner, rows=rows, caption=False
        )
        hidden = len(members) - table.row_count
        parts += [Text("front so far" + (f" ({hidden} more between these)" if hidden else ""), style="bold"), table]
    return Panel(Group(*parts), title="nasdistill search", title_align="left", border_style="dim", width=width)


def _phase_text(status: SearchStatus) -> str:
    return status.phase if status.phase_progress is None else f"{status.phase} {percent(status.phase_progress)}"


def _budget_text(status: SearchStatus) -> str:
    left = f", {status.budget_left} left" if status.budget_left else ""
    return f"{status.budget_used} used{left} ({percent(status.budget_share)})"


def _clock_time(moment: datetime) -> str:
    return f"{moment:%H:%M}" if moment.date() == datetime.now(moment.tzinfo).date() else f"{moment:%Y-%m-%d %H:%M}"
