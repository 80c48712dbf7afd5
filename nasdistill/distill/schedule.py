"""How much the teacher's losses weigh over a trial, against the labels' loss."""

import math
from collections.abc import Callable

LEAST_SHARE = 0.1  # where the cosine ends
OFF_FROM = 0.9  # progress from which `off_at_end` leaves the labels alone

WEIGHT_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: LEAST_SHARE + (1.0 - LEAST_SHARE) * (1.0 + math.cos(math.pi * progress)) / 2.0,
    "off_at_end": lambda progress: 1.0 if progress < OFF_FROM else 0.0,
}


def teacher_share_at(progress: float, schedule: str) -> float:
    """Share (0..1) of their weights that the distillation losses have at `progress` (0..1 of the whole trial).

    Raises:
        KeyError: unknown schedule (search spaces are checked before they get here).
    """
    return WEIGHT_SCHEDULES[schedule](min(max(progress, 0.0), 1.0))
