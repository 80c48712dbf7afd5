"""Which costs a table of a front shows, and how: one place for console and HTML."""

from __future__ import annotations

from nasdistill.pareto.objectives import (
    GFLOPS,
    LATENCY_MS,
    LATENCY_P90_MS,
    PARAMS_M,
    SIZE_MB,
    Objective,
    Objectives,
    cost_objective,
)
from nasdistill.records import TrialResult
from nasdistill.report.format import MISSING, milliseconds, number

ALWAYS = (LATENCY_MS, LATENCY_P90_MS, PARAMS_M, GFLOPS, SIZE_MB)
_DIGITS = {"params_m": 2, "gflops": 2, "size_mb": 1}


def shown_costs(objectives: Objectives) -> list[Objective]:
    """Latency, parameters, GFLOPs and size, then the objectives that are none of these.

    Where only the latency of a further device counts, that device's is shown instead of the main one's.
    """
    speed = objectives.speed
    always = list(ALWAYS)
    if speed is not None and speed.device is not None and not any(cost in ALWAYS[:2] for cost in objectives.costs):
        always[:2] = [cost_objective(f"{cost.name}@{speed.device}") for cost in ALWAYS[:2]]
    return always + [cost for cost in objectives.costs if cost not in always]


def cost_text(cost: Objective, result: TrialResult) -> str:
    """The figure as people read it, without unit."""
    figure = cost.name.partition("@")[0]
    value = cost.of(result)
    return number(value, _DIGITS[figure]) if figure in _DIGITS else milliseconds(value)


def with_unit(cost: Objective, result: TrialResult) -> str:
    """The figure with its unit, and for what is no latency its name: `3.76 ms`, `parameters 1.24 M`."""
    text = cost_text(cost, result)
    if text != MISSING and cost.unit:
        text += f" {cost.unit}"
    if cost.name == LATENCY_MS.name:
        return text
    return f"{text} on {cost.device}" if cost.is_latency and cost.device else f"{cost.label} {text}"
