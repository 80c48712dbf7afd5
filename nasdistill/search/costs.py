"""What points cost: latencies and other figures that have been measured, and their prediction for all others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from nasdistill.search.candidates import Tree
from nasdistill.search.encoding import Encoder
from nasdistill.search.gaussian_process import GaussianProcess
from nasdistill.search.known import Array, Candidate
from nasdistill.search.surrogate import Regression

Cost = Callable[[Mapping[str, Any]], float]

_MOST_COST_POINTS = 256  # that the latency model is conditioned on
_DISCOVERY_WALKS = 64
_FEWEST_EFFORTS = 3  # told before they say anything of other points


class Costs:
    """Measured latencies (ms) and figures of points, and a Gaussian process over their logarithms for the rest.

    `latency`, `figure_limits` and `latency_name` are those of `LatencyFirstSampler`; `figures` names further figures to
    keep and predict.
    """

    def __init__(
        self,
        tree: Tree,
        rng: np.random.Generator,
        latency: Cost | None,
        figure_limits: Mapping[str, float],
        latency_name: str,
        figures: Collection[str] = (),
    ) -> None:
        self._tree = tree
        self._rng = rng
        self._latency = latency
        self.figure_limits = dict(figure_limits)
        self._latency_name = latency_name
        self.lookups = 0
        """How many times `latency` has been called so far."""
        self.measured: dict[Hashable, float] = {}
        """Latency in milliseconds by point; `inf` for one that cannot be built."""
        self._points: dict[Hashable, Candidate] = {}
        self._figures: dict[str, dict[Hashable, float]] = {name: {} for name in (*figure_limits, *figures)}
        self._figure_models: dict[str, Regression] = {}
        self._latency_regression = Regression(rng)
        self._latency_cache: tuple[tuple[int, int], GaussianProcess] | None = None
        self.encoder = Encoder()
        for distributions in tree.branches(_DISCOVERY_WALKS, rng):
            self.encoder.add(distributions)

    def observe(self, candidate: Candidate, figures: Mapping[str, float]) -> None:
        """Keep what was measured of a point elsewhere; a figure that is neither limited nor an objective is of no use."""
        self._know(candidate)
        for name, value in figures.items():
            if name == self._latency_name:
                self.note(candidate, float(value))
            elif name in self._figures and value > 0:
                self._figures[name][candidate.key] = float(value)

    def note(self, candidate: Candidate, latency: float) -> None:
        """Keep a latency in milliseconds, > 0 or inf."""
        if math.isnan(latency) or latency <= 0:
            raise ValueError(f"latency {latency} of {candidate.point}: expected milliseconds above 0, or inf")
        self.measured[candidate.key] = latency
        self._know(candidate)

    def _know(self, candidate: Candidate) -> None:
        self._points[candidate.key] = candidate
        self.encode([candidate])  # its columns are there before anything is predicted

    def look_up(self, candidates: Sequence[Candidate], most: int | None) -> list[Candidate]:
        """Measure up to `most` of the candidates; the answer is those that can be built."""
        if self._latency is None:
            return list(candidates)
        chosen = list(candidates if most is None else candidates[:most])
        for candidate in chosen:
            if candidate.key not in self.measured:
                self.note(candidate, float(self._latency(dict(candidate.point))))
                self.lookups += 1
        return [candidate for candidate in chosen if math.isfinite(self.measured[candidate.key])]

    def encode(self, candidates: Sequence[Candidate]) -> Array:
        """(n, c) between 0 and 1. The columns stay as they are until the space shows a parameter it never had."""
        stale = [c for c in candidates if c.row is None or c.version != self.encoder.version]
        if stale:
            for candidate in stale:
                if candidate.row is None:
                    self.encoder.add(self._tree.distributions(candidate.point) or {})
            stale = [c for c in candidates if c.row is None or c.version != self.encoder.version]
            for candidate, row in zip(stale, self.encoder.rows([c.point for c in stale]), strict=True):
                candidate.row, candidate.version = row, self.encoder.version
        return np.array([c.row for c in candidates]).reshape(len(candidates), len(self.encoder.dimension))

    def predicted(self, candidates: Sequence[Candidate]) -> tuple[Array, Array]:
        """Mean and deviation of the natural logarithm of the latency; 0 deviation where it has been measured."""
        told = np.array([self.measured.get(candidate.key, math.nan) for candidate in candidates])
        mean, deviation = np.log(told), np.zeros(len(candidates))
        unknown = np.flatnonzero(np.isnan(told)).tolist()
        if len(unknown):
            rows = self.encode([candidates[i] for i in unknown])  # before the model, which has as many columns
            model = self._latency_model()
            if model is None:
                mean[unknown], deviation[unknown] = 0.0, 1.0
            else:
                mean[unknown], deviation[unknown] = model.predict(rows)
        return mean, deviation

    def _latency_model(self) -> GaussianProcess | None:
        finite = [key for key, value in self.measured.items() if math.isfinite(value)]
        if not finite or not len(self.encoder.dimension):
            return None
        if self._latency_cache is not None and self._latency_cache[0] == (len(finite), self.encoder.version):
            return self._latency_cache[1]
        stamp = len(finite), self.encoder.version
        # The newest are around the front, where the model is needed most; the oldest are all over the space.
        if len(finite) > _MOST_COST_POINTS:
            finite = finite[: _MOST_COST_POINTS // 2] + finite[-_MOST_COST_POINTS // 2 :]
        x = self.encode([self._points[key] for key in finite])
        y = np.log([self.measured[key] for key in finite])
        model = self._latency_regression.on(x, y, self.encoder.dimension)
        self._latency_cache = stamp, model
        return model

    def predicted_figure(self, name: str, candidates: Sequence[Candidate]) -> tuple[Array, Array]:
        """Mean and deviation of the natural logarithm of a figure other than the latency, as `predicted`."""
        told = self._figures[name]
        known = np.array([told.get(candidate.key, math.nan) for candidate in candidates])
        mean, deviation = np.log(known), np.zeros(len(candidates))
        unknown = np.flatnonzero(np.isnan(known)).tolist()
        if len(unknown) and not told:
            mean[unknown], deviation[unknown] = 0.0, 1.0
        elif len(unknown):
            rows = self.encode([candidates[i] for i in unknown])
            keys = list(told)
            if len(keys) > _MOST_COST_POINTS:
                keys = keys[: _MOST_COST_POINTS // 2] + keys[-_MOST_COST_POINTS // 2 :]
            x = self.encode([self._points[key] for key in keys])
            regression = self._figure_models.setdefault(name, Regression(self._rng))
            model = regression.on(x, np.log([told[key] for key in keys]), self.encoder.dimension)
            mean[unknown], deviation[unknown] = model.predict(rows)
        return mean, deviation

    def effort(self, name: str) -> Callable[[Array], Array] | None:
        """What points of certain `features` are expected to take of the figure `name` (n,); None until some were told.

        The features are those of the encoder as it is now: see `encode`.
        """
        told = self._figures[name]
        if len(told) < _FEWEST_EFFORTS:
            return None
        keys = list(told)[-_MOST_COST_POINTS:]
        logs = np.log([told[key] for key in keys])
        dimension = np.append(self.encoder.dimension, int(self.encoder.dimension.max(initial=-1)) + 1)
        regression = self._figure_models.setdefault(name, Regression(self._rng))
        model = regression.on(self.features([self._points[key] for key in keys]), logs, dimension)
        return lambda features: np.exp(model.predict(features)[0])

    def likely_within(self, candidates: Sequence[Candidate]) -> Array:
        """The probability (n,) that each candidate keeps all `figure_limits`."""
        from scipy.special import ndtr

        product = np.ones(len(candidates))
        for name, limit in self.figure_limits.items():
            if name == self._latency_name:
                mean, deviation = self.predicted(candidates)
            elif self._figures[name]:
                mean, deviation = self.predicted_figure(name, candidates)
            else:
                continue
            product *= ndtr((math.log(limit) + 1e-9 - mean) / np.maximum(deviation, 1e-9))
        return product

    def features(self, candidates: Sequence[Candidate]) -> Array:
        """(n, c + 1): the parameters, and the latency as a last column."""
        log_latency = self.predicted(candidates)[0]
        known = [value for value in self.measured.values() if math.isfinite(value)]
        low, high = (math.log(min(known)), math.log(max(known))) if known else (0.0, 1.0)
        scaled = np.clip((log_latency - low) / max(high - low, 1e-9), -0.5, 1.5)
        return np.column_stack([self.encode(candidates), scaled])
