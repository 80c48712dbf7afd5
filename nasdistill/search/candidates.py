"""Points of a define-by-run space of Optuna distributions: random ones, neighbours of good ones, or all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nasdistill.search.grid import Distribution, value_at

Point = dict[str, Any]
Following = Callable[[Mapping[str, Any]], Mapping[str, BaseDistribution]]
"""Takes the parameters chosen so far and returns the next ones by name; none, when the point is complete."""

_STEP = 0.15  # standard deviation of a neighbour's move along a range, as a share of it
_MOST_CHOICES = 64  # of a grid whose every value counts as one neighbour


class Tree:
    """A search space as the tree of choices that it is. A dict of distributions has no branches.

    Raises TypeError for a space that is neither, or that holds something else than Optuna's three distributions.
    """

    def __init__(self, search_space: Mapping[str, BaseDistribution] | Following) -> None:
        if isinstance(search_space, Mapping):
            every = dict(search_space)
            if not every:
                raise ValueError("search_space is empty, expected at least one distribution")
            self._following: Following = lambda chosen: {} if chosen else every
        elif callable(search_space):
            self._following = search_space
        else:
            raise TypeError(f"search_space: expected a dict or a callable, got {type(search_space).__name__}")
        self.following({})

    def following(self, chosen: Mapping[str, Any]) -> dict[str, Distribution]:
        """The distributions to choose from next."""
        found: dict[str, Distribution] = {}
        for name, distribution in self._following(dict(chosen)).items():
            if not isinstance(distribution, CategoricalDistribution | FloatDistribution | IntDistribution):
                raise TypeError(f"search_space: {name} is {distribution!r}, expected an Optuna distribution")
            if name not in chosen:
                found[name] = distribution
        return found

    def walk(self, wanted: Mapping[str, Any], rng: np.random.Generator) -> tuple[Point, dict[str, Distribution]]:
        """A complete point with the `wanted` values wherever they are allowed, random ones elsewhere."""
        point: Point = {}
        distributions: dict[str, Distribution] = {}
        while following := self.following(point):
            for name, distribution in following.items():
                keep = name in wanted and allows(distribution, wanted[name])
                point[name] = wanted[name] if keep else value_at(distribution, rng.random())
                distributions[name] = distribution
        return point, distributions

    def branches(self, walks: int, rng: np.random.Generator) -> Iterator[dict[str, Distribution]]:
        """The distributions of so many random points, and of points with the choices that none of them made.

        A branch that opens only at a few values of a range may be missed, but none that a choice opens.
        """
        walked = [self.walk({}, rng) for _ in range(walks)]
        chosen = {_choice(*item) for point, _ in walked for item in point.items()}
        others = np.random.default_rng(0)  # of its own: what comes after does not depend on how many were missed
        for point, distributions in walked:  # which grows
            yield distributions
            for name, distribution in distributions.items():
                for value in distribution.choices if isinstance(distribution, CategoricalDistribution) else ():
                    if _choice(name, value) not in chosen:
                        walked.append(self.walk({**point, name: value}, others))
                        chosen.update(_choice(*item) for item in walked[-1][0].items())

    def distributions(self, point: Mapping[str, Any]) -> dict[str, Distribution] | None:
        """The distributions of a point's parameters; None when it is not one complete point of the space."""
        chosen: Point = {}
        found: dict[str, Distribution] = {}
        while following := self.following(chosen):
            for name, distribution in following.items():
                if name not in point or not allows(distribution, point[name]):
                    return None
                chosen[name] = point[name]
                found[name] = distribution
        return found

    def neighbour(self, point: Mapping[str, Any], rng: np.random.Generator) -> Point:
        """The point with one or two of its parameters changed; those that follow from a changed one are kept or drawn."""
        wanted = dict(point)
        changeable = [(n, d) for n, d in (self.distributions(point) or {}).items() if not d.single()]
        if not changeable:
            return wanted
        for _ in range(1 + int(rng.random() < 0.3)):
            name, distribution = changeable[int(rng.integers(len(changeable)))]
            wanted[name] = _moved(distribution, wanted[name], rng)
        return self.walk(wanted, rng)[0]

    def every(self, most: int) -> list[Point] | None:
        """All points when there are at most `most`; None when there are more, or a range is continuous."""
        found: list[Point] = []
        for point in self._leaves({}):
            if point is None or len(found) == most:
                return None
            found.append(point)
        return found

    def _leaves(self, chosen: Point) -> Iterator[Point | None]:
        following = self.following(chosen)
        if not following:
            yield chosen
            return
        grids = {name: values_of(distribution) for name, distribution in following.items()}
        if any(grid is None for grid in grids.values()):
            yield None
            return
        yield from self._product(chosen, [(name, grid) for name, grid in grids.items() if grid is not None])

    def _product(self, chosen: Point, rest: Sequence[tuple[str, list[Any]]]) -> Iterator[Point | None]:
        if not rest:
            yield from self._leaves(chosen)
            return
        name, grid = rest[0]
        for value in grid:
            yield from self._product({**chosen, name: value}, rest[1:])


def _choice(name: str, value: Any) -> tuple[str, type, Any]:
    return name, type(value), value  # 1, 1.0 and True are three


def allows(distribution: Distribution, value: Any) -> bool:
    """Whether `value` is one of the distribution's."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def values_of(distribution: Distribution) -> list[Any] | None:
    """All values in order, or None for a continuous range or a very long grid."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    step = distribution.step
    if step is None:
        return [distribution.low] if distribution.single() else None
    count = round((distribution.high - distribution.low) / step) + 1
    if count > 4096:
        return None
    values = [min(distribution.low + index * step, distribution.high) for index in range(count)]
    # 12 digits drop the noise of index * 0.05
    return values if isinstance(distribution, IntDistribution) else [float(f"{value:.12g}") for value in values]


def _moved(distribution: Distribution, value: Any, rng: np.random.Generator) -> Any:
    """Another value: any other choice of a categorical, one nearby of a range."""
    values = values_of(distribution)
    if isinstance(distribution, CategoricalDistribution) or (values is not None and len(values) <= 3):
        others = [other for other in values or [] if other != value]
        return others[int(rng.integers(len(others)))] if others else value
    if values is not None and len(values) <= _MOST_CHOICES:
        here = min(range(len(values)), key=lambda index: abs(values[index] - value))
        away = round(float(rng.normal(0.0, max(1.0, _STEP * len(values))))) or (1 if rng.random() < 0.5 else -1)
        if not 0 <= here + away < len(values):
            away = int(rng.integers(1, len(values)))  # to any other, counted on from the last to the first
        return values[(here + away) % len(values)]
    here_at = position_of(distribution, value)
    return value_at(distribution, min(max(here_at + float(rng.normal(0.0, _STEP)), 0.0), 1.0 - 1e-9))


def position_of(distribution: FloatDistribution | IntDistribution, value: Any) -> float:
    """Where between low (0) and high (1) a number lies; on a log scale where all numbers are above 0."""
    low, high = float(distribution.low), float(distribution.high)
    if high <= low:
        return 0.5
    if distribution.log:
        return float((np.log(value) - np.log(low)) / (np.log(high) - np.log(low)))
    return (float(value) - low) / (high - low)
