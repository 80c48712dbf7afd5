"""The two kinds of parameter a search space is made of: a choice of values and a range of numbers."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass

from nasdistill.records import Scalar

# A value on a grid may come back from a sampler as 0.15000000000000002; this share of a step is noise.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Choice:
    """One of `values`, in the order of the file. A fixed setting is a choice of one."""

    values: tuple[Scalar, ...]

    def contains(self, value: Scalar) -> bool:
        return any(_same(value, allowed) for allowed in self.values)

    def nearest(self, value: Scalar) -> Scalar:
        """The allowed value equal to `value`, with the type the file gave it. Raises ValueError when there is none."""
        for allowed in self.values:
            if _same(value, allowed):
                return allowed
        raise ValueError(f"{value} is none of {self}")

    def midpoint(self) -> Scalar:
        """The middle number (the lower of two); of names, the first."""
        numbers = [value for value in self.values if isinstance(value, int | float)]
        return statistics.median_low(numbers) if len(numbers) == len(self.values) else self.values[0]

    def sample(self, rng: random.Random) -> Scalar:
        return rng.choice(self.values)

    def grid(self) -> tuple[Scalar, ...]:
        """All values; the same call answers None for a continuous range."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(str(value) for value in self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; on a grid of `step` from `low` when there is one.

    With whole `low`, `high` and `step` (type int) the values are whole numbers. `log` spreads samples evenly over
    orders of magnitude; it needs `low` > 0 and excludes `step`.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.step, int)

    def contains(self, value: Scalar) -> bool:
        if isinstance(value, bool | str) or not math.isfinite(value):
            return False
        slack = _TOLERANCE * (self.step if self.step is not None else 0.0)
        if not self.low - slack <= value <= self.high + slack:
            return False
        if self.step is None:
            return True
        steps = (value - self.low) / self.step
        return abs(steps - round(steps)) <= _TOLERANCE

    def nearest(self, value: Scalar) -> float:
        """`value` without the rounding noise of its grid. Raises ValueError when it is outside the range."""
        if isinstance(value, str) or not self.contains(value):
            raise ValueError(f"{value} is outside {self}")
        if self.step is None:
            return float(value)
        return self._on_grid(round((value - self.low) / self.step))

    def values(self) -> tuple[float, ...] | None:
        """The grid from low to high, or None for a continuous range."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        return tuple(self._on_grid(index) for index in range(count))

    def grid(self) -> tuple[Scalar, ...] | None:
        return self.values()

    def midpoint(self) -> float:
        """The middle: geometric for a log range, on the grid (rounded down) for a stepped one."""
        if self.log:
            return min(max(math.sqrt(self.low * self.high), self.low), self.high)
        if self.step is None:
            return self.low + (self.high - self.low) / 2
        return self._on_grid(round((self.high - self.low) / self.step) // 2)

    def sample(self, rng: random.Random) -> float:
        grid = self.values()
        if grid is not None:
            return rng.choice(grid)
        if self.log:
            return min(max(math.exp(rng.uniform(math.log(self.low), math.log(self.high))), self.low), self.high)
        return rng.uniform(self.low, self.high)

    def _on_grid(self, index: int) -> float:
        assert self.step is not None
        value = self.low + index * self.step
        # 12 digits drop the noise of index * 0.05 and keep every step a person would write.
        return value if self.is_whole else min(float(f"{value:.12g}"), self.high)

    def __str__(self) -> str:
        extra = f" in steps of {self.step}" if self.step is not None else " (log)" if self.log else ""
        return f"{self.low} to {self.high}{extra}"


Parameter = Choice | Range


def _same(a: Scalar, b: Scalar) -> bool:
    """Equal, where 256 equals 256.0 but True does not equal 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b
