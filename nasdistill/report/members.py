"""The tables of the report's fronts: every member with its figures, its parameters and the command that exports it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape

from nasdistill.pareto.intervals import Certainty
from nasdistill.pareto.objectives import LATENCY_MS, OBJECTIVES
from nasdistill.records import Scalar, TrialResult
from nasdistill.report.columns import cost_text, shown_costs
from nasdistill.report.format import MISSING, SCROLLED, factor, number, parameter, percent
from nasdistill.report.series import FrontSeries, fixed_parameters
from nasdistill.report.teacher import Teacher

_HEADS = {
    "latency_ms": "latency ms",
    "latency_p90_ms": "p90 ms",
    "params_m": "params M",
    "gflops": "GFLOPs",
    "size_mb": "file MB",
    "energy_mj": "energy mJ",
}


def front_members(series: FrontSeries, run_name: str) -> str:
    """The table of the run's front, cheapest first, with the command that exports each member."""
    if not series.front:
        return """<section><h2>The front</h2>
<p>No trial completed at full length, so there is no front.</p></section>"""
    label, costs = OBJECTIVES[series.accuracy].label, series.objectives.costs
    if costs == (LATENCY_MS,):
        meaning = f"Fastest first. No other trial is both faster and better in {label}."
    else:
        named = " and ".join(escape(cost.label) for cost in costs)
        meaning = (
            f"Least {escape(costs[0].label)} first. No other trial is at least as good in {label}, {named} at once."
        )
    best = f"nasdistill export {shlex.quote(run_name)} --trial best --format onnx"
    return f"""<section aria-labelledby="members-title">
<h2 id="members-title">The front, trial by trial</h2>
<p>{meaning} Latency is the median of the exported model; the
accuracy belongs to the same file. {_certainty_text(series)}To export the knee:</p>
{_command(best)}
{_table(series, run_name)}
</section>"""


def device_fronts(fronts: Sequence[tuple[str, FrontSeries]], run_name: str) -> str:
    """The front on each of several devices, folded; nothing where there is one device."""
    parts = []
    for device, series in fronts:
        if series.front:
            best = (
                f"nasdistill export {shlex.quote(run_name)} --device {shlex.quote(device)} --trial best --format onnx"
            )
            parts.append(
                f"<details><summary>On {escape(device)} ({len(series.front)})</summary>{_command(best)}"
                f"{_table(series, run_name)}</details>"
            )
    if not parts:
        return ""
    return f"""<section aria-labelledby="devices-title">
<h2 id="devices-title">The front on each device</h2>
<p>Accuracy against the latency on one device, whatever the others say. Fastest first.</p>
{"".join(parts)}
</section>"""


def trained_for_longer(
    trained: Sequence[TrialResult], results: Sequence[TrialResult], series: FrontSeries, run_name: str
) -> str:
    """The students that `train` trained for longer, beside what they were in the search; nothing where there are none."""
    if not trained:
        return ""
    teacher, before, rows = series.teacher or Teacher(), {result.trial: result for result in results}, []
    speed = series.objectives.speed or LATENCY_MS
    latency = f"latency ms on {speed.device}" if speed.device else "latency ms"
    heads = ["trial", "epochs", "mAP50-95", "mAP50", latency, "params M", "of teacher's mAP50-95", "speed-up"]
    for result in trained:
        cells = [str(result.epochs), _from_to(before, result, "map50_95"), _from_to(before, result, "map50")]
        cells += [number(speed.of(result)), number(result.params_m), percent(teacher.share(result))]
        cells += [factor(teacher.speed_up(result, speed.name))]
        command = f"nasdistill export {shlex.quote(run_name)} --trial {result.trial} --trained --format onnx"
        rows.append(_row(result, cells, _command(command)))
    return f"""<section aria-labelledby="trained-title">
<h2 id="trained-title">Trained for longer</h2>
<p>The same students at another length than the search's trials, so on no front; accuracies as they were in the search, and
now.</p>
{_scrolled(heads, rows)}
</section>"""


def _from_to(before: Mapping[int, TrialResult], result: TrialResult, name: str) -> str:
    first = before.get(result.trial)
    return f"{number(getattr(first, name, None))} → {number(getattr(result, name))}"


