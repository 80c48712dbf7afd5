"""Expected hypervolume improvement against its definition: drawn outcomes, and the hypervolume with and without them."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdistill.search.ehvi import boxes, expected_improvement


def volume(points: np.ndarray, reference: np.ndarray) -> float:
    inside = points[(points < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


@given(st.data(), st.integers(2, 3))
@settings(max_examples=60, deadline=None)
def test_a_known_point_improves_by_exactly_its_hypervolume(data: st.DataObject, objectives: int) -> None:
    """Small whole numbers: ties, duplicates, dominated front points and points beyond the reference all come up."""
    value = st.lists(st.integers(-3, 4), min_size=objectives, max_size=objectives)
    front = np.array(data.draw(st.lists(value, max_size=7)), dtype=float).reshape(-1, objectives)
    point = np.array([data.draw(value)], dtype=float)
    reference = np.full(objectives, 3.0)
    gain = expected_improvement(point, np.zeros_like(point), boxes(front, reference))[0]
    assert gain == pytest.approx(volume(np.vstack([front, point]), reference) - volume(front, reference), abs=1e-9)


@pytest.mark.parametrize(
    "deviation", [[0.4, 0.0], [0.4, 0.3], [0.4, 0.3, 0.0], [0.5, 0.0, 0.0]], ids=lambda d: "-".join(map(str, d))
)
def test_the_expectation_is_the_mean_over_drawn_outcomes(deviation: list[float]) -> None:
    rng = np.random.default_rng(3)
    k = len(deviation)
    front, reference = rng.random((5, k)), np.full(k, 1.1)
    mean = rng.random((3, k)) * 0.8
    spread = np.tile(deviation, (3, 1))
    exact = expected_improvement(mean, spread, boxes(front, reference))
    before = volume(front, reference)
    for row in range(3):
        draws = mean[row] + rng.standard_normal((3000, k)) * spread[row]
        gains = [volume(np.vstack([front, draw]), reference) - before for draw in draws]
        assert exact[row] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / len(gains) ** 0.5 + 1e-9)


def test_nothing_is_won_beyond_the_reference() -> None:
    cells = boxes(np.zeros((0, 2)), np.array([0.0, 1.0]))
    assert expected_improvement(np.array([[-1.0, 1.5]]), np.zeros((1, 2)), cells)[0] == 0.0
    assert expected_improvement(np.array([[-1.0, 0.5]]), np.zeros((1, 2)), cells)[0] == pytest.approx(0.5)
