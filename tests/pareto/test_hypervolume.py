import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdistill.errors import InputError
from nasdistill.pareto.hypervolume import (
    Reference,
    default_reference,
    hypervolume,
    hypervolume_history,
    teacher_reference,
)
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import TrialResult


def trial(number: int, accuracy: float, latency_ms: float, **more: object) -> TrialResult:
    figures = {"state": "complete", "fidelity": 1.0, "map50": accuracy, "map50_95": accuracy, "latency_ms": latency_ms}
    return TrialResult(trial=number, family="f", **(figures | more))


def brute_force(points: list[tuple[int, int]], accuracy_cells: int, latency_cells: int) -> float:
    """Counts the unit cells of the box that some point dominates. Points are (accuracy in cells, latency in cells)."""
    covered = sum(
        any(accuracy >= row + 1 and latency <= column for accuracy, latency in points)
        for row in range(accuracy_cells)
        for column in range(latency_cells)
    )
    return covered / (accuracy_cells * latency_cells)


points = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 10)), max_size=12)


@given(points)
def test_hypervolume_equals_counted_cells(grid):
    results = [trial(n, accuracy / 8, latency) for n, (accuracy, latency) in enumerate(grid)]
    share = hypervolume(results, Reference(latency_ms=8))
    assert math.isclose(share, brute_force(grid, 8, 8), abs_tol=1e-12)
    assert 0.0 <= share <= 1.0


@given(points)
def test_history_is_the_hypervolume_of_every_prefix(grid):
    results = [
        trial(n, accuracy / 8, latency, **({"state": "failed", "reason": "r"} if n % 5 == 4 else {}))
        for n, (accuracy, latency) in enumerate(grid)
    ]
    reference = Reference(latency_ms=8)
    history = hypervolume_history(results, reference)
    expected = [hypervolume(results[: n + 1], reference) for n in range(len(results))]
    assert history == pytest.approx(expected, abs=1e-12)
    assert history == sorted(history)


def test_brute_force_can_fail():
    assert brute_force([(4, 4)], 8, 8) == 0.25 != hypervolume([trial(0, 0.5, 4)], Reference(latency_ms=16))


def test_reading_of_the_number():
    # From 2 of 10 ms on accuracy 0.5, from 6 ms on 0.8: 0.8 * 0.5 + 0.4 * 0.3
    results = [trial(0, 0.5, 2.0), trial(1, 0.8, 6.0), trial(2, 0.1, 9.0)]
    assert hypervolume(results, Reference(latency_ms=10.0)) == pytest.approx(0.52)
    # Above mAP 0.5 only the second counts: 0.4 of the latencies x 0.3 of the remaining 0.5
    assert hypervolume(results, Reference(latency_ms=10.0, accuracy=0.5)) == pytest.approx(0.4 * 0.6)
    assert hypervolume(results, Reference(latency_ms=1.0)) == 0.0


def test_default_reference():
    results = [trial(0, 0.5, 2.0), trial(1, 0.9, 40.0, state="failed", reason="r")]
    assert default_reference(results) == Reference(latency_ms=1.1 * 2.0)
    assert default_reference(results, {"latency_ms": 10.0}) == Reference(latency_ms=11.0)
    assert default_reference(results, {"latency_ms": float("nan")}) == Reference(latency_ms=1.1 * 2.0)
    assert default_reference([]) is None


def test_without_eligible_trials_it_is_zero():
    assert hypervolume([]) == 0.0
    assert hypervolume_history([trial(0, 0.9, 1.0, fidelity=0.2)]) == [0.0]
    assert hypervolume([trial(0, 0.9, 1.0, fidelity=0.2)], Reference(latency_ms=2.0)) == 0.0


@pytest.mark.parametrize("wrong", [{"latency_ms": 0.0}, {"latency_ms": math.inf}, {"latency_ms": 1.0, "accuracy": 1.0}])
def test_a_reference_without_a_box_is_refused(wrong):
    with pytest.raises(ValueError, match="reference"):
        Reference(**wrong)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 5)), max_size=8))
def test_three_objectives_equal_counted_cells(grid):
    results = [trial(n, a / 4, latency, params_m=params) for n, (a, latency, params) in enumerate(grid)]
    three = DEFAULT.against("latency_ms", "params_m")
    covered = sum(
        any(a >= row + 1 and latency <= x and params <= y for a, latency, params in grid)
        for row in range(4)
        for x in range(4)
        for y in range(4)
    )
    share = hypervolume(results, Reference(latency_ms=4, params_m=4), three)
    assert share == pytest.approx(covered / 64, abs=1e-12)
    with pytest.raises(ValueError, match="no params_m"):
        hypervolume([trial(0, 0.5, 1.0, params_m=1.0)], Reference(latency_ms=4), three)


def test_the_teachers_costs_are_the_box():
    three = DEFAULT.against("latency_ms@phone", "params_m")
    teacher = {"latency_ms@phone": 20.0, "params_m": 10.0, "latency_ms": 3.0}
    assert teacher_reference(teacher, three) == Reference(**{"latency_ms@phone": 22.0, "params_m": 11.0})
    with pytest.raises(InputError, match="no params_m of the teacher"):
        teacher_reference({"latency_ms@phone": 20.0}, three)
    seen = [trial(0, 0.5, 2.0, params_m=5.0)]
    both = default_reference(seen, {"latency_ms": 10.0}, DEFAULT.against("latency_ms", "params_m"))
    assert both == Reference(latency_ms=11.0, params_m=5.5)
