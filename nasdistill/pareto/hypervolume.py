"""Hypervolume: how much of the space between nothing and perfect a front covers, as one number from 0 to 1.

The box is accuracy from the reference's (0 by default) to 1, and latency from 0 ms to the reference's, both linear.
Linear latency needs no made-up lower end, and a share of the box has no unit, so the number can be read on its own: 0.6
means that over the latencies below the reference the accuracy to be had is 0.6 on average. Log latency would blow up
the region near 0 ms, where no detector lives. Numbers can be compared only for the same reference: a run fixes it once
(`run.json`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasdistill.pareto.front import eligible
from nasdistill.pareto.objectives import LATENCY_MS, accuracy_objective, losses
from nasdistill.records import TrialResult

MARGIN = 1.1
"""How far beyond the teacher (or the slowest trial) the default reference lies, so that even that one counts."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The worst corner of the box: milliseconds, and mAP 0 <= accuracy < 1. A trial outside it adds nothing."""

    latency_ms: float
    accuracy: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_ms) and self.latency_ms > 0):
            raise ValueError(f"reference latency_ms={self.latency_ms} must be finite and above 0")
        if not 0.0 <= self.accuracy < 1.0:
            raise ValueError(f"reference accuracy={self.accuracy} outside [0, 1)")


def teacher_reference(latency_ms: float) -> Reference:
    """mAP 0 and 1.1 x the teacher's latency."""
    return Reference(latency_ms=MARGIN * latency_ms)


def default_reference(results: Sequence[TrialResult], teacher_latency_ms: float | None = None) -> Reference | None:
    """mAP 0 and 1.1 x the teacher's latency; without that 1.1 x the slowest eligible trial's, None when there is none.

    The second form moves when a slower trial finishes: fix it once and pass it on where numbers are compared.
    """
    if teacher_latency_ms is not None and math.isfinite(teacher_latency_ms) and teacher_latency_ms > 0:
        return teacher_reference(teacher_latency_ms)
    slowest = max((r.latency_ms for r in eligible(results) if r.latency_ms is not None), default=0.0)
    return Reference(latency_ms=MARGIN * slowest) if slowest > 0 else None


def hypervolume(
    results: Sequence[TrialResult], reference: Reference | None = None, accuracy: str = "map50_95"
) -> float:
    """The share (0..1) of the reference box that the eligible `results` dominate; 0.0 when there are none.

    `reference` None means `default_reference(results)`. Raises InputError for an unknown accuracy.
    """
    history = hypervolume_history(eligible(results), reference, accuracy)
    return history[-1] if history else 0.0


def hypervolume_history(
    results: Sequence[TrialResult], reference: Reference | None = None, accuracy: str = "map50_95"
) -> list[float]:
    """The hypervolume after each of `results`, in the order given (that of completion): n shares, never falling.

    Trials that are not eligible repeat the value before them. One reference holds for the whole history: the one given,
    or the default of all results. Only a point that joins the running front costs a computation (moocore.hypervolume).
    """
    import moocore

    objectives = (accuracy_objective(accuracy), LATENCY_MS)
    if reference is None:
        reference = default_reference(results)
    if reference is None:
        return [0.0] * len(results)
    corner = np.array([-reference.accuracy, reference.latency_ms])
    box = (1.0 - reference.accuracy) * reference.latency_ms
    front = np.empty((0, 2))
    share = 0.0
    shares: list[float] = []
    for result in results:
        for point in losses(eligible([result]), objectives):
            if (point < corner).all() and not (front <= point).all(axis=1).any():
                front = np.vstack([front[~(point <= front).all(axis=1)], point])
                share = float(moocore.hypervolume(front, ref=corner)) / box
        shares.append(share)
    return shares
