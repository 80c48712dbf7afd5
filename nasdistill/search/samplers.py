"""The samplers a search can use: which parameters to try next."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler

from nasdistill.errors import InputError
from nasdistill.pareto.hypervolume import Reference
from nasdistill.pareto.limits import Limit
from nasdistill.pareto.objectives import DEFAULT, Objectives
from nasdistill.search.distributions import Space, distribution_of, identity
from nasdistill.search.halton import HaltonSampler
from nasdistill.search.latency_first import LatencyFirstSampler

# Optuna's own defaults (10 random trials, populations of 50) are made for hundreds of trials; here 40 is common.
_STARTUP_TRIALS = 8
_POPULATION = 16


SECONDS = "seconds"
"""The figure under which a sampler that models costs is told how long a trial took."""


@dataclass(frozen=True)
class SamplerTask:
    """What a sampler is made for. `reference` is the accuracy and the costs beyond which a student is worth nothing.

    `timed` says that the budget is one of time, so that a trial's seconds count.
    """

    space: Space
    objectives: Objectives = DEFAULT
    constraints: Sequence[Limit] = ()
    reference: Reference | None = None
    timed: bool = False
    seed: int | None = None


def _tpe(task: SamplerTask) -> BaseSampler:
    # `group` splits the multivariate model by family, which is how conditional parameters become modelled at all;
    # `constant_liar` keeps parallel workers from being sent to the same place.
    return TPESampler(
        seed=task.seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True
    )


def _latency_first(task: SamplerTask) -> BaseSampler:
    """No latency function: a student is measured by the worker that gets it, and predicted until then.

    The first cost takes the latency's place, whichever it is; a second one is a figure that workers measure as well.
    """
    first, *others = task.objectives.costs

    def following(chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {name: distribution_of(parameter) for name, parameter in task.space.parameters(chosen).items()}

    corner = None
    if task.reference is not None:
        corner = [task.reference.accuracy, *(task.reference.costs[cost.name] for cost in task.objectives.costs)]
    return LatencyFirstSampler(
        following,
        None,
        1,
        task.seed,
        canonical=lambda point: identity(task.space, point),
        figures={index: cost.name for index, cost in enumerate(others, 2)},
        reference=corner,
        figure_limits={limit.objective.name: limit.value for limit in task.constraints},
        latency_name=first.name,
        believed=task.space.believed(),
        effort=SECONDS if task.timed else None,
    )


SAMPLERS: dict[str, Callable[[SamplerTask], BaseSampler]] = {
    "latency-first": _latency_first,
    "random": lambda task: RandomSampler(seed=task.seed),
    "tpe": _tpe,
    "nsga2": lambda task: NSGAIISampler(seed=task.seed, population_size=_POPULATION),
    "nsga3": lambda task: NSGAIIISampler(seed=task.seed, population_size=_POPULATION),
    "gp": lambda task: GPSampler(seed=task.seed, n_startup_trials=_STARTUP_TRIALS, deterministic_objective=False),
    "qmc": lambda task: HaltonSampler(seed=task.seed),
}
DEFAULT_SAMPLER = "latency-first"


def learns_costs(name: str) -> bool:
    """Whether a sampler learns from costs of students that were never trained (`LatencyFirstSampler.observe`)."""
    return SAMPLERS[name] is _latency_first


def check_sampler(name: str) -> None:
    """Raises InputError for an unknown name."""
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler '{name}'; allowed: {', '.join(SAMPLERS)}")


def make_sampler(name: str, task: SamplerTask, already_drawn: int = 0) -> BaseSampler:
    """The sampler called `name`. The same seed gives the same proposals as long as results arrive in the same order.

    With `already_drawn` trials behind it, a resumed run gets other random numbers than its first part had; a
    quasi-random sequence keeps its seed, since it goes on by the trial's number. Raises InputError for an unknown name.
    """
    check_sampler(name)
    if task.seed is not None and already_drawn and name != "qmc":
        task = replace(task, seed=random.Random(f"{task.seed}/{already_drawn}").randrange(2**32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](task)
