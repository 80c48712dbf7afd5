"""The sections of the HTML report, each a function from plain data to markup. All text from outside is escaped here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nasdistill.pareto.intervals import Certainty
from nasdistill.pareto.objectives import OBJECTIVES
from nasdistill.records import TrialResult
from nasdistill.report.console import counts_line
from nasdistill.report.figures import PARAMETER_LIMIT
from nasdistill.report.format import MISSING, duration, factor, milliseconds, number, parameter, percent
from nasdistill.report.series import FrontSeries, HypervolumeSeries, ParameterSeries, fixed_parameters
from nasdistill.report.teacher import Teacher
from nasdistill.store.provenance import data_free_note

UNSCORED_ROWS = 200
_EXPLAINED = {
    "failed": "raised an error, ran out of memory or gave no finite score",
    "rejected": "turned down before training, for example over a latency limit",
    "stopped": "cut off before their end; a partial score is not compared",
}


def heading(
    name: str,
    run: Mapping[str, Any],
    series: FrontSeries,
    results: Sequence[TrialResult],
    volume: HypervolumeSeries,
) -> str:
    """Title, what was searched on what, and the run's few most important figures."""
    device = run.get("device")
    device_name = device.get("name") if isinstance(device, Mapping) else device
    facts = [
        ("data", run.get("data")),
        ("teacher", series.teacher.name if series.teacher else None),
        ("device", device_name),
        ("took", duration(run.get("seconds")) if run.get("seconds") is not None else None),
        ("started", str(run["started"])[:16].replace("T", " ") if run.get("started") else None),
    ]
    note = data_free_note(run)
    warning = f'<p class="note"><strong>{escape(note)}</strong></p>' if note else ""
    shown = "".join(f"<li><span>{label}</span> {escape(str(value))}</li>" for label, value in facts if value)
    return f"""<header>
<p class="kicker">nasdistill search report</p>
<h1>{escape(name)}</h1>
<ul class="facts">{shown}</ul>
<p class="lead">{_summary(series, results)}</p>{warning}
{_tiles(series, results, volume)}
</header>"""


def front_plot(series: FrontSeries, results: Sequence[TrialResult]) -> str:
    """The place of the interactive front, its buttons, and what is to be seen in it."""
    hidden = sum(r.latency_ms is None for trials in series.unscored.values() for r in trials)
    notes = [
        "Every point is one trial; its label lists all parameters. The line is the best accuracy to be had within a "
        "latency. Each of the two accuracies has its own front and knee."
    ]
    if any(series.unscored.values()):
        notes.append("Trials without a score are marked below the plot at their latency, never at mAP 0.")
    if hidden:
        notes.append(
            f"{hidden} without a latency {'is' if hidden == 1 else 'are'} only in the table of unscored trials."
        )
    pressed = {name: str(name == series.accuracy).lower() for name in ("map50_95", "map50")}
    return f"""<section aria-labelledby="front-title">
<div class="section-head"><h2 id="front-title">Accuracy against latency</h2>
<div class="controls">
<div class="buttons" role="group" aria-label="Accuracy shown">
<button type="button" data-accuracy="map50_95" aria-pressed="{pressed["map50_95"]}">mAP50-95</button>
<button type="button" data-accuracy="map50" aria-pressed="{pressed["map50"]}">mAP50</button></div>
<div class="buttons" role="group" aria-label="Latency scale">
<button type="button" data-scale="log">log</button><button type="button" data-scale="linear">linear</button></div>
</div></div>
<div class="plot" id="plot-front" role="img" aria-label="Scatter plot of accuracy against latency; the table below has \
the front's figures"></div>
<p class="note">{" ".join(notes)}</p>
</section>"""


