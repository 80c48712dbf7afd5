"""From parameters to rows of numbers between 0 and 1, for a Gaussian process.

A number is one column: its position between the ends of its range, on a log scale where all values are positive (twice
the width or twice the pixels are one step each). A name is one-hot with one length scale, so that two different names
are equally far apart. Numbers given as a list of choices, and short whole ranges, may mean an order or may be codes:
they get both, and the model's length scales tell which it was. A parameter that a point does not have stands in the
middle, where it makes no difference among points that lack it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from nasdistill.search.candidates import values_of
from nasdistill.search.grid import Distribution

Array = np.ndarray[Any, np.dtype[np.float64]]

_HALF = 0.5**0.5  # two one-hot columns differ by this each, so that two names are 1 apart
_MOST_CODES = 6  # values of a whole range that may be codes


class Encoder:
    """Columns for the parameters seen so far. `add` may widen it; rows made before are then of no use."""

    def __init__(self) -> None:
        self._parameters: dict[str, _Parameter] = {}
        self._fixed: dict[str, list[Distribution]] = {}
        # By identity, which is quick; kept here, so that no other object can get the same.
        self._taken_in: dict[tuple[str, int], Distribution] = {}
        self.dimension = np.zeros(0, dtype=np.int64)
        """(c,): the dimension (length scale) that each column belongs to."""
        self.version = 0
        self._columns: dict[str, int] = {}

    def add(self, distributions: Mapping[str, Distribution]) -> None:
        """Make room for these parameters. The same name may come with several ranges or choices: their union counts."""
        changed = False
        for name, distribution in distributions.items():
            if (name, id(distribution)) in self._taken_in:
                continue
            self._taken_in[name, id(distribution)] = distribution
            if name not in self._parameters:
                if distribution.single():
                    self._fixed.setdefault(name, []).append(distribution)
                    continue
                self._parameters[name] = _Parameter()
                for earlier in self._fixed.pop(name, ()):
                    self._parameters[name].widen(earlier)
            changed |= self._parameters[name].widen(distribution)
        if changed:
            self.version += 1
            dimension: list[int] = []
            self._columns = {}
            for name, parameter in sorted(self._parameters.items()):
                parameter.lay_out()
                if parameter.has_number:
                    self._columns[name] = len(dimension)
                base = 1 + max(dimension, default=-1)
                dimension.extend(base + index for index in parameter.dimension)
            self.dimension = np.array(dimension, dtype=np.int64)

    def column_of(self, name: str) -> int | None:
        """The column of a parameter's position in its range; None for one that is no number, or leaves no choice."""
        return self._columns.get(name)

    def rows(self, points: Sequence[Mapping[str, Any]]) -> Array:
        """(n, c), between 0 and 1."""
        blocks = [
            np.array([parameter.cells(point.get(name, _ABSENT)) for point in points])
            for name, parameter in sorted(self._parameters.items())
        ]
        return np.hstack(blocks) if blocks and points else np.zeros((len(points), len(self.dimension)))


_ABSENT = object()


class _Parameter:
    """The columns of one parameter."""

    def __init__(self) -> None:
        self._names: list[Any] = []
        self._numbers: tuple[float, float] | None = None
        self._codes = False
        self.has_number = False
        """Whether the first column is the position in a range."""
        self._cells: dict[Any, list[float]] = {}
        self.dimension: list[int] = []

    def widen(self, distribution: Distribution) -> bool:
        """Take in a distribution; whether that changed anything."""
        before = (list(self._names), self._numbers, self._codes)
        values = _listed(distribution)
        for value in values or []:
            if not any(value is known or value == known for known in self._names):
                self._names.append(value)
        numeric = not isinstance(distribution, CategoricalDistribution) or all(map(_is_number, distribution.choices))
        if numeric:
            low, high = _ends(distribution)
            if self._numbers is not None:
                low, high = min(low, self._numbers[0]), max(high, self._numbers[1])
            self._numbers = low, high
        self._codes = self._codes or values is not None
        return before != (self._names, self._numbers, self._codes)

    def lay_out(self) -> None:
        self._cells = {}
        has_number = self._numbers is not None and self._numbers[1] > self._numbers[0]
        one_hot = len(self._names) if self._codes and (len(self._names) > 2 or not has_number) else 0
        self._one_hot, self.has_number = one_hot, has_number
        self.dimension = [0] * has_number + [int(has_number)] * one_hot

    def cells(self, value: Any) -> list[float]:
        if value is _ABSENT:
            return [0.5] * self.has_number + [0.0] * self._one_hot
        key = (type(value), value)
        if key not in self._cells:
            number = [self._position(value)] if self.has_number else []
            self._cells[key] = number + [_HALF * (value == self._names[index]) for index in range(self._one_hot)]
        return self._cells[key]

    def _position(self, value: Any) -> float:
        assert self._numbers is not None
        low, high = self._numbers
        if not _is_number(value):
            return 0.5
        if low > 0:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return float((value - low) / (high - low))


def _listed(distribution: Distribution) -> list[Any] | None:
    """The values of a distribution whose numbers may be codes."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        values = values_of(distribution)
        return values if values is not None and 2 < len(values) <= _MOST_CODES else None
    return None


def _ends(distribution: Distribution) -> tuple[float, float]:
    if isinstance(distribution, CategoricalDistribution):
        numbers = [float(choice) for choice in distribution.choices if _is_number(choice)]
        return min(numbers), max(numbers)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return float(distribution.low), float(distribution.high)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
