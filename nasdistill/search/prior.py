"""What is believed of good values before anything is measured, and how long that counts.

A handful of trials cannot tell which of a dozen parameters matter, and an acquisition that prizes uncertainty would spend
them on the ends of ranges that no person would try first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nasdistill.search.encoding import Array, Encoder

# Of a good value from the believed one, as a share of the range: both ends are two away from the middle
_DEVIATION = 0.25
_TRIALS = 10.0  # that the belief weighs as much as (beta of the paper)
_KEPT = 0.5  # the chance that a random point has the believed value


class Prior:
    """Values believed good, by name. Nothing is believed of the parameters left out.

    The acquisition is multiplied by the density around the believed values to the power beta / n after n trials, so that
    the belief fades (piBO: Hvarfner et al., ICLR 2022, equation 5).
    """

    def __init__(self, believed: Mapping[str, float]) -> None:
        self.believed = dict(believed)

    def some(self, rng: np.random.Generator) -> dict[str, Any]:
        """Each believed value with even chances: what a random point may start from."""
        return {name: value for name, value in self.believed.items() if rng.random() < _KEPT}

    def weights(self, rows: Array, encoder: Encoder, trials: int) -> Array:
        """What the gain of points (n, c or more columns) is multiplied by after so many `trials`: (n,), above 0 to 1."""
        columns = [column for name in self.believed if (column := encoder.column_of(name)) is not None]
        away = (rows[:, columns] - encoder.rows([self.believed])[:, columns]) / _DEVIATION
        weights: Array = np.exp(-0.5 * (away**2).sum(axis=1) * _TRIALS / max(1, trials))
        return weights