def front_members(series: FrontSeries, run_name: str) -> str:
    """The table of the front, fastest first, with the command that exports each member."""
    if not series.front:
        return """<section><h2>The front</h2>
<p>No trial completed at full length, so there is no front.</p></section>"""
    label = OBJECTIVES[series.accuracy].label
    teacher = series.teacher or Teacher()
    of_teacher = getattr(teacher, series.accuracy) is not None
    faster = teacher.latency_ms is not None
    heads = ["trial", "mAP50-95", "mAP50", "latency ms", "p90 ms", "params M", "GFLOPs", "file MB"]
    sure, repeated = series.certainty, series.certainty.spread is not None
    heads += ["mean of seeds", "95 % interval", "tied with"] * repeated
    heads += ["of teacher"] * of_teacher + ["speed-up"] * faster
    rows = []
    for member in series.front:
        is_knee = series.knee is not None and member.trial == series.knee.trial
        cells = [number(member.map50_95), number(member.map50), milliseconds(member.latency_ms)]
        cells += [milliseconds(member.latency_p90_ms), number(member.params_m, 2), number(member.gflops, 2)]
        cells += [number(member.size_mb, 1)]
        cells += _certainty_cells(member, sure) * repeated
        cells += [percent(teacher.share(member, series.accuracy))] * of_teacher
        cells += [factor(teacher.speed_up(member))] * faster
        tag = '<span class="tag">knee</span>' if is_knee else ""
        command = f"nasdistill export {shlex.quote(run_name)} --trial {member.trial} --format onnx"
        rows.append(
            f'<tbody><tr><th scope="row">{member.trial} <span class="family">{escape(member.family)}</span>{tag}</th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + f'</tr><tr class="more"><td colspan="{len(heads)}"><div class="params">{_parameters(member)}</div>'
            + f"{_command(command)}</td></tr></tbody>"
        )
    best = f"nasdistill export {shlex.quote(run_name)} --trial best --format onnx"
    return f"""<section aria-labelledby="members-title">
<h2 id="members-title">The front, trial by trial</h2>
<p>Fastest first. No other trial is both faster and better in {label}. Latency is the median of the exported model; the
accuracy belongs to the same file. {_certainty_text(series)}To export the knee:</p>
{_command(best)}
<div class="scroll"><table>
<thead><tr>{"".join(f'<th scope="col">{head}</th>' for head in heads)}</tr></thead>
{"".join(rows)}
</table></div>
</section>"""


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


def hypervolume(series: HypervolumeSeries) -> str:
    """How the front grew over the trials."""
    if series.reference is None:
        return ""
    return f"""<section aria-labelledby="volume-title">
<h2 id="volume-title">Progress of the search</h2>
<p>Hypervolume: the mean accuracy to be had over all latencies up to {milliseconds(series.reference.latency_ms)} ms, as
the trials came. Level for long: the search found little more. Still rising at the end: a larger budget would pay.</p>
<div class="plot" id="plot-hypervolume" role="img" aria-label="Hypervolume over the trials, now \
{number(series.share[-1] if series.share else 0.0)}"></div>
</section>"""


def parameters(series: Sequence[ParameterSeries], results: Sequence[TrialResult], accuracy: str) -> str:
    """A small plot for each parameter that varied; what did not is listed."""
    if not series:
        return ""
    plots = []
    for index, one in enumerate(series):
        strength = "" if one.correlation is None else f"rank correlation {one.correlation:+.2f}"
        plots.append(
            f"<figure><figcaption><b>{escape(one.name)}</b><span>{strength}</span></figcaption>"
            f'<div class="plot" id="plot-parameter-{index}"></div></figure>'
        )
    many = max(len(one.results) for one in series) > PARAMETER_LIMIT
    drawn = f"A sample of up to {PARAMETER_LIMIT} trials" if many else "All trials"
    fixed = fixed_parameters(results)
    same = ", ".join(f"{escape(name)} {escape(parameter(value))}" for name, value in fixed.items())
    return f"""<section aria-labelledby="parameters-title">
<h2 id="parameters-title">Parameters against {OBJECTIVES[accuracy].label}</h2>
<p>{drawn} of full length; filled points are on the front. A correlation over a search is a hint, not an effect: the
sampler chose where to look.{f" The same in all trials: {same}." if same else ""}</p>
<div class="small-multiples">{"".join(plots)}</div>
</section>"""


