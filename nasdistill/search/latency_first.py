"""The sampler that knows what a student costs before it is trained, and models only what training tells.

Each suggestion: a pool of points nobody has tried; their latency, predicted from what has been measured; the expected
hypervolume improvement of each, with a Gaussian process for the score; the best few are measured; the best of those,
now with their true latency, is proposed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nasdistill.errors import SpaceExhaustedError
from nasdistill.search.acquisition import Aims, Goal
from nasdistill.search.candidates import Following, Tree
from nasdistill.search.costs import Cost, Costs
from nasdistill.search.distributions import key_of
from nasdistill.search.grid import value_at
from nasdistill.search.known import PROPOSAL, Candidate, Known, StudyReader, unique
from nasdistill.search.prior import Prior
from nasdistill.search.surrogate import Regression

_POOL = 384  # random points
_NEIGHBOURS = 192  # of the front's members
_CLIMBS, _CLIMBERS, _CLIMB_NEIGHBOURS = 2, 4, 16
_ENUMERATED = 1024  # spaces of up to so many points are their own pool
_DESIGN_POOL = 64
_EXHAUSTED = 20  # pools without a single new point that prove a space to be exhausted


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
            process each, unless named in `figures`.
        seed: makes suggestions reproducible, as long as results arrive in the same order.
        canonical: takes a complete parameter dict and returns a hashable; points of equal value are duplicates (two
            students equal after rounding, say). No point, failed ones included, is proposed twice.
        lookups: how many points may be measured for one suggestion; None measures the whole pool, for a `latency` that
            is a formula. Once the space holds only points known to be `inf`, SpaceExhaustedError is raised.
        figures: further objectives that are measured before training, as parameters or the latency on a second device are:
            by index the name under which `observe` and finished trials tell them (> 0). Predicted like latency.
        figure_limits: largest allowed values (> 0) of figures told by `observe`, such as parameters, by name: predicted
            like latency, and points count as far as they are likely to keep them. `latency_name` in it, as in `observe`,
            is the latency, which a point that has been looked up keeps or doesn't.
        reference: worst corner of the hypervolume, a value an objective in the study's own directions. By default a
            little beyond the worst seen.
        startup: trials that spread over the space before the models take over.
        believed: numbers thought best before anything is known, by name. The first trials keep them, and the acquisition
            discounts points away from them, the less the more trials there are.
        effort: a figure told by `observe` of finished trials that there is a budget of, their seconds, say: predicted for
            other points, and improvement is counted per unit of it (Snoek et al., 2012, section 3.2).

    Trials that ended early may carry the user attributes `fidelity` and `partial_values`: the model learns from them at
    that fidelity, and they never join the front.

    Attributes:
        possible: when set, points for which it is false are not proposed (what fits into the rest of a budget changes);
            SpaceExhaustedError where it leaves none.
    """

    possible: Callable[[Mapping[str, Any]], bool] | None = None

    def __init__(
        self,
        search_space: Mapping[str, BaseDistribution] | Following,
        latency: Cost | None,
        latency_objective: int = 1,
        seed: int | None = None,
        *,
        canonical: Callable[[Mapping[str, Any]], Hashable] | None = None,
        lookups: int | None = 8,
        figures: Mapping[int, str] | None = None,
        figure_limits: Mapping[str, float] | None = None,
        latency_name: str = "latency_ms",
        reference: Sequence[float] | None = None,
        startup: int = 4,
        believed: Mapping[str, float] | None = None,
        effort: str | None = None,
    ) -> None:
        if lookups is not None and lookups < 1:
            raise ValueError(f"lookups={lookups}, expected at least 1, or None")
        if startup < 1:
            raise ValueError(f"startup={startup}, expected at least 1")
        self._tree = Tree(search_space)
        self._latency = latency
        self._lookups = lookups
        self._startup = startup
        self._lock = threading.RLock()
        self._rng = np.random.default_rng(seed)
        self._reader = StudyReader(self._tree, canonical or key_of)
        self._latency_name = latency_name
        told = dict(figures or {})
        kept = [*told.values(), *([] if effort is None else [effort])]
        self._costs = Costs(self._tree, self._rng, latency, figure_limits or {}, latency_name, kept)
        self._prior = Prior(believed or {})
        corner = None if reference is None else [float(value) for value in reference]
        self._aims = Aims(latency_objective, told, corner, self._prior, effort, self._rng)
        self._score_models: dict[int, Regression] = {}
        every = self._tree.every(_ENUMERATED)
        self._every = None if every is None else [self._reader.candidate(point) for point in every]

    @property
    def lookups(self) -> int:
        """How many times `latency` has been called so far."""
        return self._costs.lookups

    def observe(self, params: Mapping[str, Any], latency_ms: float | None = None, /, **figures: float) -> None:
        """Tell what was measured of a point elsewhere: its latency, and figures that `figures` or `figure_limits` name."""
        if latency_ms is not None:
            figures[self._latency_name] = latency_ms
        with self._lock:
            self._costs.observe(self._reader.candidate(dict(params)), figures)

    def expecting_effort(self) -> Callable[[Mapping[str, Any]], float] | None:
        """What points are expected to take of the figure that is the `effort`, by what has been told so far; the model is
        made once, however many points are asked about. None without an `effort`, or until some were told."""
        name, costs = self._aims.effort, self._costs
        with self._lock:
            effort = None if name is None else costs.effort(name)
            encoding = costs.encoder.version
        if name is None or effort is None:
            return None

        def expected(params: Mapping[str, Any]) -> float:
            with self._lock:
                features = costs.features([self._reader.candidate(dict(params))])
                model = effort if encoding == costs.encoder.version else costs.effort(name)
                assert model is not None
                return float(model(features)[0])

        return expected

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

    def _propose(self, study: Study, trial: FrozenTrial) -> Candidate:
        known = self._known(study, trial)
        wanted = trial.system_attrs.get("fixed_params", {})
        complete = sum(known.fidelity == 1.0)
        if complete + len(known.pending) < self._startup or complete < 2:
            return self._spread(known, wanted)
        return self._improve(known, wanted)

    def _known(self, study: Study, trial: FrozenTrial) -> Known:
        known, at = self._reader.read(study, trial), self._aims.latency_objective
        if not 0 <= at < len(known.signs):
            raise ValueError(f"latency_objective={at}, but the study has {len(known.signs)} objectives")
        for point, values in zip(known.points, known.values, strict=True):
            self._costs.note(point, float(values[at]))
            if self._aims.figures:
                told = {name: float(values[index]) for index, name in self._aims.figures.items()}
                self._costs.observe(point, told)
        return known

    def _spread(self, known: Known, wanted: Mapping[str, Any]) -> Candidate:
        """The point of a random few that is farthest from all before it, in parameters and in latency."""
        while True:
            pool = self._fresh(self._random(_DESIGN_POOL, wanted, keep_believed=True), known.taken)
            buildable = self._costs.look_up(pool, self._lookups)
            if buildable:
                break
        before = [*known.points, *known.pending]
        if not before:
            return buildable[int(self._rng.integers(len(buildable)))]
        if self._costs.figure_limits:
            likely = self._costs.likely_within(buildable)
            buildable = [c for c, p in zip(buildable, likely, strict=True) if p >= min(0.5, likely.max())]
        self._costs.encode([*buildable, *before])
        own, theirs = self._costs.features(buildable), self._costs.features(before)
        distance = np.abs(own[:, None, :] - theirs[None, :, :])
        farness = distance.sum(axis=2).min(axis=1)
        return buildable[int(np.argmax(farness))]

    def _improve(self, known: Known, wanted: Mapping[str, Any]) -> Candidate:
        goal = Goal(known, self._costs, self._aims, self._score_models)
        pool = self._fresh(self._pool(goal, wanted), known.taken)
        gain = goal.of(pool)
        if self._every is None:
            for _ in range(_CLIMBS):
                best = np.argsort(-gain)[:_CLIMBERS]
                near = [self._neighbour(pool[i], wanted) for i in best for _ in range(_CLIMB_NEIGHBOURS)]
                known_keys = known.taken.union(candidate.key for candidate in pool)
                near = [c for c in unique(near) if c.key not in known_keys and self._is_possible(c)]
                if near:
                    pool, gain = [*pool, *near], np.concatenate([gain, goal.of(near)])
        while self._latency is not None:
            order = np.argsort(-gain, kind="stable")
            best_known = next((i for i in order if pool[i].key in self._costs.measured), None)
            shortlist = order[: self._lookups] if self._lookups is not None else order
            self._costs.look_up([pool[i] for i in shortlist], None)
            kept = [i for i in shortlist if math.isfinite(self._costs.measured[pool[i].key])]
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

    def _random(self, count: int, wanted: Mapping[str, Any], keep_believed: bool = False) -> list[Candidate]:
        """Points with the `wanted` values, and with all or some of those believed good where they are free to choose."""
        if self._every is not None:
            fitting = self._every
            if wanted:
                fitting = [c for c in fitting if all(c.point.get(name) == value for name, value in wanted.items())]
            return [fitting[i] for i in self._rng.permutation(len(fitting))]
        found = []
        for _ in range(count):
            believed = self._prior.believed if keep_believed else self._prior.some(self._rng)
            found.append(self._reader.candidate(self._tree.walk({**believed, **wanted}, self._rng)[0]))
        return found

    def _neighbour(self, candidate: Candidate, wanted: Mapping[str, Any]) -> Candidate:
        near = self._tree.neighbour(candidate.point, self._rng)
        return self._reader.candidate(self._tree.walk({**near, **wanted}, self._rng)[0] if wanted else near)

    def _pool(self, goal: Goal, wanted: Mapping[str, Any]) -> list[Candidate]:
        candidates = self._random(_POOL, wanted)
        if self._every is None:
            each = -(-_NEIGHBOURS // max(1, len(goal.members)))
            candidates += [self._neighbour(member, wanted) for member in goal.members for _ in range(each)]
        return candidates

    def _fresh(self, candidates: Sequence[Candidate], taken: set[Hashable]) -> list[Candidate]:
        """Those never proposed and not known to be impossible; SpaceExhaustedError when there are none anywhere."""

        def left(some: Sequence[Candidate]) -> list[Candidate]:
            new = [c for c in unique(some) if c.key not in taken and self._costs.measured.get(c.key) != math.inf]
            return [c for c in new if self._is_possible(c)]

        found = left(candidates)
        tries = 0
        while not found and tries < _EXHAUSTED:
            found, tries = left(self._random(_POOL, {})), tries + 1
        if not found:
            raise SpaceExhaustedError("every point of the search space has been tried or cannot be built")
        return found

    def _is_possible(self, candidate: Candidate) -> bool:
        return self.possible is None or self.possible(candidate.point)
