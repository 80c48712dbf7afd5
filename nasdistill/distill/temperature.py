"""Temperature over a trial: how soft the teacher's class probabilities are made, from start to end."""

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 0.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1.0 - math.cos(math.pi * progress)) / 2.0,
}


def temperature_at(progress: float, start: float, end: float, schedule: str) -> float:
    """Temperature at `progress` (0..1 of the whole trial, both stages); `constant` stays at `start`.

    Raises:
        KeyError: unknown schedule (search spaces are checked before they get here).
    """
    return start + (end - start) * SCHEDULES[schedule](min(max(progress, 0.0), 1.0))
