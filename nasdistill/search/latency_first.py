"""The sampler that knows what a student costs before it is trained, and models only what training tells.

Each suggestion: a pool of points nobody has tried; their latency, predicted from what has been measured; the expected
hypervolume improvement of each, with a Gaussian process for the score; the best few are measured; the best of those,
now with their true latency, is proposed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasdistill.errors import SpaceExhaustedError
from nasdistill.search.candidates import Following, Point, Tree
from nasdistill.search.distributions import key_of
from nasdistill.search.ehvi import boxes, expected_improvement
from nasdistill.search.encoding import Encoder
from nasdistill.search.gaussian_process import GaussianProcess
from nasdistill.search.grid import value_at
from nasdistill.search.surrogate import Regression, without_outliers

Array = np.ndarray[Any, np.dtype[np.float64]]
Cost = Callable[[Mapping[str, Any]], float]

PROPOSAL = "latency_first:proposal"
"""System attribute of a trial: all parameters proposed for it, so that other workers see them while it runs."""
FIDELITY, PARTIAL_VALUES = "fidelity", "partial_values"
"""User attributes of a trial that ended early: the share (0 to 1) of full training it had, and its objectives then."""

_POOL = 384  # random points
_NEIGHBOURS = 192  # of the front's members
_CLIMBS, _CLIMBERS, _CLIMB_NEIGHBOURS = 2, 4, 16
_ENUMERATED = 1024  # spaces of up to so many points are their own pool
_MOST_COST_POINTS = 256  # that the latency model is conditioned on
_DISCOVERY_WALKS = 64
_DESIGN_POOL = 64
_EXHAUSTED = 20  # pools without a single new point that prove a space to be exhausted


@dataclass(eq=False)
class _Candidate:
    """A complete point, the key by which it is the same as another, and (once asked for) its row of numbers."""

    point: Point
    key: Hashable
    row: Array | None = None
    version: int = -1


@dataclass
class _Known:
    """What the study says, everything to be minimised."""

    points: list[_Candidate]
    """Those with values, complete ones first."""
    values: Array
    """(n, k) for `points`."""
    fidelity: Array
    """(n,) for `points`; 1 is full training."""
    feasible: np.ndarray[Any, np.dtype[np.bool_]]
    pending: list[_Candidate]
    taken: set[Hashable]


class LatencyFirstSampler(BaseSampler):
    """Bayesian optimisation of a score against costs that are known, or can be measured, before the score is.

        study = optuna.create_study(directions=["maximize", "minimize"], sampler=LatencyFirstSampler(space, latency))
        study.optimize(objective, n_trials=50)   # objective(trial) returns (score, latency)

    Args:
        search_space: a dict of Optuna distributions by name, or for conditional parameters a callable that takes the
            parameters chosen so far and returns the next ones ({} when the point is complete).
        latency: takes a complete parameter dict and returns milliseconds (> 0); `inf` for a point that cannot be built,
            which is never proposed. It is called once a point, for at most `lookups` points a suggestion. None: latency
            is only known from finished trials (and `observe`), and predicted with its uncertainty for all others.
        latency_objective: index of the objective that is the latency. All others are scores, modelled by a Gaussian
            process each, unless named in `costs`.
        seed: makes suggestions reproducible, as long as results arrive in the same order.
        canonical: takes a complete parameter dict and returns a hashable; points of equal value are duplicates (two
            students equal after rounding, say). No point, failed ones included, is proposed twice.
        lookups: how many points may be measured for one suggestion; None measures the whole pool, for a `latency` that
            is a formula. Once the space holds only points known to be `inf`, SpaceExhaustedError is raised.
        costs: further objectives known beforehand: by index a callable like `latency`, but quick (called on the pool).
        limits: worst allowed value by objective index, in the study's own direction: beyond it there is nothing to win.
        figure_limits: largest allowed values (> 0) of figures told by `observe`, such as parameters, by name: predicted
            like latency, and points count as far as they are likely to keep them. `latency_name` in it is the latency,
            which a point that has been looked up keeps or doesn't.
        reference: worst corner of the hypervolume, a value an objective in the study's own directions. By default a
            little beyond the worst seen.
        startup: trials that spread over the space before the models take over.

    Trials that ended early may carry the user attributes `fidelity` and `partial_values`: the model learns from them at
    that fidelity, and they never join the front.
    """

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution] | Following,
        latency: Cost | None,
        latency_objective: int = 1,
        seed: int | None = None,
        *,
        canonical: Callable[[Mapping[str, Any]], Hashable] | None = None,
        lookups: int | None = 8,
        costs: Mapping[int, Cost] | None = None,
        limits: Mapping[int, float] | None = None,
        figure_limits: Mapping[str, float] | None = None,
        latency_name: str = "latency_ms",
        reference: Sequence[float] | None = None,
        startup: int = 6,
    ) -> None:
        if lookups is not None and lookups < 1:
            raise ValueError(f"lookups={lookups}, expected at least 1, or None")
        if startup < 1:
            raise ValueError(f"startup={startup}, expected at least 1")
        self._tree = Tree(search_space)
        self._latency = latency
        self._latency_objective = latency_objective
        self._rng = np.random.default_rng(seed)
        self._canonical = canonical or key_of
        self._lookups = lookups
        self.lookups = 0
        """How many times `latency` has been called so far."""
        self._costs = dict(costs or {})
        self._limits = dict(limits or {})
        self._figure_limits = dict(figure_limits or {})
        self._latency_name = latency_name
        self._figures: dict[str, dict[Hashable, float]] = {}
        self._figure_models: dict[str, Regression] = {}
        self._reference = None if reference is None else [float(value) for value in reference]
        self._startup = startup
        self._lock = threading.RLock()
        self._measured: dict[Hashable, float] = {}
        self._points: dict[Hashable, _Candidate] = {}
        self._finished: dict[int, _Candidate | None] = {}
        self._encoder = Encoder()
        self._cost_model = Regression(self._rng)
        self._cost_cache: tuple[tuple[int, int], GaussianProcess] | None = None
        self._score_models: dict[int, Regression] = {}
        for _ in range(_DISCOVERY_WALKS):
            self._encoder.add(self._tree.walk({}, self._rng)[1])
        every = self._tree.every(_ENUMERATED)
        self._every = None if every is None else [self._candidate(point) for point in every]

    def observe(self, params: Mapping[str, Any], latency_ms: float | None = None, **figures: float) -> None:
        """Tell what was measured of a point elsewhere: its latency, and figures that `figure_limits` may name."""
        with self._lock:
            candidate = self._candidate(dict(params))
            if latency_ms is not None:
                self._note(candidate, float(latency_ms))
            self._points[candidate.key] = candidate
            for name, value in figures.items():
                if name in self._figure_limits and value > 0:
                    self._figures.setdefault(name, {})[candidate.key] = float(value)

    def reseed_rng(self) -> None:
        """Other random numbers, for a copy of this sampler in another process."""
        self._rng.bit_generator.state = np.random.default_rng().bit_generator.state

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Propose a complete point; Optuna asks for its values next."""
        with self._lock:
            point = self._propose(study, trial).point
            study._storage.set_trial_system_attr(trial._trial_id, PROPOSAL, point)
            distributions = self._tree.distributions(point)
            assert distributions is not None
            return {name: d for name, d in distributions.items() if not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        point = study._storage.get_trial(trial._trial_id).system_attrs[PROPOSAL]
        return {name: point[name] for name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value, for a parameter that the search space did not name."""
        return value_at(param_distribution, self._rng.random())  # type: ignore[arg-type]

    # -- one suggestion ------------------------------------------------------------------------------------------------

    def _candidate(self, point: Point) -> _Candidate:
        return _Candidate(point, self._canonical(point))

    def _propose(self, study: Study, trial: FrozenTrial) -> _Candidate:
        known = self._read(study, trial)
        wanted = trial.system_attrs.get("fixed_params", {})
        complete = sum(known.fidelity == 1.0)
        if complete + len(known.pending) < self._startup or complete < 2:
            return self._spread(known, wanted)
        return self._improve(known, wanted)

    def _read(self, study: Study, current: FrozenTrial) -> _Known:
        sign = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
        if not 0 <= self._latency_objective < len(sign):
            raise ValueError(f"latency_objective={self._latency_objective}, but the study has {len(sign)} objectives")
        rows: list[tuple[_Candidate, Array, float, bool]] = []
        pending: list[_Candidate] = []
        taken: set[Hashable] = set()
        for trial in study.get_trials(deepcopy=False):
            if trial.number == current.number:
                continue
            point = self._of_trial(trial)
            if point is None:
                continue
            taken.add(point.key)
            if trial.state == TrialState.COMPLETE:
                feasible = all(value <= 0.0 for value in trial.constraints.values())
                rows.append((point, sign * np.array(trial.values), 1.0, feasible))
            elif not trial.state.is_finished():
                pending.append(point)
            elif 0.0 < float(trial.user_attrs.get(FIDELITY, 0.0)) < 1.0 and PARTIAL_VALUES in trial.user_attrs:
                values = sign * np.array(trial.user_attrs[PARTIAL_VALUES], dtype=float)
                rows.append((point, values, float(trial.user_attrs[FIDELITY]), True))
        rows = [row for row in rows if np.isfinite(row[1]).all()]
        rows.sort(key=lambda row: row[2] < 1.0)
        self._signs = sign
        for point, values, _, _ in rows:
            self._note(point, float(values[self._latency_objective]))
        return _Known(
            points=[row[0] for row in rows],
            values=np.array([row[1] for row in rows]).reshape(len(rows), len(sign)),
            fidelity=np.array([row[2] for row in rows]),
            feasible=np.array([row[3] for row in rows], dtype=bool),
            pending=pending,
            taken=taken,
        )

    def _of_trial(self, trial: FrozenTrial) -> _Candidate | None:
        """The trial's complete point; None when it has none (yet), or one outside the space."""
        finished = trial.state.is_finished()
        if finished and trial._trial_id in self._finished:
            return self._finished[trial._trial_id]
        point = {**trial.system_attrs.get(PROPOSAL, {}), **trial.params}
        if not finished:
            point.update(trial.system_attrs.get("fixed_params", {}))
        names = self._tree.distributions(point)
        found = None if names is None else self._candidate({name: point[name] for name in names})
        if finished:
            self._finished[trial._trial_id] = found
        return found

    def _spread(self, known: _Known, wanted: Mapping[str, Any]) -> _Candidate:
        """The point of a random few that is farthest from all before it, in parameters and in latency."""
        while True:
            pool = self._fresh(self._random(_DESIGN_POOL, wanted), known.taken)
            buildable = self._look_up(pool, self._lookups)
            if buildable:
                break
        before = [*known.points, *known.pending]
        if not before:
            return buildable[int(self._rng.integers(len(buildable)))]
        if self._figure_limits:
            likely = self._likely_within(buildable)
            buildable = [c for c, p in zip(buildable, likely, strict=True) if p >= min(0.5, likely.max())]
        own, theirs = self._features(buildable), self._features(before)
        distance = np.abs(own[:, None, :] - theirs[None, :, :])
        farness = distance.sum(axis=2).min(axis=1)
        return buildable[int(np.argmax(farness))]

    def _improve(self, known: _Known, wanted: Mapping[str, Any]) -> _Candidate:
        goal = _Goal(self, known)
        pool = self._fresh(self._pool(goal, wanted), known.taken)
        gain = goal.of(pool)
        if self._every is None:
            for _ in range(_CLIMBS):
                best = np.argsort(-gain)[:_CLIMBERS]
                near = [self._neighbour(pool[i], wanted) for i in best for _ in range(_CLIMB_NEIGHBOURS)]
                known_keys = known.taken.union(candidate.key for candidate in pool)
                near = [candidate for candidate in _unique(near) if candidate.key not in known_keys]
                if near:
                    pool, gain = [*pool, *near], np.concatenate([gain, goal.of(near)])
        while self._latency is not None:
            order = np.argsort(-gain, kind="stable")
            best_known = next((i for i in order if pool[i].key in self._measured), None)
            shortlist = order[: self._lookups] if self._lookups is not None else order
            self._look_up([pool[i] for i in shortlist], None)
            kept = [i for i in shortlist if math.isfinite(self._measured[pool[i].key])]
            if best_known is not None and best_known not in kept:
                kept.append(best_known)
            if kept:
                pool = [pool[i] for i in kept]
                gain = goal.of(pool)
                break
            pool = self._fresh([pool[i] for i in order], known.taken) if len(order) > len(shortlist) else []
            if not pool:
                pool = self._fresh(self._pool(goal, wanted), known.taken)
            gain = goal.of(pool)
        return pool[int(np.argmax(gain))]

    # -- pools ---------------------------------------------------------------------------------------------------------

    def _random(self, count: int, wanted: Mapping[str, Any]) -> list[_Candidate]:
        if self._every is not None:
            fitting = self._every
            if wanted:
                fitting = [c for c in fitting if all(c.point.get(name) == value for name, value in wanted.items())]
            return [fitting[i] for i in self._rng.permutation(len(fitting))]
        return [self._candidate(self._tree.walk(wanted, self._rng)[0]) for _ in range(count)]

    def _neighbour(self, candidate: _Candidate, wanted: Mapping[str, Any]) -> _Candidate:
        near = self._tree.neighbour(candidate.point, self._rng)
        return self._candidate(self._tree.walk({**near, **wanted}, self._rng)[0] if wanted else near)

    def _pool(self, goal: _Goal, wanted: Mapping[str, Any]) -> list[_Candidate]:
        candidates = self._random(_POOL, wanted)
        if self._every is None:
            each = -(-_NEIGHBOURS // max(1, len(goal.members)))
            candidates += [self._neighbour(member, wanted) for member in goal.members for _ in range(each)]
        return candidates

    def _fresh(self, candidates: Sequence[_Candidate], taken: set[Hashable]) -> list[_Candidate]:
        """Those never proposed and not known to be impossible; SpaceExhaustedError when there are none anywhere."""

        def left(some: Sequence[_Candidate]) -> list[_Candidate]:
            return [c for c in _unique(some) if c.key not in taken and self._measured.get(c.key) != math.inf]

        found = left(candidates)
        tries = 0
        while not found and tries < _EXHAUSTED:
            found, tries = left(self._random(_POOL, {})), tries + 1
        if not found:
            raise SpaceExhaustedError("every point of the search space has been tried or cannot be built")
        return found

    # -- latency -------------------------------------------------------------------------------------------------------

    def _note(self, candidate: _Candidate, latency: float) -> None:
        if math.isnan(latency) or latency <= 0:
            raise ValueError(f"latency {latency} of {candidate.point}: expected milliseconds above 0, or inf")
        self._measured[candidate.key] = latency
        self._points[candidate.key] = candidate

    def _look_up(self, candidates: Sequence[_Candidate], most: int | None) -> list[_Candidate]:
        """Measure up to `most` of the candidates; the answer is those that can be built."""
        if self._latency is None:
            return list(candidates)
        chosen = list(candidates if most is None else candidates[:most])
        for candidate in chosen:
            if candidate.key not in self._measured:
                self._note(candidate, float(self._latency(dict(candidate.point))))
                self.lookups += 1
        return [candidate for candidate in chosen if math.isfinite(self._measured[candidate.key])]

    # -- models --------------------------------------------------------------------------------------------------------

    def _encode(self, candidates: Sequence[_Candidate]) -> Array:
        """(n, c) between 0 and 1. The columns stay as they are until the space shows a parameter it never had."""
        stale = [c for c in candidates if c.row is None or c.version != self._encoder.version]
        if stale:
            for candidate in stale:
                if candidate.row is None:
                    self._encoder.add(self._tree.distributions(candidate.point) or {})
            stale = [c for c in candidates if c.row is None or c.version != self._encoder.version]
            for candidate, row in zip(stale, self._encoder.rows([c.point for c in stale]), strict=True):
                candidate.row, candidate.version = row, self._encoder.version
        return np.array([c.row for c in candidates]).reshape(len(candidates), len(self._encoder.dimension))

    def _predicted(self, candidates: Sequence[_Candidate]) -> tuple[Array, Array]:
        """Mean and deviation of the natural logarithm of the latency; 0 deviation where it has been measured."""
        told = np.array([self._measured.get(candidate.key, math.nan) for candidate in candidates])
        mean, deviation = np.log(told), np.zeros(len(candidates))
        unknown = np.flatnonzero(np.isnan(told))
        if len(unknown):
            model = self._latency_model()
            if model is None:
                mean[unknown], deviation[unknown] = 0.0, 1.0
            else:
                mean[unknown], deviation[unknown] = model.predict(self._encode([candidates[i] for i in unknown]))
        return mean, deviation

    def _latency_model(self) -> GaussianProcess | None:
        finite = [key for key, value in self._measured.items() if math.isfinite(value)]
        if not finite or not len(self._encoder.dimension):
            return None
        if self._cost_cache is not None and self._cost_cache[0] == (len(finite), self._encoder.version):
            return self._cost_cache[1]
        stamp = len(finite), self._encoder.version
        # The newest are around the front, where the model is needed most; the oldest are all over the space.
        if len(finite) > _MOST_COST_POINTS:
            finite = finite[: _MOST_COST_POINTS // 2] + finite[-_MOST_COST_POINTS // 2 :]
        x = self._encode([self._points[key] for key in finite])
        y = np.log([self._measured[key] for key in finite])
        model = self._cost_model.on(x, y, self._encoder.dimension)
        self._cost_cache = stamp, model
        return model

    def _likely_within(self, candidates: Sequence[_Candidate]) -> Array:
        """The probability (n,) that each candidate keeps all `figure_limits`."""
        from scipy.special import ndtr

        product = np.ones(len(candidates))
        for name, limit in self._figure_limits.items():
            if name == self._latency_name:
                mean, deviation = self._predicted(candidates)
            else:
                told = self._figures.get(name, {})
                if not told:
                    continue
                x = self._encode([self._points[key] for key in told])
                regression = self._figure_models.setdefault(name, Regression(self._rng))
                model = regression.on(x, np.log(list(told.values())), self._encoder.dimension)
                mean, deviation = model.predict(self._encode(candidates))
            product *= ndtr((math.log(limit) + 1e-9 - mean) / np.maximum(deviation, 1e-9))
        return product

    def _features(self, candidates: Sequence[_Candidate]) -> Array:
        """(n, c + 1): the parameters, and the latency as a last column."""
        log_latency = self._predicted(candidates)[0]
        known = [value for value in self._measured.values() if math.isfinite(value)]
        low, high = (math.log(min(known)), math.log(max(known))) if known else (0.0, 1.0)
        scaled = np.clip((log_latency - low) / max(high - low, 1e-9), -0.5, 1.5)
        return np.column_stack([self._encode(candidates), scaled])


class _Goal:
    """The acquisition of one suggestion: score models conditioned on what is known and pending, and the front."""

    def __init__(self, sampler: LatencyFirstSampler, known: _Known) -> None:
        self._sampler = sampler
        k = known.values.shape[1]
        self._scores = [i for i in range(k) if i != sampler._latency_objective and i not in sampler._costs]
        self._low_fidelity = bool((known.fidelity < 1.0).any())
        x = self._inputs(known.points, known.fidelity)
        pending = known.pending
        full = known.fidelity == 1.0
        believed = np.zeros((len(pending), k))
        self._models: dict[int, GaussianProcess] = {}
        dimension = self._dimension(x.shape[1])
        for index in self._scores:
            regression = sampler._score_models.setdefault(index, Regression(sampler._rng))
            y = -without_outliers(-known.values[:, index])
            model = regression.on(x, y, dimension)
            if pending:
                # A pending trial counts as done with the score expected of it: the variance around it is gone, and its
                # place on the front is taken (Ginsbourger, Le Riche and Carraro 2010, "kriging believer").
                at = self._inputs(pending, np.ones(len(pending)))
                believed[:, index] = model.predict(at)[0]
                model = GaussianProcess(
                    np.vstack([x, at]), np.concatenate([y, believed[:, index]]), dimension, model.hyperparameters
                )
            self._models[index] = model
        if pending:
            mean, deviation = sampler._predicted(pending)
            believed[:, sampler._latency_objective] = np.exp(mean + 0.5 * deviation**2)
            for index, cost in sampler._costs.items():
                believed[:, index] = [cost(candidate.point) for candidate in pending]
        done = known.values[full & known.feasible]
        reference = self._reference(known.values[full])
        limits = reference.copy()
        for index, limit in sampler._limits.items():
            limits[index] = min(limits[index], limit if sampler._signs[index] > 0 else -limit)
        self._limits = limits
        everything = np.vstack([done, believed])
        owners = [p for p, ok in zip(known.points, full & known.feasible, strict=True) if ok] + list(pending)
        front = _nondominated(everything)
        self.members = [owners[i] for i in front]
        self._cells = boxes(everything[front], limits)

    def of(self, points: Sequence[_Candidate]) -> Array:
        """Expected hypervolume improvement of each point."""
        sampler = self._sampler
        k = len(self._limits)
        mean, deviation = np.zeros((len(points), k)), np.zeros((len(points), k))
        log_mean, log_deviation = sampler._predicted(points)
        log_deviation = np.minimum(log_deviation, 1.0)
        at = sampler._latency_objective
        mean[:, at] = np.exp(np.minimum(log_mean + 0.5 * log_deviation**2, 60.0))
        deviation[:, at] = mean[:, at] * np.sqrt(np.expm1(log_deviation**2))
        for index, cost in sampler._costs.items():
            mean[:, index] = [cost(candidate.point) for candidate in points]
        x = self._inputs(points, np.ones(len(points)))
        for index in self._scores:
            mean[:, index], deviation[:, index] = self._models[index].predict(x)
        gain = expected_improvement(mean, deviation, self._cells)
        if sampler._figure_limits:
            gain = gain * sampler._likely_within(points)
        if gain.max(initial=0.0) <= 0.0:
            # Nothing is expected to improve the front: what is best, and keeps the limits, may still surprise.
            scaled = (mean - mean.min(axis=0)) / np.maximum(np.ptp(mean, axis=0), 1e-12)
            gain = (k - scaled.sum(axis=1)) * (sampler._likely_within(points) + 1e-9)
        return gain

    def _inputs(self, points: Sequence[_Candidate], fidelity: Array) -> Array:
        features = self._sampler._features(points)
        return np.column_stack([features, fidelity]) if self._low_fidelity else features

    def _dimension(self, columns: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        own = self._sampler._encoder.dimension
        base = int(own.max(initial=-1)) + 1
        return np.concatenate([own, base + np.arange(columns - len(own))])

    def _reference(self, values: Array) -> Array:
        sampler = self._sampler
        if sampler._reference is not None:
            if len(sampler._reference) != values.shape[1]:
                raise ValueError(f"reference has {len(sampler._reference)} values for {values.shape[1]} objectives")
            return sampler._signs * np.array(sampler._reference)
        worst = values.max(axis=0)
        spread = np.ptp(values, axis=0)
        reference = worst + 0.1 * np.maximum(spread, 1e-9 * np.maximum(1.0, np.abs(worst)))
        measured = [value for value in sampler._measured.values() if math.isfinite(value)]
        reference[sampler._latency_objective] = max(1.1 * max(measured), reference[sampler._latency_objective])
        return reference


def _unique(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    return list({candidate.key: candidate for candidate in candidates}.values())


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
