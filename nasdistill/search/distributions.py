"""Between the parameters of a search space and Optuna's distributions, and walks through the tree they form.

A space is define-by-run: it is asked for the next parameters given those chosen so far, until there are none.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nasdistill.errors import InputError
from nasdistill.records import Scalar
from nasdistill.search.grid import Distribution
from nasdistill.space.parameters import Choice, Parameter

Params = dict[str, Scalar]
Distributions = dict[str, Distribution]


class Space(Protocol):
    """What the search needs of a search space; `nasdistill.space.SearchSpace` is one."""

    def parameters(self, chosen: Mapping[str, Scalar]) -> Mapping[str, Parameter]: ...

    def anchors(self) -> Sequence[Mapping[str, Scalar]]: ...

    def believed(self) -> Mapping[str, float]: ...

    def canonical(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]: ...


def distribution_of(parameter: Parameter) -> Distribution:
    """The Optuna distribution with exactly the values of `parameter`; the same object for the same parameter."""
    if isinstance(parameter, Choice):
        return _distribution(parameter, tuple(map(type, parameter.values)))
    return _distribution(parameter, (type(parameter.low), type(parameter.step)))


@functools.lru_cache(maxsize=1024)
def _distribution(parameter: Parameter, types: tuple[type, ...]) -> Distribution:
    """`types` tells 1 from 1.0 and True, which are equal to the cache."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.values)
    if parameter.is_whole:
        assert parameter.step is not None
        return IntDistribution(int(parameter.low), int(parameter.high), step=int(parameter.step))
    return FloatDistribution(float(parameter.low), float(parameter.high), step=parameter.step, log=parameter.log)


def suggest_params(trial: optuna.Trial, space: Space) -> Params:
    """Let `trial` choose every parameter of one point of `space`."""
    chosen: Params = {}
    while following := space.parameters(chosen):
        for name, parameter in following.items():
            chosen[name] = parameter.nearest(_suggest(trial, name, distribution_of(parameter)))
    return chosen


def point_of(space: Space, values: Mapping[str, Scalar]) -> tuple[Params, Distributions] | None:
    """The point of `space` that `values` describe, with its distributions; names the space doesn't know are left out.

    None when a parameter is missing or outside the space (because the space has changed since, say).
    """
    params: Params = {}
    distributions: Distributions = {}
    try:
        while following := space.parameters(params):
            for name, parameter in following.items():
                if name not in values:
                    return None
                params[name] = parameter.nearest(values[name])
                distributions[name] = distribution_of(parameter)
    except (InputError, ValueError):
        return None
    return params, distributions


def key_of(params: Mapping[str, Scalar]) -> str:
    """Equal for equal points: independent of order, of 256 against 256.0 and of noise in the 12th digit."""
    return json.dumps({name: _plain(value) for name, value in sorted(params.items())})


def identity(space: Space, params: Mapping[str, Scalar]) -> str:
    """Equal for points of `space` that are the same trial, though their parameters may differ."""
    return key_of(space.canonical(params))


def unseen_point(space: Space, seen: set[str], rng: random.Random) -> Params | None:
    """A random point whose identity is not in `seen`, or None when all points of a space without ranges have been seen.

    The walk takes branches in random order and leaves one only when all its points are seen, so it visits no more leaves
    than there are points that are the same as a seen one, and one. A continuous range counts as a few random values.
    """
    return next((point for point in _points(space, {}, rng) if identity(space, point) not in seen), None)


_DRAWS_OF_A_RANGE = 3


def _points(space: Space, chosen: Params, rng: random.Random) -> Iterator[Params]:
    following = space.parameters(chosen)
    if not following:
        yield dict(chosen)
        return
    yield from _extended(space, chosen, list(following.items()), rng)


def _extended(space: Space, chosen: Params, rest: list[tuple[str, Parameter]], rng: random.Random) -> Iterator[Params]:
    if not rest:
        yield from _points(space, chosen, rng)
        return
    name, parameter = rest[0]
    grid = parameter.grid()
    options = [parameter.sample(rng) for _ in range(_DRAWS_OF_A_RANGE)] if grid is None else list(grid)
    rng.shuffle(options)
    for option in options:
        yield from _extended(space, {**chosen, name: option}, rest[1:], rng)


def _suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Scalar:
    if isinstance(distribution, CategoricalDistribution):
        chosen = trial.suggest_categorical(name, distribution.choices)
        assert chosen is not None
        return chosen
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _plain(value: Scalar | None) -> Scalar | None:
    if value is None or isinstance(value, bool | str):  # None is a choice in studies outside nasdistill
        return value
    rounded = float(f"{float(value):.12g}")
    return int(rounded) if rounded.is_integer() else rounded
