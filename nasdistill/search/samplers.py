"""The samplers a search can use: which parameters to try next."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from nasdistill.errors import InputError
from nasdistill.search.halton import HaltonSampler

# Optuna's own defaults (10 random trials, populations of 50) are made for hundreds of trials; here 40 is common.
_TPE_STARTUP_TRIALS = 8
_NSGA2_POPULATION = 16


def _tpe(seed: int | None) -> BaseSampler:
    # `group` splits the multivariate model by family, which is how conditional parameters become modelled at all;
    # `constant_liar` keeps parallel workers from being sent to the same place.
    return TPESampler(
        seed=seed, n_startup_trials=_TPE_STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True
    )


def _nsga2(seed: int | None) -> BaseSampler:
    return NSGAIISampler(seed=seed, population_size=_NSGA2_POPULATION)


SAMPLERS: dict[str, Callable[[int | None], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": _tpe,
    "nsga2": _nsga2,
    "qmc": lambda seed: HaltonSampler(seed=seed),
}
DEFAULT_SAMPLER = "tpe"


def make_sampler(name: str, seed: int | None, already_drawn: int = 0) -> BaseSampler:
    """The sampler called `name`. The same seed gives the same proposals as long as results arrive in the same order.

    With `already_drawn` trials behind it, a resumed run gets other random numbers than its first part had; a
    quasi-random sequence keeps its seed, since it goes on by the trial's number. Raises InputError for an unknown name.
    """
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler '{name}'; allowed: {', '.join(SAMPLERS)}")
    if seed is not None and already_drawn and name != "qmc":
        seed = random.Random(f"{seed}/{already_drawn}").randrange(2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](seed)
