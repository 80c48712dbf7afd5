"""Figures as people read them: one place for digits and units, shared by console and HTML."""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import TypeGuard

MISSING = "-"
SCROLLED = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
"""Begins a wide table: narrow screens and keyboards scroll it."""


def shown_path(path: Path) -> str:
    """Relative to the current folder, where it is on the same drive."""
    try:
        return os.path.relpath(path)
    except ValueError:
        return str(path)


def in_command(path: Path) -> str:
    """The same as a word of a command that a person copies."""
    return shlex.quote(shown_path(path))


def number(value: object, digits: int = 3) -> str:
    """A fixed number of decimals; `MISSING` for None, NaN, infinity and anything that is no number."""
    return f"{value:.{digits}f}" if _finite(value) else MISSING


def milliseconds(value: object) -> str:
    """Three significant digits, without unit: `0.84`, `4.71`, `38.9`, `1240`."""
    if not _finite(value):
        return MISSING
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def percent(share: object) -> str:
    """A share 0..1 as whole per cent: `94 %`."""
    return f"{share * 100:.0f} %" if _finite(share) else MISSING


def factor(value: object) -> str:
    """A ratio such as a speed-up: `4.1x`."""
    return f"{value:.1f}x" if _finite(value) else MISSING


def parameter(value: object) -> str:
    """A parameter's value: floats with at most 4 significant digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: object) -> str:
    """`45 s`, `4 min 05 s`, `2 h 03 min`; `MISSING` for what is no finite number of seconds >= 0."""
    if not _finite(seconds) or seconds < 0:
        return MISSING
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {left:02d} s" if minutes else f"{left} s"


def cut(text: str, length: int) -> str:
    """At most `length` characters, an ellipsis being the last of a longer text."""
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
