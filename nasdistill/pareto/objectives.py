"""The objectives of a search. Everything below `losses` is minimised: this is the only place where a sign flips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasdistill.errors import InputError
from nasdistill.records import RungScore, TrialResult


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One figure of a trial that counts: `name` is the field of `TrialResult`, `label` and `unit` are for people."""

    name: str
    minimise: bool
    label: str
    unit: str = ""


MAP50_95 = Objective(name="map50_95", minimise=False, label="mAP50-95")
MAP50 = Objective(name="map50", minimise=False, label="mAP50")
LATENCY_MS = Objective(name="latency_ms", minimise=True, label="latency", unit="ms")
LATENCY_P90_MS = Objective(name="latency_p90_ms", minimise=True, label="latency p90", unit="ms")
PARAMS_M = Objective(name="params_m", minimise=True, label="parameters", unit="M")
GFLOPS = Objective(name="gflops", minimise=True, label="GFLOPs")
SIZE_MB = Objective(name="size_mb", minimise=True, label="size", unit="MB")

OBJECTIVES = {o.name: o for o in (MAP50_95, MAP50, LATENCY_MS, LATENCY_P90_MS, PARAMS_M, GFLOPS, SIZE_MB)}
ACCURACY = {name: o for name, o in OBJECTIVES.items() if not o.minimise}
COST = {name: o for name, o in OBJECTIVES.items() if o.minimise}


def accuracy_objective(name: str) -> Objective:
    """The accuracy objective called `name`; InputError names the allowed ones."""
    return _known(name, ACCURACY, "accuracy")


def cost_objective(name: str) -> Objective:
    """The cost objective called `name`; InputError names the allowed ones."""
    return _known(name, COST, "cost")


def losses(results: Sequence[TrialResult | RungScore], objectives: Sequence[Objective]) -> np.ndarray:
    """The results as points to minimise: float64 of shape (n, k), row i for `results[i]`, column j for `objectives[j]`.

    Raises ValueError, naming trial and objective, where a figure is missing, NaN or infinite: such a trial has no place
    among points, and a made-up value (mAP 0, say) would be a lie.
    """
    points = np.empty((len(results), len(objectives)), dtype=np.float64)
    for row, result in enumerate(results):
        for column, objective in enumerate(objectives):
            value = getattr(result, objective.name)
            if value is None or not math.isfinite(value):
                raise ValueError(f"trial {result.trial} needs a finite {objective.name}, got {value}")
            points[row, column] = value if objective.minimise else -value
    return points


def _known(name: str, objectives: dict[str, Objective], kind: str) -> Objective:
    if name not in objectives:
        raise InputError(f"unknown {kind} objective {name!r}, expected one of: {', '.join(objectives)}")
    return objectives[name]
