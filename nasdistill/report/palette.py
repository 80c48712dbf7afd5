"""The report's colours, light and dark: Okabe and Ito's set, which most colour-blind people can tell apart, and greys.

Figures are built in the light ones; the page swaps them by exact value when the reader's system is dark. So no two
names may share a light colour.
"""

from __future__ import annotations

LIGHT = {
    "ink": "#1c2128",
    "muted": "#5b6572",
    "line": "#e2e5e9",
    "surface": "#fdfdfc",
    "front": "#0072b2",
    "cloud": "#7d8794",
    "teacher": "#b07600",
    "knee": "#d55e00",
    "trained": "#7a4fb0",
    "stopped": "#008f68",
    "rejected": "#b3578a",
    "failed": "#c14a00",
}

DARK = {
    "ink": "#e8eaed",
    "muted": "#9ca6b2",
    "line": "#2d343c",
    "surface": "#1a1e23",
    "front": "#56b4e9",
    "cloud": "#76808c",
    "teacher": "#f0b429",
    "knee": "#ff8a4c",
    "trained": "#b99cf0",
    "stopped": "#2fc79a",
    "rejected": "#e39ac4",
    "failed": "#ff7a3d",
}
