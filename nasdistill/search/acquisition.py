"""The acquisition of the latency-first sampler: expected hypervolume improvement with costs that are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasdistill.search.costs import Costs
from nasdistill.search.ehvi import boxes, expected_improvement
from nasdistill.search.gaussian_process import GaussianProcess
from nasdistill.search.known import Array, Candidate, Known
from nasdistill.search.prior import Prior
from nasdistill.search.surrogate import Regression, without_outliers


@dataclass(frozen=True)
class Aims:
    """What is optimised: the arguments of the same name of `LatencyFirstSampler`, and its random numbers."""

    latency_objective: int
    figures: Mapping[int, str]
    reference: Sequence[float] | None
    prior: Prior
    effort: str | None
    rng: np.random.Generator


class Goal:
    """The acquisition of one suggestion: score models conditioned on what is known and pending, and the front."""

    def __init__(self, known: Known, costs: Costs, aims: Aims, regressions: dict[int, Regression]) -> None:
        self._costs, self._aims, self._known, self._regressions = costs, aims, known, regressions
        self._fit()

    def _fit(self) -> None:
        known, costs, aims, regressions = self._known, self._costs, self._aims, self._regressions
        costs.encode([*known.points, *known.pending])
        self._encoding = costs.encoder.version
        self._objectives = k = known.values.shape[1]
        self._scores = [i for i in range(k) if i not in (aims.latency_objective, *aims.figures)]
        self._other_fidelity = bool((known.fidelity != 1.0).any())
        x = self._inputs(costs.features(known.points), known.fidelity)
        self._effort = None if aims.effort is None else costs.effort(aims.effort)
        pending = known.pending
        full = known.fidelity == 1.0
        self._trials = len(known.points)
        believed = np.zeros((len(pending), k))
        self._models: dict[int, GaussianProcess] = {}
        dimension = self._dimension(x.shape[1])
        for index in self._scores:
            regression = regressions.setdefault(index, Regression(aims.rng))
            y = -without_outliers(-known.values[:, index])
            model = regression.on(x, y, dimension)
            if pending:
                # A pending trial counts as done with the score expected of it: the variance around it is gone, and its
                # place on the front is taken (Ginsbourger, Le Riche and Carraro 2010, "kriging believer").
                at = self._inputs(costs.features(pending), np.ones(len(pending)))
                believed[:, index] = model.predict(at)[0]
                model = GaussianProcess(
                    np.vstack([x, at]), np.concatenate([y, believed[:, index]]), dimension, model.hyperparameters
                )
            self._models[index] = model
        if pending:
            for index, (mean, deviation) in self._measurable(pending).items():
                believed[:, index] = np.exp(mean + 0.5 * deviation**2)
        done = known.values[full & known.feasible]
        reference = self._reference(known, known.values[full])
        everything = np.vstack([done, believed])
        owners = [p for p, ok in zip(known.points, full & known.feasible, strict=True) if ok] + list(pending)
        front = _nondominated(everything)
        self.members = [owners[i] for i in front]
        self._cells = boxes(everything[front], reference)

    def of(self, points: Sequence[Candidate]) -> Array:
        """Expected hypervolume improvement of each point, per effort where that counts, as far as the prior believes it."""
        self._costs.encode(points)
        if self._encoding != self._costs.encoder.version:  # one of the points has a parameter that none had before
            self._fit()
        k = self._objectives
        mean, deviation = np.zeros((len(points), k)), np.zeros((len(points), k))
        for index, (log_mean, log_deviation) in self._measurable(points).items():
            log_deviation = np.minimum(log_deviation, 1.0)
            mean[:, index] = np.exp(np.minimum(log_mean + 0.5 * log_deviation**2, 60.0))
            deviation[:, index] = mean[:, index] * np.sqrt(np.expm1(log_deviation**2))
        features = self._costs.features(points)
        x = self._inputs(features, np.ones(len(points)))
        for index in self._scores:
            mean[:, index], deviation[:, index] = self._models[index].predict(x)
        gain = expected_improvement(mean, deviation, self._cells)
        if self._costs.figure_limits:
            gain = gain * self._costs.likely_within(points)
        if gain.max(initial=0.0) <= 0.0:
            # Nothing is expected to improve the front: what is best, and keeps the limits, may still surprise.
            scaled = (mean - mean.min(axis=0)) / np.maximum(np.ptp(mean, axis=0), 1e-12)
            gain = (k - scaled.sum(axis=1)) * (self._costs.likely_within(points) + 1e-9)
        if self._effort is not None:
            gain = gain / self._effort(features)
        return gain * self._aims.prior.weights(features, self._costs.encoder, self._trials)

    def _measurable(self, points: Sequence[Candidate]) -> dict[int, tuple[Array, Array]]:
        """Mean and deviation of the logarithm of each objective that can be measured before training."""
        figures = {at: self._costs.predicted_figure(name, points) for at, name in self._aims.figures.items()}
        return {self._aims.latency_objective: self._costs.predicted(points), **figures}

    def _inputs(self, features: Array, fidelity: Array) -> Array:
        if not self._other_fidelity:
            return features
        # trials of an earlier run may have been any number of times as long: that goes from 1 to 2
        longer = 2.0 - 1.0 / np.maximum(fidelity, 1.0)
        return np.column_stack([features, np.where(fidelity > 1.0, longer, fidelity)])

    def _dimension(self, columns: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        own = self._costs.encoder.dimension
        base = int(own.max(initial=-1)) + 1
        return np.concatenate([own, base + np.arange(columns - len(own))])

    def _reference(self, known: Known, values: Array) -> Array:
        if self._aims.reference is not None:
            if len(self._aims.reference) != values.shape[1]:
                raise ValueError(f"reference has {len(self._aims.reference)} values for {values.shape[1]} objectives")
            return np.asarray(known.signs * np.array(self._aims.reference))
        worst = values.max(axis=0)
        spread = np.ptp(values, axis=0)
        reference: Array = worst + 0.1 * np.maximum(spread, 1e-9 * np.maximum(1.0, np.abs(worst)))
        measured = [value for value in self._costs.measured.values() if math.isfinite(value)]
        reference[self._aims.latency_objective] = max(1.1 * max(measured), reference[self._aims.latency_objective])
        return reference


def _nondominated(values: Array) -> list[int]:
    """Indices of the rows that no other row dominates; of equal rows the first."""
    found = []
    for i, row in enumerate(values):
        no_worse = (values <= row).all(axis=1)
        better = no_worse & (values < row).any(axis=1)
        twins = np.flatnonzero(no_worse & ~better)
        if not better.any() and twins[0] == i:
            found.append(i)
    return found
