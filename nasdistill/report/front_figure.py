"""The report's main figure: the front, drawn from `series`. It stands on its own; the page only adds theme and buttons."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from nasdistill.pareto.objectives import LATENCY_MS, OBJECTIVES
from nasdistill.records import TrialResult
from nasdistill.report.format import milliseconds, number
from nasdistill.report.hover import hover_text
from nasdistill.report.palette import LIGHT as C
from nasdistill.report.plot_style import HOVER, TICKS, layout, plot_axis, points
from nasdistill.report.series import FrontSeries, thinned

MARKERS = {"stopped": "square-open", "rejected": "triangle-up-open", "failed": "x-thin-open"}
CLOUD_LIMIT = 4000
"""SVG points that a browser still moves smoothly; beyond that the dominated trials are thinned."""


def front_figure(series: FrontSeries, scale: str | None = None, trained: Sequence[TrialResult] = ()) -> go.Figure:
    """mAP against the series' cost: the front as a step line, other scored trials, the teacher; unscored ones in a strip
    below. Members of the front have the colour of their second cost, where there is one. Students `trained` for longer
    are marked apart, and the line takes no notice of them.

    `scale` is `log` or `linear`; None takes log when the costs span more than a factor 8.
    """
    label = OBJECTIVES[series.accuracy].label

    cloud = thinned(series.dominated, CLOUD_LIMIT)
    members = [m for m in series.front if m is not series.knee]
    rows = [state for state, trials in series.unscored.items() if _costed(trials, series)]
    figure = go.Figure()
    figure.add_scatter(
        x=[x for x, _ in series.step],
        y=[y for _, y in series.step],
        mode="lines",
        line={"shape": "hv", "color": C["front"], "width": 2},
        name=f"best within this {'latency' if series.cost.is_latency else 'cost'}",
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_trace(points(cloud, series, "dominated", C["cloud"], "circle-open", 7))
    if series.shorter:
        figure.add_trace(
            points(thinned(series.shorter, CLOUD_LIMIT), series, "shorter training", C["cloud"], "diamond-open", 7)
        )
    figure.add_trace(points(members, series, "front", C["front"], "circle", 10))
    if series.color is not None:
        _add_colour(figure.data[-1], members, series)
    _add_intervals(figure, series)
    if series.knee is not None:
        figure.add_trace(points([series.knee], series, "knee", C["knee"], "diamond", 13))
    _add_trained(figure, _costed(trained, series), series)
    _add_teacher(figure, series)
    for state in rows:
        timed = thinned(_costed(series.unscored[state], series), CLOUD_LIMIT)
        figure.add_scatter(
            x=[series.cost.of(r) for r in timed],
            y=[state] * len(timed),
            yaxis="y2",
            mode="markers",
            marker={"symbol": MARKERS[state], "color": C[state], "size": 8, "line": {"color": C[state], "width": 1.6}},
            name=state,
            customdata=[r.trial for r in timed],
            text=[hover_text(r, series.teacher, series.accuracy, series.certainty) for r in timed],
            hovertemplate=HOVER,
        )
    strip = 0.055 * len(rows)
    figure.update_layout(layout(height=540))
    figure.update_layout(
        xaxis=cost_axis(series, scale) | {"anchor": "y2" if rows else "y"},
        yaxis=plot_axis(label) | {"domain": [strip + 0.05 if rows else 0, 1], "rangemode": "tozero"},
        hovermode="closest",
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 13}},
    )
    if rows:
        figure.update_layout(
            yaxis2=plot_axis("")
            | {
                "domain": [0, strip],
                "type": "category",
                "showgrid": False,
                "fixedrange": True,
                "ticks": "",
                "zeroline": False,
            }
        )
    return figure


def cost_axis(series: FrontSeries, scale: str | None = None) -> dict[str, object]:
    """The cost axis of the front's figure, in `log` or `linear` scale (None: as `front_figure`)."""
    low, high = series.cost_range
    scale = scale or ("log" if high / low > 8 * 1.21 else "linear")
    where = f" on {series.cost.device}" if series.cost.device else ""
    median = series.cost.name.partition("@")[0] == LATENCY_MS.name
    axis = plot_axis(f"latency of the exported model{where}, ms (median)" if median else series.cost.title)
    if scale == "log":
        ticks = [tick for tick in TICKS if low * 0.9 <= tick <= high * 1.1]
        return axis | {
            "type": "log",
            "range": [math.log10(low), math.log10(high)],
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [f"{tick:g}" for tick in ticks],
        }
    return axis | {"type": "linear", "range": [0, high], "tickmode": "auto"}


