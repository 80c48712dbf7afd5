"""What a parameter may be at all, whatever a search-space file asks for; and how its values order by size."""

from __future__ import annotations

from dataclasses import dataclass

from nasdistill.records import Scalar
from nasdistill.strict_yaml import nearest_hint


@dataclass(frozen=True)
class Real:
    """A number in [low, high]."""

    low: float
    high: float

    def convert(self, value: Scalar) -> float:
        """`value` as this rule's type. Raises ValueError with what is allowed."""
        if isinstance(value, bool | str):
            raise ValueError(f"expected {self}, got {value!r}")
        if not self.low <= value <= self.high:
            raise ValueError(f"{value} is outside [{self.low}, {self.high}]")
        return float(value)

    def rank(self, value: Scalar) -> float:
        """Sorts values from the smallest student to the largest."""
        return float(value)

    def __str__(self) -> str:
        return f"a number in [{self.low}, {self.high}]"


@dataclass(frozen=True)
class Whole:
    """A whole number in [low, high] that is a multiple of `multiple`."""

    low: int
    high: int
    multiple: int = 1

    def convert(self, value: Scalar) -> int:
        """`value` as a whole number. Raises ValueError with what is allowed."""
        if isinstance(value, bool | str) or value != int(value):
            raise ValueError(f"expected {self}, got {value!r}")
        if not self.low <= value <= self.high:
            raise ValueError(f"{value} is outside [{self.low}, {self.high}]")
        if int(value) % self.multiple:
            raise ValueError(f"{value} is not a multiple of {self.multiple}")
        return int(value)

    def rank(self, value: Scalar) -> float:
        return float(value)

    def __str__(self) -> str:
        multiple = f", a multiple of {self.multiple}," if self.multiple > 1 else ""
        return f"a whole number{multiple} in [{self.low}, {self.high}]"


@dataclass(frozen=True)
class OneOf:
    """One of `names`, listed from the smallest student to the largest where that means anything."""

    names: tuple[str, ...]

    def convert(self, value: Scalar) -> str:
        """`value` when it is one of the names. Raises ValueError with what is allowed."""
        if value not in self.names:
            hint = nearest_hint(value, self.names) if isinstance(value, str) else ""
            raise ValueError(f"unknown value {value!r}; allowed: {', '.join(self.names)}{hint}")
        return str(value)

    def rank(self, value: Scalar) -> float:
        return float(self.names.index(str(value)))

    def __str__(self) -> str:
        return ", ".join(self.names)


Rule = Real | Whole | OneOf
