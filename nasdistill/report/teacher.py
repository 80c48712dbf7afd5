"""The teacher as a report knows it: what `run.json` says, and a student's figures relative to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nasdistill.records import DEVICE_FIGURES, MODEL_FIGURES, TrialResult

_OTHERS = {*DEVICE_FIGURES, *MODEL_FIGURES} - {"latency_ms", "params_m"}


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Each figure is None when it was not measured; `latency_ms` is of the run's main device, `further` holds the other
    costs by name."""

    name: str = "teacher"
    map50: float | None = None
    map50_95: float | None = None
    latency_ms: float | None = None
    params_m: float | None = None
    further: Mapping[str, float] = field(default_factory=dict)

    def figure(self, name: str) -> float | None:
        """The figure of that name; None when it was not measured."""
        value: float | None = self.further.get(name, getattr(self, name, None))
        return value

    def share(self, result: TrialResult, accuracy: str = "map50_95") -> float | None:
        """The student's accuracy over the teacher's; None when either is unknown."""
        return _ratio(getattr(result, accuracy), getattr(self, accuracy))

    def speed_up(self, result: TrialResult, latency: str = "latency_ms") -> float | None:
        """How many times faster than the teacher the student is; None when either latency is unknown."""
        return _ratio(self.figure(latency), result.figure(latency))


def teacher_of(run: Mapping[str, object]) -> Teacher | None:
    """The teacher in a `run.json`; None when it names none. A figure that is no finite number counts as unknown."""
    found = run.get("teacher")
    if not isinstance(found, Mapping):
        return None
    map50, map50_95, latency_ms, params_m = (
        _figure(found.get(name)) for name in ("map50", "map50_95", "latency_ms", "params_m")
    )
    others = {name: _figure(value) for name, value in found.items() if "@" in name or name in _OTHERS}
    return Teacher(
        name=str(found.get("name") or "teacher"),
        map50=map50,
        map50_95=map50_95,
        latency_ms=latency_ms,
        params_m=params_m,
        further={name: value for name, value in others.items() if value is not None},
    )


def _figure(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _ratio(upper: float | None, lower: float | None) -> float | None:
    return upper / lower if upper is not None and lower else None
