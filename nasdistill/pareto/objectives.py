"""The objectives of a search. Everything below `losses` is minimised: this is the only place where a sign flips."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nasdistill.errors import InputError
from nasdistill.records import DEVICE_FIGURES, DEVICE_NAME, RungScore, TrialResult


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One figure of a trial that counts: `name` is that of `TrialResult.figure`, `label` and `unit` are for people."""

    name: str
    minimise: bool
    label: str
    unit: str = ""

    @property
    def device(self) -> str | None:
        """The further device that this is a figure of; None for the run's main device, and for none at all."""
        return self.name.partition("@")[2] or None

    @property
    def is_measured(self) -> bool:
        """Whether it depends on the device."""
        return self.name.partition("@")[0] in DEVICE_FIGURES

    @property
    def is_latency(self) -> bool:
        """Whether it is a latency, on whichever device."""
        return self.name.startswith("latency_")

    @property
    def title(self) -> str:
        """Label and unit: `latency on phone, ms`."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def of(self, result: TrialResult | RungScore) -> float | None:
        """The figure in `result`; None where it is not known."""
        return result.figure(self.name)


MAP50_95 = Objective(name="map50_95", minimise=False, label="mAP50-95")
MAP50 = Objective(name="map50", minimise=False, label="mAP50")
LATENCY_MS = Objective(name="latency_ms", minimise=True, label="latency", unit="ms")
LATENCY_P90_MS = Objective(name="latency_p90_ms", minimise=True, label="latency p90", unit="ms")
PARAMS_M = Objective(name="params_m", minimise=True, label="parameters", unit="M")
GFLOPS = Objective(name="gflops", minimise=True, label="GFLOPs")
SIZE_MB = Objective(name="size_mb", minimise=True, label="size", unit="MB")
ENERGY_MJ = Objective(name="energy_mj", minimise=True, label="energy", unit="mJ")

OBJECTIVES = {o.name: o for o in (MAP50_95, MAP50, LATENCY_MS, LATENCY_P90_MS, PARAMS_M, GFLOPS, SIZE_MB, ENERGY_MJ)}
ACCURACY = {name: o for name, o in OBJECTIVES.items() if not o.minimise}
COST = {name: o for name, o in OBJECTIVES.items() if o.minimise}
MOST_COSTS = 2


@dataclass(frozen=True)
class Objectives:
    """What a search is for: one accuracy against one or two costs. Iterating gives the accuracy, then the costs.

    The first cost orders a front: its cheapest member comes first.
    """

    accuracy: Objective = MAP50_95
    costs: tuple[Objective, ...] = (LATENCY_MS,)

    def __iter__(self) -> Iterator[Objective]:
        return iter((self.accuracy, *self.costs))

    def __len__(self) -> int:
        return 1 + len(self.costs)

    @property
    def names(self) -> list[str]:
        """The names of all, the accuracy's first."""
        return [objective.name for objective in self]

    @property
    def speed(self) -> Objective | None:
        """The latency among the costs (the first of two), None where there is none."""
        return next((cost for cost in self.costs if cost.is_latency), None)

    def with_accuracy(self, name: str) -> Objectives:
        """The same costs against another accuracy. Raises InputError for an unknown one."""
        return replace(self, accuracy=accuracy_objective(name))

    def against(self, *costs: str) -> Objectives:
        """The same accuracy against other costs. Raises InputError for an unknown one."""
        return replace(self, costs=tuple(cost_objective(name) for name in costs))


DEFAULT = Objectives()


def accuracy_objective(name: str) -> Objective:
    """The accuracy objective called `name`; InputError names the allowed ones."""
    if name not in ACCURACY:
        raise InputError(f"unknown accuracy objective {name!r}, expected one of: {', '.join(ACCURACY)}")
    return ACCURACY[name]


def cost_objective(name: str) -> Objective:
    """The cost objective called `name`, `latency_ms@phone` included; InputError names the allowed ones."""
    figure, at, device = name.partition("@")
    if not at and figure in COST:
        return COST[figure]
    if not at or figure not in DEVICE_FIGURES or not re.fullmatch(DEVICE_NAME, device):
        raise InputError(f"unknown cost objective {name!r}, expected one of: {allowed_names(COST)}")
    return replace(COST[figure], name=name, label=f"{COST[figure].label} on {device}")


def named_objective(name: str, devices: Sequence[str] | None, where: str) -> Objective:
    """The objective of that name, on one of the run's `devices`, the main one first; None takes any device's.

    A figure named after the main device is the plain one. `where` begins the InputError for anything else.
    """
    figure, at, device = name.partition("@")
    figure = figure.lower().replace("-", "_")
    if figure not in OBJECTIVES:
        raise InputError(f"{where}: unknown figure {name!r}, expected one of: {allowed_names(OBJECTIVES, devices)}")
    if not at:
        return OBJECTIVES[figure]
    if figure not in DEVICE_FIGURES:
        raise InputError(f"{where}: {figure} is the same on every device, expected {figure} without @{device}")
    if devices is not None and device not in devices:
        raise InputError(f"{where}: no device {device!r} in this run, expected one of: {', '.join(devices)}")
    if devices is not None and device == devices[0]:
        return OBJECTIVES[figure]
    return cost_objective(f"{figure}@{device}")


def allowed_names(objectives: Mapping[str, Objective], devices: Sequence[str] | None = None) -> str:
    """The names that may be given, for messages."""
    further = [f"latency_ms@{device}" for device in (devices or ())[1:]]
    return ", ".join([*objectives, *further])


def parse_objectives(names: Sequence[str], devices: Sequence[str]) -> Objectives:
    """What `--objectives` means on these devices, the main one first; without any names the default.

    The default is mAP50-95 against the latency on the first device, and on the second where there is one. Raises
    InputError unless it is one accuracy and one or two costs, each once.
    """
    if not names:
        second = [cost_objective(f"latency_ms@{device}") for device in devices[1:MOST_COSTS]]
        return Objectives(MAP50_95, (LATENCY_MS, *second))
    where = f"--objectives {','.join(names)}"
    found = [named_objective(name, devices, where) for name in names]
    expected = "expected one of map50_95 and map50, and one or two costs, each once"
    if len(set(found)) < len(found):
        raise InputError(f"{where}: a figure is named twice, {expected}")
    accuracies = [objective for objective in found if not objective.minimise]
    costs = [objective for objective in found if objective.minimise]
    if len(accuracies) != 1 or not 1 <= len(costs) <= MOST_COSTS:
        counts = f"accuracies: {len(accuracies)}, costs: {len(costs)}"
        raise InputError(f"{where}: {counts}, {expected}; costs are {allowed_names(COST, devices)}")
    return Objectives(accuracies[0], tuple(costs))


def losses(results: Sequence[TrialResult | RungScore], objectives: Sequence[Objective] | Objectives) -> np.ndarray:
    """The results as points to minimise: float64 of shape (n, k), row i for `results[i]`, column j for `objectives[j]`.

    Raises ValueError, naming trial and objective, where a figure is missing, NaN or infinite: such a trial has no place
    among points, and a made-up value (mAP 0, say) would be a lie.
    """
    points = np.empty((len(results), len(objectives)), dtype=np.float64)
    for row, result in enumerate(results):
        for column, objective in enumerate(objectives):
            value = objective.of(result)
            if value is None or not math.isfinite(value):
                raise ValueError(f"trial {result.trial} needs a finite {objective.name}, got {value}")
            points[row, column] = value if objective.minimise else -value
    return points
