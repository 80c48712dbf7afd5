"""The front in a terminal: a table for people, a plain dictionary for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from nasdistill.pareto.intervals import CONFIDENCE, Certainty
from nasdistill.pareto.objectives import DEFAULT, GFLOPS, LATENCY_MS, OBJECTIVES, Objective, Objectives
from nasdistill.pareto.select import knee
from nasdistill.records import TrialResult, TrialState
from nasdistill.report.columns import cost_text, shown_costs
from nasdistill.report.format import factor, milliseconds, number, parameter, percent
from nasdistill.report.teacher import Teacher

_HEADERS = {
    "latency_ms": ("ms", 5),
    "latency_p90_ms": ("p90 ms", 6),
    "params_m": ("params M", 5),
    "gflops": ("GFLOPs", 7),
    "size_mb": ("size MB", 7),
    "energy_mj": ("mJ", 7),
}
"""Of each cost: the column's header, and how soon it goes on a narrow terminal."""
STATES: tuple[TrialState, ...] = ("complete", "stopped", "rejected", "failed")


@dataclass(frozen=True)
class _Column:
    """`drop` says which columns go first when the terminal is narrow: the highest; 0 stays always."""

    header: str
    cell: Callable[[TrialResult], str]
    drop: int = 0
    align_left: bool = False


def front_table(
    results: Sequence[TrialResult],
    front: Sequence[TrialResult],
    teacher: Teacher | None = None,
    *,
    objectives: Objectives = DEFAULT,
    width: int | None = None,
    rows: int | None = None,
    caption: bool = True,
    certainty: Certainty | None = None,
) -> Table:
    """The front in these objectives as a table, cheapest first, the knee marked with `*`; below it how the other trials
    ended.

    `width` is the number of characters there are (None: all columns). On a narrow terminal the less important columns
    are left out, rather than every cell being cut. `rows` limits the members shown to about that many, evenly over the
    front; its ends and the knee are always there. Where members were repeated, `certainty` (of the same accuracy) adds the
    mean over seeds, half of its interval and a `~` at accuracies that a neighbour's can't be told apart from.
    """
    accuracy = objectives.accuracy.name
    sure = certainty or Certainty(accuracy)

    def marked(result: TrialResult, name: str) -> str:
        return number(getattr(result, name)) + ("~" if name == accuracy and result.trial in sure.ties else "")

    best = knee(front, objectives).trial if front else None
    speed = objectives.speed or LATENCY_MS
    columns = [
        _Column("trial", lambda r: f"{r.trial}*" if r.trial == best else str(r.trial)),
        _Column("family", lambda r: r.family, drop=1, align_left=True),
        _Column("mAP50", lambda r: marked(r, "map50"), drop=0 if accuracy == "map50" else 2),
        _Column("mAP50-95", lambda r: marked(r, "map50_95"), drop=2 if accuracy == "map50" else 0),
        *_cost_columns(objectives),
        _Column("input", lambda r: parameter(r.params.get("image_size", "-")), drop=8),
    ]
    if teacher is not None and getattr(teacher, accuracy) is not None:
        columns.append(_Column("of teacher", lambda r: percent(teacher.share(r, accuracy)), drop=4))
    if teacher is not None and teacher.figure(speed.name) is not None:
        columns.append(_Column("speed-up", lambda r: factor(teacher.speed_up(r, speed.name)), drop=3))
    if any(member.trial in sure.intervals for member in front):
        columns[4:4] = [
            _Column("mean", lambda r: number(getattr(sure.intervals.get(r.trial), "mean", None)), drop=4),
            _Column("+/-", lambda r: number(getattr(sure.intervals.get(r.trial), "half_width", None)), drop=3),
        ]
    if sure.ties:
        columns.append(_Column("tied with", lambda r: sure.tied_with(r.trial, " "), drop=5))
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left", header_style="bold")
    shown = [r for i, r in enumerate(front) if rows is None or i in _spread(len(front), rows) or r.trial == best]
    columns = _fitting(columns, shown, width)
    for column in columns:
        table.add_column(column.header, justify="left" if column.align_left else "right", no_wrap=True, overflow="crop")
    for result in shown:
        style = "bold" if result.trial == best else None
        cells = [Text(column.cell(result)) for column in columns]
        table.add_row(*cells, style=style)
    if caption:
        table.caption = Text("\n".join(_notes(results, front, teacher, speed) + certainty_notes(sure)))
    return table


