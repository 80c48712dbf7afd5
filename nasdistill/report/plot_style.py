"""What the report's Plotly figures share: layout, axes, marks.

Points carry the trial's number as `customdata` and their hover text as `text`.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from nasdistill.records import TrialResult
from nasdistill.report.hover import hover_text
from nasdistill.report.palette import LIGHT as C
from nasdistill.report.series import FrontSeries

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
HOVER = "%{text}<extra></extra>"
TICKS = [m * 10**e for e in range(-3, 6) for m in (1, 2, 5)]


def points(
    trials: Sequence[TrialResult], series: FrontSeries, name: str, color: str, symbol: str, size: int
) -> go.Scatter:
    """Trials as marks: cost against accuracy."""
    return go.Scatter(
        x=[series.cost.of(r) for r in trials],
        y=[getattr(r, series.accuracy) for r in trials],
        mode="markers",
        marker={"symbol": symbol, "color": color, "size": size, "line": {"color": color, "width": 1.4}},
        name=name,
        customdata=[r.trial for r in trials],
        text=[hover_text(r, series.teacher, series.accuracy, series.certainty) for r in trials],
        hovertemplate=HOVER,
    )


def layout(height: int) -> dict[str, object]:
    """The look of a figure of so many pixels."""
    return {
        "template": None,
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": C["ink"]},
        "margin": {"l": 62, "r": 16, "t": 16, "b": 52},
        "hoverlabel": {
            "align": "left",
            "bgcolor": C["surface"],
            "bordercolor": C["muted"],
            "font": {"family": FONT, "size": 12, "color": C["ink"]},
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": C["cloud"], "activecolor": C["ink"]},
        "dragmode": "zoom",
    }


def plot_axis(title: str) -> dict[str, object]:
    """The look of an axis."""
    return {
        "title": {"text": title, "font": {"size": 13, "color": C["muted"]}, "standoff": 8},
        "gridcolor": C["line"],
        "linecolor": C["line"],
        "zerolinecolor": C["line"],
        "tickfont": {"size": 12, "color": C["muted"]},
        "automargin": True,
    }
