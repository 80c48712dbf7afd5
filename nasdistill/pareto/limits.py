"""Limits on the figures of a trial, as a person types them: `latency_ms<=20`, `map50>=0.6`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import COST, Objective, allowed_names, named_objective
from nasdistill.records import DEVICE_NAME, TrialResult

LIMIT = re.compile(rf"([A-Za-z][\w-]*?(?:@{DEVICE_NAME})?)\s*(<=|>=|<|>)\s*([-+.\w]+)")

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Limit:
    """A demand on one figure, such as `latency_ms<=5`: costs have an upper limit, accuracies a lower one."""

    objective: Objective
    comparison: str
    value: float

    def __str__(self) -> str:
        return f"{self.objective.name}{self.comparison}{self.value:g}"

    def keeps(self, value: float) -> bool:
        """Whether a figure of that value keeps the limit."""
        return _COMPARISONS[self.comparison](value, self.value)

    def allows(self, result: TrialResult) -> bool:
        value = self.objective.of(result)
        return value is not None and self.keeps(value)

    def miss(self, result: TrialResult) -> float:
        """How far `result` is from the limit, relative to it (0 when it is within; infinite when unknown)."""
        value = self.objective.of(result)
        if value is None:
            return float("inf")
        return 0.0 if self.allows(result) else abs(value - self.value) / max(abs(self.value), 1e-9)


def limit_of(name: str, comparison: str, number: str, where: str, devices: Sequence[str] | None = None) -> Limit:
    """The limit that a match of `LIMIT` describes; `where` begins its errors. Raises InputError.

    `devices` are the run's, the main one first; None takes the name of any.
    """
    objective = named_objective(name, devices, where)
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(f"{where}: {number!r} after {name}{comparison} is no finite number")
    if objective.minimise != comparison.startswith("<"):
        wanted = "<=" if objective.minimise else ">="
        raise InputError(f"{where}: {name} takes {wanted}, got {comparison}")
    if not objective.minimise and not 0.0 <= value <= 1.0:
        raise InputError(f"{where}: {name}{comparison}{number}, expected a mAP from 0 to 1")
    return Limit(objective, comparison, value)


def parse_constraints(texts: Sequence[str], devices: Sequence[str] | None = None) -> tuple[Limit, ...]:
    """What `--constraint` means: limits on figures that are known before training, one or several a text.

    `devices` are the run's, the main one first; None takes the name of any.

    Raises InputError for anything else, for a limit that nothing can keep, and for two limits on one figure.
    """
    limits: list[Limit] = []
    allowed = f"expected limits such as latency_ms<=20 on {allowed_names(COST, devices)}"
    for text in texts:
        where = f"--constraint {text!r}"
        matches = list(LIMIT.finditer(text))
        if not matches or LIMIT.sub(" ", text).replace(",", " ").strip():
            raise InputError(f"{where} is not understood, {allowed}")
        for match in matches:
            name, comparison, number = match.groups()
            limit = limit_of(name, comparison, number, where, devices)
            if not limit.objective.minimise:
                raise InputError(f"{where}: {limit.objective.name} is known only after training, {allowed}")
            if limit.value <= 0:
                raise InputError(f"{where}: no student keeps it, expected a number above 0")
            if any(limit.objective == other.objective for other in limits):
                raise InputError(f"{where}: {limit.objective.name} has a limit already, expected one each")
            limits.append(limit)
    return tuple(limits)
