"""The label of a trial in the report's figures."""

from __future__ import annotations

import html

from nasdistill.pareto.intervals import Certainty
from nasdistill.pareto.objectives import OBJECTIVES
from nasdistill.records import TrialResult
from nasdistill.report.format import cut, factor, milliseconds, number, parameter, percent
from nasdistill.report.teacher import Teacher


def hover_text(
    result: TrialResult,
    teacher: Teacher | None = None,
    accuracy: str = "map50_95",
    certainty: Certainty | None = None,
) -> str:
    """Everything about one trial, for a Plotly label: lines joined by <br>, all text from outside escaped."""
    lines = [f"<b>trial {result.trial}</b>  {html.escape(result.family)}  {result.state}"]
    if result.state == "complete":
        lines.append(f"mAP50-95 <b>{number(result.map50_95)}</b>  mAP50 <b>{number(result.map50)}</b>")
        if teacher is not None and teacher.share(result, accuracy) is not None:
            lines.append(f"{percent(teacher.share(result, accuracy))} of the teacher's {OBJECTIVES[accuracy].label}")
        lines += _certainty_lines(result, certainty)
    elif result.reason:
        lines.append(html.escape(cut(result.reason, 90)))
    if result.latency_ms is not None:
        speed = (
            ""
            if teacher is None or teacher.speed_up(result) is None
            else f"  {factor(teacher.speed_up(result))} faster"
        )
        lines.append(
            f"<b>{milliseconds(result.latency_ms)} ms</b>  p90 {milliseconds(result.latency_p90_ms)} ms{speed}"
        )
    for device in dict.fromkeys(name.partition("@")[2] for name in result.further):
        latency, p90 = (result.further.get(f"{name}@{device}") for name in ("latency_ms", "latency_p90_ms"))
        lines.append(f"{html.escape(device)}: <b>{milliseconds(latency)} ms</b>  p90 {milliseconds(p90)} ms")
    size = [
        ("params", number(result.params_m, 2), "M"),
        ("GFLOPs", number(result.gflops, 2), ""),
        ("file", number(result.size_mb, 1), "MB"),
        ("energy", milliseconds(result.energy_mj), "mJ"),
    ]
    shown = [f"{name} {value} {unit}".strip() for name, value, unit in size if value != "-"]
    if shown:
        lines.append("  ".join(shown))
    lines += [f"{html.escape(name)}: {html.escape(cut(parameter(v), 40))}" for name, v in result.params.items()]
    return "<br>".join(lines)


def _certainty_lines(result: TrialResult, certainty: Certainty | None) -> list[str]:
    if certainty is None:
        return []
    label, lines, interval = OBJECTIVES[certainty.accuracy].label, [], certainty.intervals.get(result.trial)
    if interval is not None:
        span = f"95 % interval {number(interval.low)} to {number(interval.high)}"
        lines.append(f"mean {label} of {interval.seeds} seeds {number(interval.mean)}, {span}")
    if result.trial in certainty.ties:
        lines.append(f"{label} not told apart from trial {certainty.tied_with(result.trial, ', ')}")
    return lines
