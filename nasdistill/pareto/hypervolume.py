"""Hypervolume: how much of the space between nothing and perfect a front covers, as one number from 0 to 1.

The box is accuracy from the reference's (0 by default) to 1, and each cost from 0 to the reference's, all linear. Linear
costs need no made-up lower end, and a share of the box has no unit, so the number can be read on its own: 0.6 means that
over the latencies below the reference the accuracy to be had is 0.6 on average. Log latency would blow up the region near
0 ms, where no detector lives. Numbers can be compared only for the same reference: a run fixes it once (`run.json`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasdistill.errors import InputError
from nasdistill.pareto.front import eligible
from nasdistill.pareto.objectives import DEFAULT, Objectives, losses
from nasdistill.records import TrialResult

MARGIN = 1.1
"""How far beyond the teacher (or the most costly trial) the default reference lies, so that even that one counts."""


@dataclass(frozen=True, init=False)
class Reference:
    """The worst corner of the box: each cost by its name, in its unit, and mAP 0 <= accuracy < 1.

    A trial outside the box adds nothing. `Reference(latency_ms=40.0)`.
    """

    costs: Mapping[str, float]
    accuracy: float

    def __init__(self, *, accuracy: float = 0.0, **costs: float) -> None:
        object.__setattr__(self, "costs", dict(costs))
        object.__setattr__(self, "accuracy", accuracy)
        for name, value in costs.items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"reference {name}={value} must be finite and above 0")
        if not 0.0 <= accuracy < 1.0:
            raise ValueError(f"reference accuracy={accuracy} outside [0, 1)")


def teacher_reference(teacher: Mapping[str, float | None], objectives: Objectives = DEFAULT) -> Reference:
    """mAP 0 and 1.1 x the teacher's own costs; `teacher` holds them by name. Raises InputError where one is missing."""
    corner = {cost.name: teacher.get(cost.name) for cost in objectives.costs}
    missing = [name for name, value in corner.items() if value is None]
    if missing:
        raise InputError(f"no {missing[0]} of the teacher could be measured, and it is an objective of this search")
    return Reference(**{name: MARGIN * value for name, value in corner.items() if value is not None})


def default_reference(
    results: Sequence[TrialResult],
    teacher: Mapping[str, float | None] | None = None,
    objectives: Objectives = DEFAULT,
) -> Reference | None:
    """mAP 0 and 1.1 x the teacher's costs; where one is unknown 1.1 x the most costly eligible trial's, None without any.

    The second form moves when a more costly trial finishes: fix it once and pass it on where numbers are compared.
    """
    corner: dict[str, float] = {}
    for cost in objectives.costs:
        known = (teacher or {}).get(cost.name)
        if known is None or not math.isfinite(known) or known <= 0:
            known = max((value for r in eligible(results) if (value := cost.of(r)) is not None), default=0.0)
        if known <= 0:
            return None
        corner[cost.name] = MARGIN * known
    return Reference(**corner)


def hypervolume(
    results: Sequence[TrialResult], reference: Reference | None = None, objectives: Objectives = DEFAULT
) -> float:
    """The share (0..1) of the reference box that the eligible `results` dominate; 0.0 when there are none.

    `reference` None means `default_reference(results)`. Raises ValueError for one that lacks a cost.
    """
    counted = eligible(results)
    reference = reference or default_reference(counted, objectives=objectives)
    if reference is None or not counted:
        return 0.0
    return share_of_box(losses(counted, objectives), *_corner(reference, objectives))


def share_of_box(points: np.ndarray, corner: np.ndarray, box: float) -> float:
    """The share (0..1) of a box of volume `box` that `points` (n, k), to be minimised, dominate; `corner` (k,) is its worst.

    Points outside the box add nothing.
    """
    import moocore

    return float(moocore.hypervolume(points, ref=corner)) / box if len(points) else 0.0


def hypervolume_history(
    results: Sequence[TrialResult], reference: Reference | None = None, objectives: Objectives = DEFAULT
) -> list[float]:
    """The hypervolume after each of `results`, in the order given (that of completion): n shares, never falling.

    Trials that are not eligible repeat the value before them. One reference holds for the whole history: the one given,
    or the default of all results. Only a point that joins the running front costs a computation (moocore.hypervolume).
    """
    if reference is None:
        reference = default_reference(results, objectives=objectives)
    if reference is None:
        return [0.0] * len(results)
    corner, box = _corner(reference, objectives)
    front = np.empty((0, len(corner)))
    share = 0.0
    shares: list[float] = []
    for result in results:
        for point in losses(eligible([result]), objectives):
            if (point < corner).all() and not (front <= point).all(axis=1).any():
                front = np.vstack([front[~(point <= front).all(axis=1)], point])
                share = share_of_box(front, corner, box)
        shares.append(share)
    return shares


def _corner(reference: Reference, objectives: Objectives) -> tuple[np.ndarray, float]:
    """The worst corner as a point to minimise, (k,), and the volume of the box. Raises ValueError for a missing cost."""
    missing = [cost.name for cost in objectives.costs if cost.name not in reference.costs]
    if missing:
        raise ValueError(f"reference {dict(reference.costs)} has no {missing[0]}")
    worst = [reference.costs[cost.name] for cost in objectives.costs]
    return np.array([-reference.accuracy, *worst]), (1.0 - reference.accuracy) * math.prod(worst)
