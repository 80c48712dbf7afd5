"""What a search has learnt so far, as its sampler sees it: a study in memory. Optuna without Ray.

Only a complete trial with finite objectives is ever told as complete; all else is a failure to Optuna, so that a
partial score can neither steer the sampler nor join a front.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from nasdistill.pareto.limits import Limit
from nasdistill.pareto.objectives import Objective
from nasdistill.records import Scalar, TrialResult
from nasdistill.search.distributions import Params, Space, point_of
from nasdistill.search.known import ELSEWHERE, FIDELITY, PARTIAL_VALUES
from nasdistill.search.latency_first import LatencyFirstSampler
from nasdistill.search.reconcile import directions_of, ended, partial_of, values_of
from nasdistill.search.samplers import SECONDS

# They compare infeasible trials by how much they violate, never by their values.
_CONSTRAINED = (TPESampler, NSGAIISampler, NSGAIIISampler)


@dataclass(frozen=True)
class Warmth:
    """A result of an earlier run on the same space, and what multiple of this run's trial length it had, above 0.

    None: it was trained otherwise, and only its student's costs say something.
    """

    result: TrialResult
    fidelity: float | None = 1.0


Possible = Callable[[Mapping[str, Any]], bool]
"""Whether a point may be tried at present."""


class Memory:
    """A sampler and the study that it reads: points are asked for here, and outcomes told."""

    def __init__(
        self, space: Space, sampler: BaseSampler, objectives: Sequence[Objective], constraints: Sequence[Limit] = ()
    ) -> None:
        self._space = space
        self._sampler = sampler
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.study = optuna.create_study(directions=directions_of(self._objectives), sampler=sampler)

    def ask(self, params: Params | None = None, possible: Possible | None = None) -> optuna.Trial:
        """A trial of the study: one that has `params`, or the sampler's next, `possible` as far as it heeds that.

        Raises:
            SpaceExhaustedError: the sampler has no other point.
        """
        if isinstance(self._sampler, LatencyFirstSampler):
            self._sampler.possible = possible
        if params is not None:
            self.study.enqueue_trial(params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return self.study.ask()

    def expecting_seconds(self) -> Callable[[Params], float] | None:
        """What trials are expected to take, of a sampler that models that and has been told enough."""
        return self._sampler.expecting_effort() if isinstance(self._sampler, LatencyFirstSampler) else None

    def forget(self, asked: optuna.Trial) -> None:
        """End a trial that says nothing."""
        self.study.tell(asked, state=TrialState.FAIL)

    def tell(self, asked: optuna.Trial, result: TrialResult) -> list[float] | None:
        """Tell how a trial ended; returns its objectives' values, None unless it is complete and they are finite."""
        self.learn_costs(result)
        for name, missed in self._missed(result).items():
            asked.set_constraint(name, missed)
        values = values_of(result, self._objectives)
        if values is not None:
            self.study.tell(asked, values)
            return values
        for name, value in partial_of(result, self._objectives).items():
            asked.set_user_attr(name, value)
        infeasible = self._as_infeasible(result)
        if infeasible is None:
            self.forget(asked)
        else:
            self.study.tell(asked, infeasible)
        return None

    def observe(self, params: Params, figures: Mapping[str, float]) -> None:
        """Let a sampler that models costs know those of a student, trained or not."""
        found = point_of(self._space, params)
        if isinstance(self._sampler, LatencyFirstSampler) and found is not None:
            self._sampler.observe(found[0], **figures)

    def warm_up(self, warmth: Warmth) -> Params | None:
        """Tell a result of an earlier run; one of shorter or longer training only as what it was.

        The answer is its point, where trying that again would say nothing new.
        """
        result = warmth.result
        self.observe(result.params, result.costs())
        found, values = point_of(self._space, result.params), values_of(result, self._objectives)
        if found is None or values is None or warmth.fidelity is None:
            return None
        missed = self._missed(result)
        # Whether it keeps a limit on what nobody measured is not known: then it teaches the models, and is on no front.
        full = warmth.fidelity == 1.0 and len(missed) == len({limit.objective.name for limit in self._constraints})
        partial: dict[str, Any] = {} if full else {FIDELITY: warmth.fidelity, PARTIAL_VALUES: values, ELSEWHERE: True}
        self.study.add_trial(ended(*found, values if full else None, partial, constraints=missed))
        return found[0] if full else None

    def remember(self, result: TrialResult, journalled: FrozenTrial | None = None) -> None:
        """Take over a result of an earlier part of this run, with what the journal says of it where that can be read."""
        # Parameters of an older version of the space would be incompatible with those to come.
        found = point_of(self._space, result.params if journalled is None else journalled.params)
        if found is None:
            return
        values, noted = values_of(result, self._objectives), dict[str, Scalar]()
        if journalled is not None:
            values, noted = journalled.values, journalled.system_attrs
        partial = partial_of(result, self._objectives)
        values = values or self._as_infeasible(result)
        self.study.add_trial(ended(*found, values, partial, noted, self._missed(result)))

    def learn_costs(self, result: TrialResult) -> None:
        """What a trial of this run says of its student's costs, whatever became of it; its seconds if it went all the way."""
        seconds = {SECONDS: result.seconds} if result.state == "complete" else {}
        self.observe(result.params, result.costs() | seconds)

    def _missed(self, result: TrialResult) -> dict[str, float]:
        """By how much, relative to the limit, a measured student misses each constraint; at most 0 where it keeps it."""
        measured = [(limit, limit.objective.of(result)) for limit in self._constraints]
        return {
            limit.objective.name: (value - limit.value) / limit.value for limit, value in measured if value is not None
        }

    def _as_infeasible(self, result: TrialResult) -> list[float] | None:
        """What a sampler that ranks by violated constraints is told of a rejected trial: None for all others.

        Those samplers never look at the objectives of an infeasible trial, so the accuracy nobody knows may be 0. The
        journal has it as failed.
        """
        if result.state != "rejected" or not isinstance(self._sampler, _CONSTRAINED):
            return None
        if any(limit.objective.of(result) is None for limit in self._constraints) or not self._constraints:
            return None
        values = [objective.of(result) for objective in self._objectives]
        return [0.0 if value is None else float(value) for value in values]
