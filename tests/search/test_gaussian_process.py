"""The Gaussian process against the textbook's formulas, written out slowly."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scipy.optimize import check_grad
from threadpoolctl import threadpool_info, threadpool_limits

from nasdistill.search import gaussian_process
from nasdistill.search.gaussian_process import GaussianProcess, Hyperparameters, fit, negative_log_posterior
from nasdistill.search.one_thread import one_threaded

DIMENSION = np.array([0, 1, 2, 2, 2])  # two numbers and a name of three
COLUMNS = ([0], [1], [2, 3, 4])  # of each dimension


def data(n: int = 25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    numbers, names = rng.random((n, 2)), rng.integers(3, size=n)
    x = np.hstack([numbers, np.eye(3)[names] * 0.5**0.5])
    return x, 40.0 + 5.0 * np.sin(4.0 * numbers[:, 0]) + 3.0 * (names == 1)


def test_the_prediction_is_that_of_the_textbook() -> None:
    x, y = data()
    at = data(40)[0][25:]
    hyper = Hyperparameters(np.log([0.5, 2.0, 0.8]), np.log(1.7), np.log(0.01))

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        r = sum(((a[c] - b[c]) ** 2).sum() / np.exp(2 * hyper.length[d]) for d, c in enumerate(COLUMNS))
        s = np.sqrt(5.0 * r)
        return 1.7 * (1 + s + s**2 / 3) * np.exp(-s)

    covariance = np.array([[kernel(a, b) for b in x] for a in x]) + 0.01 * np.eye(len(x))
    cross = np.array([[kernel(a, b) for b in x] for a in at])
    scaled = (y - y.mean()) / y.std()
    mean = y.mean() + y.std() * cross @ np.linalg.solve(covariance, scaled)
    variance = 1.7 - np.einsum("mn,nm->m", cross, np.linalg.solve(covariance, cross.T))
    found, deviation = GaussianProcess(x, y, DIMENSION, hyper).predict(at)
    np.testing.assert_allclose(found, mean, rtol=1e-9)
    np.testing.assert_allclose(deviation, y.std() * np.sqrt(variance), rtol=1e-6)


def test_the_gradient_is_that_of_the_value() -> None:
    x, y = data()
    y = (y - y.mean()) / y.std()
    squared = np.stack([((x[:, None, columns] - x[None, :, columns]) ** 2).sum(2).ravel() for columns in COLUMNS])
    rng = np.random.default_rng(1)
    for _ in range(5):
        at = rng.normal(size=5) * 0.5 - 1.0
        size = np.abs(negative_log_posterior(at, squared, y)[1]).max()
        error = check_grad(
            lambda v: negative_log_posterior(v, squared, y)[0], lambda v: negative_log_posterior(v, squared, y)[1], at
        )
        assert error < 1e-4 * max(1.0, size)


def test_fitting_finds_which_dimensions_matter() -> None:
    x, y = data(60)
    hyper = fit(x, y, DIMENSION)
    assert hyper.length[1] > hyper.length[0] + 1.0  # the second number does nothing
    mean, deviation = GaussianProcess(x, y, DIMENSION, hyper).predict(data(90)[0][60:])
    truth = data(90)[1][60:]
    assert np.abs(mean - truth).max() < 1.0
    assert (np.abs(mean - truth) < 4 * deviation + 0.1).all()


@pytest.mark.parametrize("values", [np.full(4, 0.5), np.array([1e-9, 1e-9, 1e-9, 2e-9])])
def test_equal_points_and_equal_values_break_nothing(values: np.ndarray) -> None:
    x = np.full((4, 5), 0.5)
    mean, deviation = GaussianProcess(x, values, DIMENSION, fit(x, values, DIMENSION)).predict(x)
    assert np.isfinite(mean).all() and np.isfinite(deviation).all()


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.skipif(not threads(), reason="no library here whose threads can be told")
def test_models_take_one_thread_and_give_back_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    cholesky = gaussian_process._cholesky
    monkeypatch.setattr(gaussian_process, "_cholesky", lambda kernel: (seen.append(threads()), cholesky(kernel))[1])
    x, y = data()
    with threadpool_limits(3, user_api="blas"):
        before = threads()
        model = GaussianProcess(x, y, DIMENSION, fit(x, y, DIMENSION))
        model.predict(x)
        assert threads() == before != {1}
    assert seen
    assert all(found == {1} for found in seen)


@pytest.mark.skipif(not threads(), reason="no library here whose threads can be told")
def test_two_threads_of_a_study_give_back_what_there_was() -> None:
    inside, may_end = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]
    seen: list[set[int]] = []

    @one_threaded
    def model(number: int) -> None:
        seen.append(threads())
        inside[number].set()
        may_end[number].wait(10)

    before = threads()
    both = [threading.Thread(target=model, args=(number,)) for number in range(2)]
    both[0].start()
    inside[0].wait(10)
    both[1].start()
    assert not inside[1].wait(0.2), "one at a time"
    for number in range(2):
        may_end[number].set()
        both[number].join(10)
    assert seen == [{1}, {1}] and threads() == before