def _cost_columns(objectives: Objectives) -> list[_Column]:
    """Objectives always stay; GFLOPs are only shown where they are one."""

    def column(cost: Objective) -> _Column:
        figure, drop = _HEADERS[cost.name.partition("@")[0]]
        header = f"{figure} {cost.device}" if cost.device else figure
        return _Column(header, lambda r: cost_text(cost, r), drop=0 if cost in objectives.costs else drop)

    shown = [cost for cost in shown_costs(objectives) if cost != GFLOPS or cost in objectives.costs]
    return [column(cost) for cost in shown]


def front_json(
    results: Sequence[TrialResult],
    front: Sequence[TrialResult],
    teacher: Teacher | None = None,
    *,
    objectives: Objectives = DEFAULT,
    certainty: Certainty | None = None,
) -> dict[str, object]:
    """The same for programs, plain JSON: `objectives` (names), `trials` (counts by state), `knee` (a trial or None),
    `teacher`, `front` (a list).

    Members have the columns of `trials.csv`, `of_teacher` (share 0..1), `speed_up` (or None) and `params`. `seeds`, `mean`,
    `low` and `high` are None for a member that was not repeated; `tied_with` is a list of trials.
    """
    accuracy, speed = objectives.accuracy.name, objectives.speed or LATENCY_MS
    sure = certainty or Certainty(accuracy)
    counts = Counter(result.state for result in results)
    by_state: dict[str, int] = {state: counts[state] for state in STATES}
    return {
        "accuracy": accuracy,
        "objectives": objectives.names,
        "trials": {"total": len(results), **by_state},
        "knee": knee(front, objectives).trial if front else None,
        "teacher": None if teacher is None else dict(vars(teacher)),
        "front": [
            result.model_dump(mode="json")
            | {
                "of_teacher": teacher.share(result, accuracy) if teacher else None,
                "speed_up": teacher.speed_up(result, speed.name) if teacher else None,
                "tied_with": list(sure.ties.get(result.trial, ())),
                **{
                    name: getattr(sure.intervals.get(result.trial), name, None)
                    for name in ("seeds", "mean", "low", "high")
                },
            }
            for result in front
        ],
    }


def certainty_notes(sure: Certainty) -> list[str]:
    """What the marks and the columns of repeats mean; nothing where no trial was repeated."""
    if sure.spread is None:
        return []
    label, seeds = OBJECTIVES[sure.accuracy].label, sum(interval.seeds - 1 for interval in sure.intervals.values())
    notes = [
        f"{seeds} repeats with other seeds: {label} varies by {number(sure.spread.deviation)} (standard deviation); "
        f"+/- is half of the mean's {percent(CONFIDENCE)} interval"
    ]
    if sure.ties:
        notes.append(f"~ {label} can't be told apart from a neighbour's on the front")
    return notes


def counts_line(results: Sequence[TrialResult], running: int = 0) -> str:
    """`12 complete, 2 running, 1 failed`: states that occurred, complete always."""
    counts = Counter(result.state for result in results)
    parts = [f"{counts['complete']} complete"]
    if running:
        parts.append(f"{running} running")
    parts += [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    return ", ".join(parts)


def _notes(
    results: Sequence[TrialResult], front: Sequence[TrialResult], teacher: Teacher | None, speed: Objective
) -> list[str]:
    notes = [f"{len(front)} on the front of {len(results)} trials: {counts_line(results)}"]
    if front:
        notes.append("* the knee: what --trial best takes")
    if teacher is not None:
        known = [
            f"{label} {shown}{unit}"
            for label, shown, unit in (
                ("mAP50", number(teacher.map50), ""),
                ("mAP50-95", number(teacher.map50_95), ""),
                ("at", milliseconds(teacher.figure(speed.name)), f" ms on {speed.device}" if speed.device else " ms"),
            )
            if shown != "-"
        ]
        notes.append(f"teacher {teacher.name}: {', '.join(known) or 'not measured'}")
    return notes


def _spread(length: int, count: int) -> set[int]:
    """At most `count` (>= 2) of the indices 0..length-1, evenly spread, both ends among them."""
    if length <= count:
        return set(range(length))
    return {round(i * (length - 1) / (count - 1)) for i in range(count)}


def _fitting(columns: Sequence[_Column], rows: Sequence[TrialResult], width: int | None) -> list[_Column]:
    """The columns that fit into `width` characters, dropping the least important ones first."""
    kept = list(columns)
    while width is not None and _needed(kept, rows) > width and any(column.drop for column in kept):
        kept.remove(max(kept, key=lambda column: column.drop))
    return kept


def _needed(columns: Sequence[_Column], rows: Sequence[TrialResult]) -> int:
    # A column costs its widest cell, a border and its padding.
    return 1 + sum(max([len(c.header), *(Text(c.cell(row)).cell_len for row in rows)]) + 3 for c in columns)
