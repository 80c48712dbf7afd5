"""From a position between 0 and 1 to a value of an Optuna distribution."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


def value_at(distribution: Distribution, position: float) -> Any:
    """The value at `position` (0 <= position < 1): every choice or step has an equal share, log ranges are log-even."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(position * len(distribution.choices))]
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        value = math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
        value = min(max(value, low), high)
        return round(value) if isinstance(distribution, IntDistribution) else value
    if step is None:
        return min(low + position * (high - low), high)
    count = round((high - low) / step) + 1
    value = low + int(position * count) * step
    return int(value) if isinstance(distribution, IntDistribution) else min(value, high)
