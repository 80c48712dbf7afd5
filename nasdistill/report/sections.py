"""The sections of the HTML report, each a function from plain data to markup. All text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nasdistill.pareto.objectives import LATENCY_MS, OBJECTIVES
from nasdistill.pareto.of_run import devices_of_run
from nasdistill.records import TrialResult
from nasdistill.report.columns import with_unit
from nasdistill.report.console import counts_line
from nasdistill.report.format import SCROLLED, duration, factor, milliseconds, number, parameter, percent
from nasdistill.report.series import FrontSeries, HypervolumeSeries, ParameterSeries
from nasdistill.report.small_figures import PARAMETER_LIMIT
from nasdistill.report.teacher import Teacher
from nasdistill.report.views import View
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
    device, devices = run.get("device"), devices_of_run(run)
    device_name = ", ".join(devices) or (None if isinstance(device, Mapping) else device)
    facts = [
        ("data", run.get("data")),
        ("teacher", series.teacher.name if series.teacher else None),
        ("devices" if len(devices) > 1 else "device", device_name),
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


def front_plot(views: Sequence[View], series: FrontSeries, results: Sequence[TrialResult]) -> str:
    """The place of the interactive front, its buttons, and what is to be seen in it; `series` is that of the first view."""
    hidden = sum(r.latency_ms is None for trials in series.unscored.values() for r in trials)
    against = "latency" if len(views) == 1 and views[0].cost == LATENCY_MS else "cost"
    notes = [
        "Every point is one trial; its label lists all parameters. The line is the best accuracy to be had within a "
        f"{against}. Each of the two accuracies has its own front and knee."
    ]
    if series.color is not None:
        notes.append(
            "A member of the front of all objectives may lie below the line: its other cost, which is its colour, is low."
        )
    if any(view.device for view in views):
        notes.append("The front on one device is of accuracy and the latency there, nothing else.")
    if any(series.unscored.values()):
        notes.append(f"Trials without a score are marked below the plot at their {against}, never at mAP 0.")
    if hidden:
        notes.append(
            f"{hidden} without a latency {'is' if hidden == 1 else 'are'} only in the table of unscored trials."
        )
    pressed = {name: str(name == series.accuracy).lower() for name in ("map50_95", "map50")}
    heading = f"Accuracy against {' and '.join(escape(cost.label) for cost in series.objectives.costs)}"
    chooser = ""
    if len(views) > 1:
        buttons = "".join(
            f'<button type="button" data-view="{index}" aria-pressed="{str(not index).lower()}">{escape(view.title)}</button>'
            for index, view in enumerate(views)
        )
        chooser = f'<div class="buttons" role="group" aria-label="Front shown">{buttons}</div>'
    return f"""<section aria-labelledby="front-title">
<div class="section-head"><h2 id="front-title">{heading}</h2>
<div class="controls">
{chooser}<div class="buttons" role="group" aria-label="Accuracy shown">
<button type="button" data-accuracy="map50_95" aria-pressed="{pressed["map50_95"]}">mAP50-95</button>
<button type="button" data-accuracy="map50" aria-pressed="{pressed["map50"]}">mAP50</button></div>
<div class="buttons" role="group" aria-label="Scale of the costs">
<button type="button" data-scale="log">log</button><button type="button" data-scale="linear">linear</button></div>
</div></div>
<div class="plot" id="plot-front" role="img" aria-label="Scatter plot of accuracy against {against}; the table below has \
the front's figures"></div>
<p class="note">{" ".join(notes)}</p>
</section>"""


def hypervolume(series: HypervolumeSeries) -> str:
    """How the front grew over the trials."""
    if series.reference is None:
        return ""
    costs = series.objectives.costs
    limits = {cost.name: series.reference.costs[cost.name] for cost in costs}
    if costs == (LATENCY_MS,):
        meaning = f"the mean accuracy to be had over all latencies up to {milliseconds(limits[LATENCY_MS.name])} ms"
    else:
        box = (f"{escape(cost.label)} {milliseconds(limits[cost.name])} {cost.unit}".strip() for cost in costs)
        meaning = f"the mean accuracy to be had over all costs up to {' and '.join(box)}"
    return f"""<section aria-labelledby="volume-title">
