"""Quasi-random sampling that also covers names and conditional parameters.

Optuna's QMCSampler needs scipy, fixes its dimensions with the first trial and leaves categorical parameters to chance;
a search space whose first choice is the family has nearly nothing left for it.
"""

from __future__ import annotations

import random
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nasdistill.search.grid import value_at


class HaltonSampler(BaseSampler):
    """A randomly shifted Halton sequence, one prime base per parameter name, the trial's number as the index.

    Source: Halton, "On the efficiency of certain quasi-random sequences of points", Numerische Mathematik 2 (1960);
    digit permutations against the correlation of large bases as in Kocis and Whiten, ACM TOMS 23 (1997).
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed if seed is not None else random.SystemRandom().randrange(2**32)
        self._dimensions: dict[str, _Dimension] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if not isinstance(param_distribution, CategoricalDistribution | FloatDistribution | IntDistribution):
            raise TypeError(f"{param_name}: no way to sample {param_distribution}")
        if param_name not in self._dimensions:
            # in the order of the study, so that a resumed one goes on with the same bases
            for before in study.get_trials(deepcopy=False):
                for name in before.params:
                    self._meet(name)
            self._meet(param_name)
        return value_at(param_distribution, self._dimensions[param_name].point(trial.number))

    def _meet(self, name: str) -> None:
        if name not in self._dimensions:
            base = _prime(len(self._dimensions))
            self._dimensions[name] = _Dimension(base, random.Random(f"{self._seed}/{name}"))


class _Dimension:
    """One coordinate of the sequence: digits of the index in `base`, permuted, mirrored at the point, then shifted."""

    def __init__(self, base: int, rng: random.Random) -> None:
        self._base = base
        # Zero stays zero, so that the endless leading zeros of every index stay the same digit.
        self._digits = [0, *rng.sample(range(1, base), base - 1)]
        self._shift = rng.random()

    def point(self, index: int) -> float:
        """In [0, 1)."""
        value, weight = 0.0, 1.0 / self._base
        while index:
            index, digit = divmod(index, self._base)
            value += self._digits[digit] * weight
            weight /= self._base
        return (value + self._shift) % 1.0


def _prime(index: int) -> int:
    """The prime number at `index`: 2, 3, 5, …"""
    found: list[int] = []
    candidate = 2
    while len(found) <= index:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found[-1]
