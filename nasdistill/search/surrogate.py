"""The models of a latency-first search: a figure known by measuring it, and a score that only training tells."""

from __future__ import annotations

from typing import Any

import numpy as np

from nasdistill.search.gaussian_process import GaussianProcess, Hyperparameters, fit

Array = np.ndarray[Any, np.dtype[np.float64]]
Dimensions = np.ndarray[Any, np.dtype[np.int64]]

_MOST_FITTED = 160  # points on which hyperparameters are fitted; all of them are conditioned on
_REFIT_GROWTH = 1.1
_OUTLIER = 3.0  # interquartile ranges below the lower quartile that a bad score counts as, at most


class Regression:
    """A Gaussian process whose hyperparameters are fitted anew whenever the data have grown by a tenth."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._hyperparameters: Hyperparameters | None = None
        self._fitted_on = 0

    def on(self, x: Array, y: Array, dimension: Dimensions) -> GaussianProcess:
        """The model conditioned on points (n, c) and their values (n,)."""
        count = int(dimension.max()) + 1
        known = self._hyperparameters
        if known is None or len(known.length) != count or len(y) >= _REFIT_GROWTH * self._fitted_on + 0.5:
            rows = np.arange(len(y))
            if len(y) > _MOST_FITTED:
                rows = np.sort(self._rng.choice(len(y), _MOST_FITTED, replace=False))
            self._hyperparameters = known = fit(x[rows], y[rows], dimension, known)
            self._fitted_on = len(y)
        return GaussianProcess(x, y, dimension, known)


def without_outliers(y: Array) -> Array:
    """Scores with the hopeless ones pulled up: how bad a bad student is must not set the scale of the good ones."""
    low, high = np.quantile(y, [0.25, 0.75])
    return np.maximum(y, low - _OUTLIER * max(high - low, 1e-12)) if high > low else y
