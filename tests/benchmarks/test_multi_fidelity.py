"""The replay of early stopping, on a table small enough to reckon by hand."""

import numpy as np
import pytest

from benchmarks.multi_fidelity import GRID, Architecture, Curve, on_grid, replay

# good, fast, middling and hopeless; small inputs rank them as the target does
TABLE = [
    Architecture((0.5, 0.6), 0.8, 4.0),
    Architecture((0.2, 0.3), 0.4, 1.0),
    Architecture((0.1, 0.2), 0.3, 4.5),
    Architecture((0.05, 0.1), 0.1, 5.0),
]
RUNGS = ((192 / 480) ** 2, (288 / 480) ** 2)


def test_without_stopping_everything_costs_one() -> None:
    curve = replay(TABLE, [3, 1, 0, 2], False)
    assert curve.cost == [1.0, 2.0, 3.0, 4.0] and curve.complete == 4
    assert curve.share == sorted(curve.share) and curve.share[-1] == pytest.approx(1.0)


def test_the_hopeless_cost_a_rung_and_the_front_is_whole() -> None:
    curve = replay(TABLE, [0, 1, 2, 3], True)
    assert curve.passed == {0, 1} and curve.complete == 2
    assert curve.share[-1] == pytest.approx(1.0)
    assert curve.cost == pytest.approx([1.0, 2.0, 2.0 + RUNGS[0], 2.0 + 2 * RUNGS[0]])
    anew = replay(TABLE, [0, 1, 2, 3], True, retrained=True)
    assert anew.cost[0] == pytest.approx(1.0 + sum(RUNGS))


def test_a_curve_is_read_at_any_cost() -> None:
    shares = on_grid(Curve([1.0, 2.0], [0.4, 0.9], set(), 2))
    assert [float(shares[np.flatnonzero(at == GRID)[0]]) for at in (0.0, 0.75, 1.0, 1.75, 2.0, 100.0)] == [
        0,
        0,
        0.4,
        0.4,
        0.9,
        0.9,
    ]
