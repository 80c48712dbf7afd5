"""Exact Gaussian process regression for a few hundred points, in numpy and scipy.

A search of 200 trials fits a model some hundred times on points of ten to thirty dimensions. BoTorch's models take
longer to import (seconds) than this one takes for all of them; docs/decisions.md has the figures.

Legend: n training points, m points to predict, c columns, d dimensions. A dimension is one column of numbers, or all
columns of a one-hot name; it has one length scale (automatic relevance determination).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nasdistill.search.one_thread import one_threaded

Array = np.ndarray[Any, np.dtype[np.float64]]

_SQRT5 = 5.0**0.5
# Prior of a length scale: log-normal, growing with the square root of the number of dimensions (Hvarfner, Hellsten and
# Nardi, "Vanilla Bayesian optimization performs great in high dimensions", ICML 2024, eq. 4); inputs are within 0 and 1.
_LENGTH_LOG_MEAN = 2.0**0.5
_LENGTH_LOG_STD = 3.0**0.5
_NOISE_LOG_MEAN, _NOISE_LOG_STD = -5.0, 1.5
_SIGNAL_LOG_MEAN, _SIGNAL_LOG_STD = 0.0, 1.0
_BOUNDS_LENGTH = (np.log(0.02), np.log(100.0))
_BOUNDS_NOISE = (np.log(1e-6), np.log(1.0))
_BOUNDS_SIGNAL = (np.log(0.05), np.log(20.0))


@dataclass(frozen=True)
class Hyperparameters:
    """Natural logarithms: length scales (d,), signal variance and noise variance, for standardised targets."""

    length: Array
    signal: float
    noise: float

    def vector(self) -> Array:
        return np.concatenate([self.length, [self.signal, self.noise]])

    @classmethod
    def of(cls, vector: Array) -> Hyperparameters:
        return cls(vector[:-2].copy(), float(vector[-2]), float(vector[-1]))

    @classmethod
    def prior(cls, dimensions: int) -> Hyperparameters:
        """The middle of the priors, with the prior's mode for the length scales' direction."""
        return cls(np.full(dimensions, _length_log_mean(dimensions) - 1.0), _SIGNAL_LOG_MEAN, _NOISE_LOG_MEAN)


class GaussianProcess:
    """Matern-5/2 with a length scale a dimension, a constant mean and Gaussian noise, conditioned on n points.

    `x` (n, c) lies within 0 and 1; `dimension` (c,) tells which dimension a column belongs to. `y` (n,) is in its own
    units; it is standardised inside.
    """

    @one_threaded
    def __init__(self, x: Array, y: Array, dimension: np.ndarray[Any, Any], hyperparameters: Hyperparameters) -> None:
        from scipy.linalg import solve_triangular

        self._dimension = dimension
        self.hyperparameters = hyperparameters
        self._mean, self._std = _location(y)
        self._weights = np.exp(-hyperparameters.length)[dimension]
        self._signal = float(np.exp(hyperparameters.signal))
        self._x = x * self._weights
        kernel = self._signal * _matern52(_squared_distances(self._x, self._x))
        kernel[np.diag_indices_from(kernel)] += np.exp(hyperparameters.noise)
        self._lower = _cholesky(kernel)
        self._alpha = solve_triangular(self._lower, (y - self._mean) / self._std, lower=True, check_finite=False)

    @one_threaded
    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean (m,) and standard deviation (m,) of the noiseless function at `x` (m, c), in the units of y."""
        from scipy.linalg import solve_triangular

        cross = self._signal * _matern52(_squared_distances(self._x, x * self._weights))
        half = solve_triangular(self._lower, cross, lower=True, check_finite=False)
        mean = self._mean + self._std * (half.T @ self._alpha)
        variance = np.maximum(self._signal - np.einsum("nm,nm->m", half, half), 1e-12)
        return mean, self._std * np.sqrt(variance)


