"""The replay of early stopping, on a table small enough to reckon by hand."""

import numpy as np
import pytest

from benchmarks.multi_fidelity import GRID, Candidate, Curve, Problem, branin_currin, on_grid, points, ratios, replay

# good, fast, middling and hopeless; the rungs rank them as the end does
GOOD, FAST, MIDDLING, HOPELESS = (
    Candidate(((-0.5, 4.0), (-0.6, 4.0)), (-0.8, 4.0)),
    Candidate(((-0.2, 1.0), (-0.3, 1.0)), (-0.4, 1.0)),
    Candidate(((-0.1, 4.5), (-0.2, 4.5)), (-0.3, 4.5)),
    Candidate(((-0.05, 5.0), (-0.1, 5.0)), (-0.1, 5.0)),
)
SHARES = (0.16, 0.36)


def problem(*candidates: Candidate) -> Problem:
    return Problem(candidates, SHARES, (0,), (0.0, 5.5))


def test_without_stopping_everything_costs_one() -> None:
    curve = replay(problem(FAST, HOPELESS, GOOD, MIDDLING), False)
    assert curve.cost == [1.0, 2.0, 3.0, 4.0] and curve.complete == 4
    assert curve.volume == sorted(curve.volume)
    assert curve.volume[-1] == pytest.approx(0.4 * 4.5 + 0.4 * 1.5)  # FAST's, and what GOOD adds


def test_the_hopeless_cost_a_rung_and_the_front_is_whole() -> None:
    whole = problem(GOOD, FAST, MIDDLING, HOPELESS)
    curve = replay(whole, True)
    assert curve.passed == whole.front() == {0, 1} and curve.complete == 2
    assert curve.volume[-1] == pytest.approx(replay(whole, False).volume[-1])
    assert curve.cost == pytest.approx([1.0, 2.0, 2.0 + SHARES[0], 2.0 + 2 * SHARES[0]])
    anew = replay(whole, True, retrained=True)
    assert anew.cost[0] == pytest.approx(1.0 + sum(SHARES))


def test_an_oracle_stops_all_but_the_front_at_once() -> None:
    whole = problem(HOPELESS, MIDDLING, GOOD, FAST)
    assert replay(whole, True).complete == 4  # too few came before to stop one
    oracle = replay(whole, True, known=whole.front())
    assert oracle.passed == whole.front() and oracle.cost[-1] == pytest.approx(2 + 2 * SHARES[0])
    assert oracle.volume[-1] == pytest.approx(replay(whole, False).volume[-1])


def test_a_curve_is_read_at_any_cost() -> None:
    found = on_grid(Curve([1.0, 2.0], [0.4, 0.9], set(), 2))
    assert [float(found[np.flatnonzero(at == GRID)[0]]) for at in (0.0, 0.75, 1.0, 1.75, 2.0, 100.0)] == [
        0,
        0,
        0.4,
        0.4,
        0.9,
        0.9,
    ]


def test_a_level_never_reached_is_said() -> None:
    found = ratios([Curve([5.0], [0.5], set(), 1)], np.full(80, 0.5))
    assert found["20"] == 0.25
    assert ratios([Curve([5.0], [0.5], set(), 1)], np.full(80, 0.6))["20"] is None


def test_the_function_is_branin_and_currin_at_the_last_fidelity() -> None:
    """Branin's minimum, 0.397887 at (-pi, 12.275), and Currin at (0.5, 0.5) are textbook values."""
    branin, _ = branin_currin((5 - np.pi) / 15, 12.275 / 15, 1.0)
    assert branin * 22 + 21 == pytest.approx(0.397887, abs=1e-5)
    assert branin_currin(0.5, 0.5, 1.0)[1] * 15 + 14 == pytest.approx(1868.5 / 159.5)  # without the factor of fidelity
    assert branin_currin(0.5, 0.5, 0.2) != branin_currin(0.5, 0.5, 1.0)
    assert points(0) == points(0) != points(1)