<h2 id="volume-title">Progress of the search</h2>
<p>Hypervolume: {meaning}, as the trials came.
Level for long: the search found little more. Still rising at the end: a larger budget would pay.</p>
<div class="plot" id="plot-hypervolume" role="img" aria-label="Hypervolume over the trials, now \
{number(series.share[-1] if series.share else 0.0)}"></div>
</section>"""


def parameters(series: Sequence[ParameterSeries], accuracy: str) -> str:
    """A small plot for each parameter that varied."""
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
    return f"""<section aria-labelledby="parameters-title">
<h2 id="parameters-title">Parameters against {OBJECTIVES[accuracy].label}</h2>
<p>{drawn} of full length; filled points are on the front. A correlation over a search is a hint, not an effect: the
sampler chose where to look.</p>
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
{SCROLLED}<table class="plain">
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
{SCROLLED}<table class="plain keys"><tbody>{rows}</tbody></table></div>
</section>"""


def _summary(series: FrontSeries, results: Sequence[TrialResult]) -> str:
    if series.knee is None:
        return f"{len(results)} trials, none of them complete at full length ({counts_line(results)})."
    knee, label = series.knee, OBJECTIVES[series.accuracy].label
    teacher = series.teacher or Teacher()
    share, latency = teacher.share(knee, series.accuracy), series.objectives.speed
    speed = None if latency is None else teacher.speed_up(knee, latency.name)
    paid = ", ".join(with_unit(cost, knee) for cost in series.objectives.costs)
    text = (
        f"{len(series.front)} of {len(results)} trials are on the front. Its knee, trial {knee.trial} "
        f"({escape(knee.family)}), reaches {label} {number(getattr(knee, series.accuracy))} "
        f"{'in' if series.objectives.costs[0].is_latency else 'at'} {escape(paid)}"
    )
    compared = [f"{percent(share)} of the teacher's accuracy"] if share is not None else []
    compared += [f"{factor(speed)} its speed"] if speed is not None else []
    return f"{text}: {' at '.join(compared)}." if compared else f"{text}."


def _tiles(series: FrontSeries, results: Sequence[TrialResult], volume: HypervolumeSeries) -> str:
    label = OBJECTIVES[series.accuracy].label
    teacher = series.teacher or Teacher()
    tiles = [("trials", str(len(results)), counts_line(results))]
    if series.front:
        cost = series.objectives.speed or series.objectives.costs[0]
        best = max(series.front, key=lambda member: float(getattr(member, series.accuracy)))
        fastest = min(series.front, key=lambda member: float(cost.of(member) or 0.0))
        share = teacher.share(best, series.accuracy)
        of_teacher = f", {percent(share)} of the teacher" if share is not None else ""
        tiles += [
            (
                f"best {label}",
                number(getattr(best, series.accuracy)),
                f"trial {best.trial}, {with_unit(cost, best)}{of_teacher}",
            ),
            (
                "fastest on the front" if cost.is_latency else f"least {cost.label} on the front",
                with_unit(cost, fastest),
                f"trial {fastest.trial}, {label} {number(getattr(fastest, series.accuracy))}",
            ),
        ]
    accuracy, speed = getattr(teacher, series.accuracy), series.objectives.speed or LATENCY_MS
    latency = teacher.figure(speed.name)
    if accuracy is not None or latency is not None:
        on_device = f" on {speed.device}" if speed.device else ""
        known = [f"{milliseconds(latency)} ms{on_device}"] if latency is not None else []
        known += [f"{number(teacher.params_m, 2)} M parameters"] if teacher.params_m is not None else []
        tiles.append((f"teacher's {label}", number(accuracy), ", ".join(known)))
    if volume.share:
        tiles.append(("hypervolume", number(volume.share[-1]), "share of the reference box"))
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{t}</dt><dd>{escape(v)}</dd><dd class='sub'>{escape(s)}</dd></div>" for t, v, s in tiles)
        + "</dl>"
    )


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = (f"<span>{escape(str(key))} <b>{_value(v)}</b></span>" for key, v in value.items() if v is not None)
        return f'<div class="params">{"".join(pairs)}</div>'
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return escape(parameter(value))