@one_threaded
def fit(
    x: Array, y: Array, dimension: np.ndarray[Any, Any], start: Hyperparameters | None = None, steps: int = 30
) -> Hyperparameters:
    """Hyperparameters of the largest posterior density (marginal likelihood times prior), by L-BFGS-B from `start`.

    Rasmussen and Williams, "Gaussian Processes for Machine Learning", eq. 5.8 and 5.9. `steps` limits the iterations.
    """
    from scipy.optimize import minimize

    count = int(dimension.max()) + 1
    mean, std = _location(y)
    targets = (y - mean) / std
    squared = np.stack(
        [_squared_distances(x[:, dimension == index], x[:, dimension == index]).ravel() for index in range(count)]
    )
    if start is None or len(start.length) != count:
        start = Hyperparameters.prior(count)
    bounds = [_BOUNDS_LENGTH] * count + [_BOUNDS_SIGNAL, _BOUNDS_NOISE]
    low, high = np.array(bounds).T
    found = minimize(
        negative_log_posterior,
        np.clip(start.vector(), low, high),
        args=(squared, targets),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": steps},
    )
    return Hyperparameters.of(found.x)


def negative_log_posterior(vector: Array, squared: Array, y: Array) -> tuple[float, Array]:
    """Of the hyperparameters `vector` (see `Hyperparameters.vector`), up to a constant, and its gradient.

    `squared` (d, n * n) are squared distances by dimension, `y` (n,) standardised targets.
    """
    from scipy.linalg import lapack

    count, n = len(vector) - 2, len(y)
    inverse_squares = np.exp(-2.0 * vector[:count])
    signal, noise = np.exp(vector[count]), np.exp(vector[count + 1])
    distance = _SQRT5 * np.sqrt(inverse_squares @ squared).reshape(n, n)
    decay = np.exp(-distance)
    correlation = (1.0 + distance + distance**2 / 3.0) * decay
    kernel = signal * correlation
    kernel[np.diag_indices(n)] += noise
    lower = _cholesky(kernel)
    inverse, _ = lapack.dpotri(lower, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    alpha = inverse @ y
    value = 0.5 * float(y @ alpha) + float(np.log(np.diag(lower)).sum())
    weight = inverse - np.outer(alpha, alpha)
    # d k / d log(length) = signal * 5/3 * (1 + sqrt(5) r) exp(-sqrt(5) r) * squared / length^2
    shared = (weight * (signal * 5.0 / 3.0) * (1.0 + distance) * decay).ravel()
    gradient = np.empty(count + 2)
    gradient[:count] = 0.5 * (squared @ shared) * inverse_squares
    gradient[count] = 0.5 * signal * float((weight * correlation).sum())
    gradient[count + 1] = 0.5 * noise * float(np.trace(weight))
    middle = np.array([*[_length_log_mean(count)] * count, _SIGNAL_LOG_MEAN, _NOISE_LOG_MEAN])
    width = np.array([*[_LENGTH_LOG_STD] * count, _SIGNAL_LOG_STD, _NOISE_LOG_STD])
    score = (vector - middle) / width
    # Densities of log-normals over the natural scale: the extra log(l) is their Jacobian.
    value += 0.5 * float(score @ score) + float(vector[:count].sum())
    gradient += score / width
    gradient[:count] += 1.0
    return value, gradient


def _length_log_mean(dimensions: int) -> float:
    return _LENGTH_LOG_MEAN + 0.5 * float(np.log(max(1, dimensions)))


def _location(y: Array) -> tuple[float, float]:
    std = float(y.std())
    return float(y.mean()), std if std > 1e-12 * max(1.0, abs(float(y.mean()))) else 1.0


def _matern52(squared: Array) -> Array:
    distance = _SQRT5 * np.sqrt(squared)
    return np.asarray((1.0 + distance + distance**2 / 3.0) * np.exp(-distance))


def _squared_distances(a: Array, b: Array) -> Array:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * (a @ b.T)
    return np.asarray(np.maximum(squared, 0.0))


def _cholesky(kernel: Array) -> Array:
    """Lower factor; where rounding made the matrix indefinite, with the least jitter that repairs it."""
    from scipy.linalg import LinAlgError, cholesky

    jitter = 1e-10
    while True:
        try:
            return np.asarray(cholesky(kernel, lower=True, check_finite=False))
        except LinAlgError:
            if jitter > 1.0:
                raise
            kernel = kernel + jitter * np.eye(len(kernel))
            jitter *= 100.0
