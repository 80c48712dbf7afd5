import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import sample_results

from nasdistill.pareto.front import front
from nasdistill.pareto.hypervolume import Reference, hypervolume
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import TrialResult
from nasdistill.report.series import (
    accuracy_span,
    fixed_parameters,
    front_series,
    hypervolume_series,
    parameter_series,
    thinned,
)
from nasdistill.report.teacher import Teacher

RESULTS = sample_results(120)
TEACHER = Teacher(name="t", map50=0.871, map50_95=0.472, latency_ms=38.9)


def trial(number: int, accuracy: float, latency_ms: float, **more: object) -> TrialResult:
    figures = {"state": "complete", "fidelity": 1.0, "map50": accuracy, "map50_95": accuracy, "latency_ms": latency_ms}
    return TrialResult(trial=number, family="f", **(figures | more))


def test_every_trial_is_in_exactly_one_group():
    results = [*RESULTS, trial(500, 0.9, 0.5, fidelity=0.3)]
    series = front_series(results)
    groups = [series.front, series.dominated, series.shorter, *series.unscored.values()]
    numbers = [r.trial for group in groups for r in group]
    assert sorted(numbers) == sorted(r.trial for r in results)
    assert list(series.front) == front(results)
    assert [r.trial for r in series.shorter] == [500]
    assert {state for state, trials in series.unscored.items() if trials} == {"failed", "rejected", "stopped"}
    assert all(r.state == state for state, trials in series.unscored.items() for r in trials)


def test_step_is_the_best_accuracy_within_each_latency():
    series = front_series(RESULTS, teacher=TEACHER)
    assert series.step[-1][0] == pytest.approx(38.9 * 1.1)

    def on_line(latency_ms: float) -> float:
        return max(y for x, y in series.step if x <= latency_ms)

    scored = [r for r in RESULTS if r.state == "complete"]
    for latency in (series.front[0].latency_ms, 3.3, 5.0, 9.9, 40.0):
        assert on_line(latency) == max(r.map50_95 for r in scored if r.latency_ms <= latency)


def test_latency_range_holds_everything_that_is_drawn():
    series = front_series(RESULTS, teacher=TEACHER)
    low, high = series.cost_range
    assert all(low < r.latency_ms < high for r in RESULTS if r.latency_ms is not None)
    assert low < 38.9 < high


def test_map50_has_its_own_front():
    results = [trial(0, 0.5, 1.0, map50=0.5), trial(1, 0.4, 2.0, map50=0.9)]
    assert [r.trial for r in front_series(results).front] == [0]
    assert [r.trial for r in front_series(results, DEFAULT.with_accuracy("map50")).front] == [0, 1]


def test_a_run_without_any_score():
    series = front_series([trial(0, 0.9, 1.0, state="failed", reason="r")])
    assert series.front == () == series.step and series.knee is None
    volume = hypervolume_series([trial(0, 0.9, 1.0, state="failed", reason="r")])
    assert volume.reference is None and volume.share == (0.0,)
    assert parameter_series([]) == [] and fixed_parameters([]) == {} and front_series([]).dominated == ()


def test_hypervolume_series_ends_at_the_hypervolume_and_goes_by_number():
    series = hypervolume_series(RESULTS[::-1], teacher=TEACHER)
    assert series.reference == Reference(latency_ms=38.9 * 1.1)
    assert series.finished == tuple(range(1, 121))
    assert series.share[-1] == pytest.approx(hypervolume(RESULTS, series.reference))
    assert series.share[9] == pytest.approx(hypervolume(RESULTS[:10], series.reference))


def test_parameters_that_vary_and_those_that_do_not():
    series = {s.name: s for s in parameter_series(RESULTS)}
    order = list(series)
    assert order[0] == "family" and order.index("yolov5.width") < order.index("image_size") < order.index("prune.ratio")
    assert "temperature.end" not in series and fixed_parameters(RESULTS)["temperature.end"] == 1.0
    assert not series["family"].numeric and series["family"].correlation is None
    assert series["weight.feature"].numeric and series["weight.feature"].log
    assert series["image_size"].numeric and not series["image_size"].log
    width = series["yolov5.width"]
    assert all(r.family == "yolov5" and r.state == "complete" for r in width.results)
    assert list(width.values) == [r.params["yolov5.width"] for r in width.results]


def test_correlation_is_spearmans():
    def of(pairs: list[tuple[float, float]]) -> float | None:
        results = [trial(n, y, 1.0, params={"p": x, "q": n}) for n, (x, y) in enumerate(pairs)]
        return next((s.correlation for s in parameter_series(results) if s.name == "p"), None)

    rising = [(10.0**n, 0.1 * n) for n in range(9)]
    assert of(rising) == pytest.approx(1.0)
    assert of([(-x, y) for x, y in rising]) == pytest.approx(-1.0)
    assert of(rising[:7]) is None
    # Ties share their mean rank: 0.5 0.5 2.5 2.5 … against 0..7. Sums of squares 40 and 42, of products 40.
    assert of([(n // 2, 0.1 * n) for n in range(8)]) == pytest.approx(40 / math.sqrt(40 * 42))


@given(st.integers(0, 60), st.integers(1, 20))
def test_thinned_keeps_order_and_no_more_than_it_may(count, most):
    results = [trial(n, 0.1, 1.0) for n in range(count)]
    numbers = [r.trial for r in thinned(results, most)]
    assert numbers == sorted(set(numbers)) and len(numbers) == min(most, count)


def test_accuracy_span_has_a_margin():
    assert accuracy_span([trial(0, 0.2, 1.0), trial(1, 0.7, 1.0)]) == pytest.approx((0.16, 0.74))
    low, high = accuracy_span([trial(0, 0.2, 1.0)])
    assert low < 0.2 < high
    assert accuracy_span([])[0] < accuracy_span([])[1]
