"""What changes over a trial: how soft the teacher's answers are made, and how much they weigh against the labels."""

import math
from collections.abc import Callable

from nasdistill.records import TrialConfig

LEAST_SHARE = 0.1  # where the cosine ends
OFF_FROM = 0.9  # progress from which `off_at_end` leaves the labels alone

TEMPERATURE_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1.0 - math.cos(math.pi * progress)) / 2.0,
}
WEIGHT_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: LEAST_SHARE + (1.0 - LEAST_SHARE) * (1.0 + math.cos(math.pi * progress)) / 2.0,
    "off_at_end": lambda progress: 1.0 if progress < OFF_FROM else 0.0,
}


def temperature_at(progress: float, config: TrialConfig) -> float:
    """Temperature of class probabilities and bins at `progress` (0..1 of the whole trial, both stages)."""
    start, end = config.temperature_start, config.temperature_end
    return start + (end - start) * TEMPERATURE_SCHEDULES[config.temperature_schedule](_within(progress))


def teacher_share_at(progress: float, config: TrialConfig) -> float:
    """Share (0..1) of their weights that the distillation losses have at `progress` (0..1 of the whole trial)."""
    return WEIGHT_SCHEDULES[config.weight_schedule](_within(progress))


def _within(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)