def _table(series: FrontSeries, run_name: str) -> str:
    teacher, speed = series.teacher or Teacher(), series.objectives.speed or LATENCY_MS
    of_teacher = getattr(teacher, series.accuracy) is not None
    faster = teacher.figure(speed.name) is not None
    costs = shown_costs(series.objectives)
    heads = ["trial", "mAP50-95", "mAP50"]
    for cost in costs:
        head = _HEADS[cost.name.partition("@")[0]]
        heads.append(f"{head} on {cost.device}" if cost.device else head)
    sure, repeated = series.certainty, series.certainty.spread is not None
    heads += ["mean of seeds", "95 % interval", "tied with"] * repeated
    heads += ["of teacher"] * of_teacher + ["speed-up"] * faster
    compared = (*series.front, *series.dominated)
    same = fixed_parameters(compared) if len(compared) > 1 else {}
    rows = []
    for member in series.front:
        is_knee = series.knee is not None and member.trial == series.knee.trial
        cells = [number(member.map50_95), number(member.map50), *(cost_text(cost, member) for cost in costs)]
        cells += _certainty_cells(member, sure) * repeated
        cells += [percent(teacher.share(member, series.accuracy))] * of_teacher
        cells += [factor(teacher.speed_up(member, speed.name))] * faster
        tag = '<span class="tag">knee</span>' if is_knee else ""
        command = f"nasdistill export {shlex.quote(run_name)} --trial {member.trial} --format onnx"
        more = f'<div class="params">{_parameters(member.params, same)}</div>{_command(command)}'
        rows.append(_row(member, cells, more, tag))
    return f"{_scrolled(heads, rows)}\n{_same_in_all(same)}"


def _row(result: TrialResult, cells: Sequence[str], more: str, tag: str = "") -> str:
    """A student's figures, and below them `more` over the whole width."""
    return (
        f'<tbody><tr><th scope="row">{result.trial} <span class="family">{escape(result.family)}</span>{tag}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + f'</tr><tr class="more"><td colspan="{len(cells) + 1}">{more}</td></tr></tbody>'
    )


def _scrolled(heads: Sequence[str], rows: Sequence[str]) -> str:
    return f"""{SCROLLED}<table>
<thead><tr>{"".join(f'<th scope="col">{escape(head)}</th>' for head in heads)}</tr></thead>
{"".join(rows)}
</table></div>"""


def _certainty_cells(member: TrialResult, sure: Certainty) -> list[str]:
    interval = sure.intervals.get(member.trial)
    ties = sure.tied_with(member.trial, ", ") or MISSING
    if interval is None:
        return [MISSING, MISSING, ties]
    return [f"{number(interval.mean)} of {interval.seeds}", f"{number(interval.low)} to {number(interval.high)}", ties]


def _certainty_text(series: FrontSeries) -> str:
    """What the repeats of the front showed, in a few sentences; nothing where there are none."""
    sure, label = series.certainty, OBJECTIVES[series.accuracy].label
    if sure.spread is None:
        return ""
    members = sum(member.trial in sure.intervals for member in series.front)
    tied = (
        f"Of {len(sure.ties)} members {label} can't be told apart from a neighbour's: they are tied, and a difference "
        "between them may be chance."
        if sure.ties
        else f"All neighbours can be told apart in {label}."
    )
    return (
        f"{members} of {len(series.front)} members were trained again with other seeds; from seed to seed {label} varies by "
        f"{number(sure.spread.deviation)} (standard deviation, pooled over {len(sure.intervals)} trials). {tied} "
    )


def _parameters(params: Mapping[str, Scalar], same: Mapping[str, Scalar]) -> str:
    """Those that tell a member from the others."""
    return "".join(
        f"<span>{escape(name)} <b>{escape(parameter(value))}</b></span>"
        for name, value in params.items()
        if name != "family" and name not in same
    )


def _same_in_all(same: Mapping[str, Scalar]) -> str:
    if not same:
        return ""
    return f'<p>The same in all trials:</p><div class="params">{_parameters(same, {})}</div>'


def _command(command: str) -> str:
    return f'<div class="command"><code>{escape(command)}</code><button type="button" class="copy">copy</button></div>'
