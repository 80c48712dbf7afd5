"""What the figures show, as plain data: nothing here draws, so that a test compares numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasdistill.pareto.front import eligible, front
from nasdistill.pareto.hypervolume import Reference, default_reference, hypervolume_history
from nasdistill.pareto.intervals import Certainty, certainty
from nasdistill.pareto.objectives import DEFAULT, Objective, Objectives
from nasdistill.pareto.select import knee
from nasdistill.records import Scalar, TrialResult, TrialState
from nasdistill.report.teacher import Teacher

UNSCORED: tuple[TrialState, ...] = ("stopped", "rejected", "failed")


@dataclass(frozen=True, kw_only=True)
class FrontSeries:
    """Accuracy against `cost`, one of the objectives' costs; of two, the other one is the points' `color`. `step` are
    (cost, mAP) corners of the line "what can be had within this cost": it rises at each member that is the best so far
    and goes on level to the right end of the plot. Every trial is in exactly one of the groups.

    `shorter` are complete trials below full fidelity, which are not compared; `unscored` the rest, by state. They have
    no accuracy and get none: those with a cost are drawn beside the plot, the others only listed.
    """

    objectives: Objectives
    cost: Objective
    color: Objective | None
    front: tuple[TrialResult, ...]
    dominated: tuple[TrialResult, ...]
    shorter: tuple[TrialResult, ...]
    unscored: dict[TrialState, tuple[TrialResult, ...]]
    step: tuple[tuple[float, float], ...]
    knee: TrialResult | None
    teacher: Teacher | None
    cost_range: tuple[float, float]
    certainty: Certainty
    """What repeats with other seeds say about this accuracy."""

    @property
    def accuracy(self) -> str:
        """Name of the accuracy."""
        return self.objectives.accuracy.name


@dataclass(frozen=True, kw_only=True)
class HypervolumeSeries:
    """`share[i]` of the reference box is covered after `finished[i]` trials, by trial number."""

    finished: tuple[int, ...]
    share: tuple[float, ...]
    reference: Reference | None
    objectives: Objectives


@dataclass(frozen=True, kw_only=True)
class ParameterSeries:
    """One parameter against accuracy, over the eligible trials that have it.

    `numeric` values are int or float, others text. `log`: they span more than a factor 20, all above 0. `correlation`
    is Spearman's rank correlation with the accuracy; None below 8 trials, for text and where a side does not vary.
    """

    name: str
    numeric: bool
    log: bool
    values: tuple[Scalar, ...]
    results: tuple[TrialResult, ...]
    correlation: float | None


def front_series(
    results: Sequence[TrialResult],
    objectives: Objectives = DEFAULT,
    teacher: Teacher | None = None,
    cost: Objective | None = None,
    trained: Sequence[TrialResult] = (),
) -> FrontSeries:
    """Sorts `results` into the groups of the front's figure; `cost` is the one it is drawn against, by default the first.

    Students `trained` for longer are in no group, but the figure has room for them.
    """
    accuracy, cost = objectives.accuracy.name, cost or objectives.costs[0]
    members = front(results, objectives)
    compared = eligible(results)
    on_front = {member.trial for member in members}
    full = {result.trial for result in compared}
    values = [value for r in (*results, *trained) if (value := cost.of(r)) is not None and value > 0]
    if teacher is not None and (own := teacher.figure(cost.name)) is not None:
        values.append(own)
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    step: list[tuple[float, float]] = []
    for at, reached in sorted((float(cost.of(m) or 0.0), -float(getattr(m, accuracy))) for m in members):
        if not step or -reached > step[-1][1]:
            step.append((at, -reached))
    if step:
        step.append((high * 1.1, step[-1][1]))
    return FrontSeries(
        objectives=objectives,
        cost=cost,
        color=next((other for other in objectives.costs if other != cost), None),
        front=tuple(members),
        dominated=tuple(r for r in compared if r.trial not in on_front),
        shorter=tuple(r for r in results if r.state == "complete" and r.trial not in full),
        unscored={state: tuple(r for r in results if r.state == state) for state in UNSCORED},
        step=tuple(step),
        knee=knee(members, objectives) if members else None,
        teacher=teacher,
        cost_range=(low / 1.1, high * 1.1),
        certainty=certainty(results, members, accuracy),
    )


def hypervolume_series(
    results: Sequence[TrialResult],
    reference: Reference | None = None,
    objectives: Objectives = DEFAULT,
    teacher: Teacher | None = None,
) -> HypervolumeSeries:
    """The hypervolume as the trials came, by number; `reference` None means the default one of all results."""
    ordered = sorted(results, key=lambda r: r.trial)
    known = {cost.name: teacher.figure(cost.name) for cost in objectives.costs} if teacher else None
    corner = reference or default_reference(ordered, known, objectives)
    shares = hypervolume_history(ordered, corner, objectives)
    finished = tuple(range(1, len(ordered) + 1))
    return HypervolumeSeries(finished=finished, share=tuple(shares), reference=corner, objectives=objectives)


def parameter_series(results: Sequence[TrialResult], accuracy: str = "map50_95") -> list[ParameterSeries]:
    """Every parameter that varies over the eligible trials: the family, what belongs to one, then the others."""
    compared = eligible(results)
    families = {result.family for result in compared}
    names = list(dict.fromkeys(name for result in compared for name in result.params))
    names.sort(key=lambda name: (name != "family", name.split(".")[0] not in families))
    found = [_parameter(name, compared, accuracy) for name in names]
    return [series for series in found if len(set(series.values)) > 1]


def accuracy_span(results: Sequence[TrialResult], accuracy: str = "map50_95") -> tuple[float, float]:
    """The eligible trials' lowest and highest accuracy with a margin of 8 % on both sides, for an axis."""
    scores = [getattr(result, accuracy) for result in eligible(results)] or [0.0, 1.0]
    margin = 0.08 * (max(scores) - min(scores)) or 0.05
    return min(scores) - margin, max(scores) + margin


def fixed_parameters(results: Sequence[TrialResult]) -> dict[str, Scalar]:
    """The parameters that all eligible trials have, with one value."""
    compared = eligible(results)
    first = compared[0].params if compared else {}
    return {
        name: value
        for name, value in first.items()
        if all(name in r.params and r.params[name] == value for r in compared)
    }


def thinned(results: Sequence[TrialResult], most: int) -> list[TrialResult]:
    """At most `most` of `results`, evenly over their order: enough to see the shape of a cloud."""
    if len(results) <= most:
        return list(results)
    return [results[index * len(results) // most] for index in range(most)]


def _parameter(name: str, compared: Sequence[TrialResult], accuracy: str) -> ParameterSeries:
    having = [result for result in compared if name in result.params]
    values = [result.params[name] for result in having]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    numeric = len(numbers) == len(values)
    return ParameterSeries(
        name=name,
        numeric=numeric,
        log=numeric and min(numbers) > 0 and max(numbers) / min(numbers) > 20,
        values=tuple(values) if numeric else tuple(str(value) for value in values),
        results=tuple(having),
        correlation=_spearman(numbers, [getattr(r, accuracy) for r in having]) if numeric else None,
    )


def _spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    if len(a) < 8 or len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, ties sharing their mean rank."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts + 1) / 2)[inverse])