def _add_intervals(figure: go.Figure, series: FrontSeries) -> None:
    """The mean over seeds and its interval at each repeated member of the front; the point itself is the artifact's score."""
    known = [(m, series.certainty.intervals[m.trial]) for m in series.front if m.trial in series.certainty.intervals]
    if not known:
        return
    figure.add_scatter(
        x=[series.cost.of(member) for member, _ in known],
        y=[interval.mean for _, interval in known],
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [interval.high - interval.mean for _, interval in known],
            "arrayminus": [interval.mean - interval.low for _, interval in known],
            "color": C["front"],
            "thickness": 1.2,
            "width": 4,
        },
        mode="markers",
        marker={"symbol": "line-ew-open", "color": C["front"], "size": 9, "line": {"color": C["front"], "width": 1.6}},
        name="mean of seeds, 95 %",
        customdata=[member.trial for member, _ in known],
        text=[hover_text(member, series.teacher, series.accuracy, series.certainty) for member, _ in known],
        hovertemplate=HOVER,
    )


def _add_trained(figure: go.Figure, trained: Sequence[TrialResult], series: FrontSeries) -> None:
    """Students trained for longer. No `customdata`: by their number the page would find the search's own label."""
    if not trained:
        return
    figure.add_trace(points(trained, series, "trained for longer", C["trained"], "triangle-up", 12))
    trace = figure.data[-1]
    trace.customdata = None
    trace.text = [
        f"<b>trained for {r.epochs} epochs</b><br>{hover_text(r, series.teacher, series.accuracy)}" for r in trained
    ]


def _add_teacher(figure: go.Figure, series: FrontSeries) -> None:
    """The teacher's accuracy as a dotted line over the whole width, and a star at its latency when that is known."""
    teacher = series.teacher
    height = getattr(teacher, series.accuracy) if teacher is not None else None
    if teacher is None or height is None:
        return
    text = f"<b>teacher</b> {html.escape(teacher.name)}<br>{OBJECTIVES[series.accuracy].label} {number(height)}"
    low, high = series.cost_range
    own = teacher.figure(series.cost.name)
    figure.add_scatter(
        x=[low / 10, high * 10],
        y=[height, height],
        mode="lines",
        line={"dash": "dot", "color": C["teacher"], "width": 1.5},
        name="teacher's accuracy",
        hoverinfo="skip",
        showlegend=own is None,
    )
    if own is not None:
        shown = (
            f"{milliseconds(own)} {series.cost.unit}"
            if series.cost.is_latency
            else f"{series.cost.label} {number(own, 2)} {series.cost.unit}".strip()
        )
        figure.add_scatter(
            x=[own],
            y=[height],
            mode="markers",
            marker={"symbol": "star", "color": C["teacher"], "size": 16},
            name="teacher",
            text=[f"{text}<br>{html.escape(shown)}"],
            hovertemplate=HOVER,
        )


def _costed(trials: Sequence[TrialResult], series: FrontSeries) -> list[TrialResult]:
    return [r for r in trials if (series.cost.of(r) or 0.0) > 0]


def _add_colour(trace: go.Scatter, members: Sequence[TrialResult], series: FrontSeries) -> None:
    """Colour the points by a second cost, dark for little of it, with a bar over the whole front that says how much."""
    cost = series.color
    assert cost is not None
    values = [value for member in series.front if (value := cost.of(member)) is not None]
    trace.marker.update(
        cmin=min(values, default=0.0),
        cmax=max(values, default=1.0),
        color=[cost.of(member) for member in members],
        colorscale="Viridis",
        showscale=True,
        colorbar={
            "title": {"text": cost.title, "side": "right", "font": {"size": 13, "color": C["muted"]}},
            "tickfont": {"size": 12, "color": C["muted"]},
            "thickness": 12,
            "outlinewidth": 0,
        },
    )