def unscored(series: FrontSeries) -> str:
    """Failed, rejected and stopped trials with their reasons; equal ones of a family share a row."""
    groups: dict[tuple[str, str, str], list[TrialResult]] = {}
    for state in ("failed", "rejected", "stopped"):
        for result in series.unscored[state]:
            groups.setdefault((state, result.family, result.reason), []).append(result)
    if not groups:
        return ""
    rows = []
    for (state, family, reason), trials in list(groups.items())[:UNSCORED_ROWS]:
        numbers = ", ".join(str(r.trial) for r in trials[:12]) + (
            f" and {len(trials) - 12} more" if len(trials) > 12 else ""
        )
        latencies = sorted(r.latency_ms for r in trials if r.latency_ms is not None)
        span = " to ".join(dict.fromkeys(milliseconds(ms) for ms in (*latencies[:1], *latencies[-1:]))) or "-"
        rows.append(
            f'<tr><td><span class="state {state}">{state}</span></td><td class="numbers">{numbers}</td>'
            f'<td>{escape(family)}</td><td class="right">{span}</td><td class="reason">{escape(reason)}</td></tr>'
        )
    left = len(groups) - len(rows)
    more = f'<p class="note">{left} further reasons are in trials.csv.</p>' if left else ""
    said = "; ".join(
        f"{len(series.unscored[state])} {state}: {_EXPLAINED[state]}"
        for state in ("failed", "rejected", "stopped")
        if series.unscored[state]
    )
    opened = " open" if len(rows) <= 15 else ""
    return f"""<section aria-labelledby="unscored-title">
<h2 id="unscored-title">Trials without a score</h2>
<p>{said}.</p>
<details{opened}><summary>Reasons ({len(rows)})</summary>
<div class="scroll"><table class="plain">
<thead><tr><th scope="col">state</th><th scope="col">trials</th><th scope="col">family</th>\
<th scope="col" class="right">latency ms</th><th scope="col">reason</th></tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>{more}</details>
</section>"""


def details(run: Mapping[str, Any]) -> str:
    """Everything `run.json` says, whatever its keys: what one needs to make the run again."""
    if not run:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{_value(value)}</td></tr>'
        for key, value in run.items()
        if value not in (None, "", [], {})
    )
    return f"""<section aria-labelledby="details-title">
<h2 id="details-title">How this run was made</h2>
<div class="scroll"><table class="plain keys"><tbody>{rows}</tbody></table></div>
</section>"""


def _summary(series: FrontSeries, results: Sequence[TrialResult]) -> str:
    if series.knee is None:
        return f"{len(results)} trials, none of them complete at full length ({counts_line(results)})."
    knee, label = series.knee, OBJECTIVES[series.accuracy].label
    teacher = series.teacher or Teacher()
    share, speed = teacher.share(knee, series.accuracy), teacher.speed_up(knee)
    text = (
        f"{len(series.front)} of {len(results)} trials are on the front. Its knee, trial {knee.trial} "
        f"({escape(knee.family)}), reaches {label} {number(getattr(knee, series.accuracy))} in "
        f"{milliseconds(knee.latency_ms)} ms"
    )
    compared = [f"{percent(share)} of the teacher's accuracy"] if share is not None else []
    compared += [f"{factor(speed)} its speed"] if speed is not None else []
    return f"{text}: {' at '.join(compared)}." if compared else f"{text}."


def _tiles(series: FrontSeries, results: Sequence[TrialResult], volume: HypervolumeSeries) -> str:
    label = OBJECTIVES[series.accuracy].label
    teacher = series.teacher or Teacher()
    tiles = [("trials", str(len(results)), counts_line(results))]
    if series.front:
        best, fastest = series.front[-1], series.front[0]
        share = teacher.share(best, series.accuracy)
        of_teacher = f", {percent(share)} of the teacher" if share is not None else ""
        tiles += [
            (
                f"best {label}",
                number(getattr(best, series.accuracy)),
                f"trial {best.trial}, {milliseconds(best.latency_ms)} ms{of_teacher}",
            ),
            (
                "fastest on the front",
                f"{milliseconds(fastest.latency_ms)} ms",
                f"trial {fastest.trial}, {label} {number(getattr(fastest, series.accuracy))}",
            ),
        ]
    accuracy = getattr(teacher, series.accuracy)
    if accuracy is not None or teacher.latency_ms is not None:
        known = [f"{milliseconds(teacher.latency_ms)} ms"] if teacher.latency_ms is not None else []
        known += [f"{number(teacher.params_m, 2)} M parameters"] if teacher.params_m is not None else []
        tiles.append((f"teacher's {label}", number(accuracy), ", ".join(known)))
    if volume.share:
        tiles.append(("hypervolume", number(volume.share[-1]), "share of the reference box"))
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{t}</dt><dd>{escape(v)}</dd><dd class='sub'>{escape(s)}</dd></div>" for t, v, s in tiles)
        + "</dl>"
    )


def _parameters(result: TrialResult) -> str:
    return "".join(
        f"<span>{escape(name)} <b>{escape(parameter(value))}</b></span>"
        for name, value in result.params.items()
        if name != "family"
    )


def _command(command: str) -> str:
    return f'<div class="command"><code>{escape(command)}</code><button type="button" class="copy">copy</button></div>'


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = (f"<span>{escape(str(key))} <b>{_value(v)}</b></span>" for key, v in value.items() if v is not None)
        return f'<div class="params">{"".join(pairs)}</div>'
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return escape(parameter(value))
