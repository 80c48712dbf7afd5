"""The report's small figures: the hypervolume over the trials, and one for each parameter that varied."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from nasdistill.report.format import cut
from nasdistill.report.palette import LIGHT as C
from nasdistill.report.plot_style import TICKS, layout, plot_axis, points
from nasdistill.report.series import FrontSeries, HypervolumeSeries, ParameterSeries, thinned

PARAMETER_LIMIT = 400
"""Trials off the front in each of the figures, of which there may be dozens."""


def hypervolume_figure(series: HypervolumeSeries) -> go.Figure:
    """The hypervolume after each trial, as a step line."""
    figure = go.Figure()
    figure.add_scatter(
        x=list(series.finished),
        y=[round(share, 5) for share in series.share],
        mode="lines",
        line={"shape": "hv", "color": C["front"], "width": 2},
        fill="tozeroy",
        fillcolor="rgba(0, 114, 178, 0.10)",
        hovertemplate="after %{x} trials: %{y:.3f}<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(layout(height=260))
    figure.update_layout(xaxis=plot_axis("trials"), yaxis=plot_axis("hypervolume") | {"rangemode": "tozero"})
    return figure


def parameter_figure(
    parameter: ParameterSeries, series: FrontSeries, accuracy_range: tuple[float, float], most: int = PARAMETER_LIMIT
) -> go.Figure:
    """One parameter against accuracy, members of the front of `series` filled; at most `most` other trials.

    `accuracy_range` is the accuracy axis, the same for all parameters of a run, so that their plots can be compared.
    """
    value_of = {r.trial: v for r, v in zip(parameter.results, parameter.values, strict=True)}
    on_front = {member.trial for member in series.front}
    members = [r for r in parameter.results if r.trial in on_front]
    others = thinned([r for r in parameter.results if r.trial not in on_front], most)
    figure = go.Figure()
    for trials, look in (
        (others, ("other", C["cloud"], "circle-open", 6)),
        (members, ("front", C["front"], "circle", 8)),
    ):
        trace = points(trials, series, *look)
        trace.x = [value_of[r.trial] for r in trials]
        figure.add_trace(trace)
    figure.update_layout(layout(height=210), showlegend=False, hovermode="closest")
    figure.update_layout(
        xaxis=_parameter_axis(parameter),
        yaxis=plot_axis("") | {"nticks": 5, "range": list(accuracy_range)},
        margin={"l": 40, "r": 8, "t": 6, "b": 28},
    )
    return figure


def _parameter_axis(parameter: ParameterSeries) -> dict[str, object]:
    axis = plot_axis("")
    if not parameter.numeric:
        names = sorted({str(value) for value in parameter.values})
        return axis | {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": names,
            "tickmode": "array",
            "tickvals": names,
            # Long names side by side would overlap in a small figure.
            "ticktext": [html.escape(cut(name, 14)) for name in names],
        }
    if not parameter.log:
        return axis | {"type": "linear", "nticks": 6}
    low, high = min(map(float, parameter.values)), max(map(float, parameter.values))
    ticks = [tick for tick in TICKS if low <= tick <= high]
    return axis | {
        "type": "log",
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
