import numpy as np
import pytest

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import (
    ACCURACY,
    COST,
    DEFAULT,
    OBJECTIVES,
    accuracy_objective,
    cost_objective,
    losses,
    parse_objectives,
)
from nasdistill.pareto.of_run import devices_of_run, objectives_of_run, on_device
from nasdistill.records import TrialResult


def result(trial: int = 0, **figures: float) -> TrialResult:
    return TrialResult(
        trial=trial,
        state="complete",
        family="f",
        fidelity=1,
        **({"map50": 0.5, "map50_95": 0.3, "latency_ms": 2.0} | figures),
    )


def test_losses_flip_what_is_maximised_and_nothing_else():
    points = losses(
        [result(map50_95=0.3, latency_ms=2.0, params_m=1.5)], [OBJECTIVES["map50_95"], OBJECTIVES["latency_ms"]]
    )
    assert points.shape == (1, 2)
    np.testing.assert_array_equal(points, [[-0.3, 2.0]])
    assert set(ACCURACY) == {"map50", "map50_95"}
    assert all(o.minimise for o in COST.values()) and not any(o.minimise for o in ACCURACY.values())


def test_no_results_give_no_points():
    assert losses([], [OBJECTIVES["map50"]]).shape == (0, 1)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_figure_that_is_missing_or_not_finite_is_refused(value):
    broken = result(7).model_copy(update={"latency_ms": value})
    with pytest.raises(ValueError, match="trial 7 needs a finite latency_ms"):
        losses([result(1), broken], [OBJECTIVES["map50"], OBJECTIVES["latency_ms"]])


def test_unknown_objectives_name_the_allowed_ones():
    with pytest.raises(InputError, match="'map'.*map50_95, map50"):
        accuracy_objective("map")
    with pytest.raises(InputError, match="unknown cost.*latency_ms"):
        cost_objective("map50")


def test_a_figure_of_a_further_device_is_an_objective_of_its_own():
    phone = cost_objective("latency_ms@phone")
    assert (phone.device, phone.title, phone.is_latency) == ("phone", "latency on phone, ms", True)
    both = result(params_m=1.0).model_copy(update={"further": {"latency_ms@phone": 9.0}})
    np.testing.assert_array_equal(losses([both], [OBJECTIVES["latency_ms"], phone]), [[2.0, 9.0]])
    assert both.costs() == {"latency_ms": 2.0, "params_m": 1.0, "latency_ms@phone": 9.0}
    with pytest.raises(ValueError, match="trial 0 needs a finite latency_ms@phone"):
        losses([result()], [phone])
    for wrong in ("params_m@phone", "latency_ms@", "latency_ms@a b", "map50@phone"):
        with pytest.raises(InputError, match="unknown cost"):
            cost_objective(wrong)


@pytest.mark.parametrize(
    ("names", "devices", "expected"),
    [
        ([], ["a"], ["map50_95", "latency_ms"]),
        ([], ["a", "b"], ["map50_95", "latency_ms", "latency_ms@b"]),
        ([], ["a", "b", "c"], ["map50_95", "latency_ms", "latency_ms@b"]),
        (["params_m", "map50"], ["a"], ["map50", "params_m"]),
        (["map50", "latency_ms@a", "energy_mj@b"], ["a", "b"], ["map50", "latency_ms", "energy_mj@b"]),
    ],
)
def test_objectives_as_asked_for(names, devices, expected):
    assert parse_objectives(names, devices).names == expected


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["map50"], "accuracies: 1, costs: 0"),
        (["latency_ms"], "accuracies: 0, costs: 1"),
        (["map50", "map50_95", "latency_ms"], "accuracies: 2"),
        (["map50", "latency_ms", "params_m", "gflops"], "costs: 3"),
        (["map50", "latency_ms", "latency_ms@a"], "named twice"),
        (["map50", "latency_ms@c"], "no device 'c' in this run, expected one of: a, b"),
        (["map50", "params_m@b"], "the same on every device"),
        (["map50", ""], "unknown figure ''.*latency_ms@b"),
    ],
)
def test_other_objectives_are_refused_with_what_is_allowed(names, words):
    with pytest.raises(InputError, match=words):
        parse_objectives(names, ["a", "b"])


def test_what_a_run_says():
    assert objectives_of_run({}) == DEFAULT == objectives_of_run({"objectives": ["map50", "speed"]})
    assert objectives_of_run({"objective": {"accuracy": "map50"}}).names == ["map50", "latency_ms"]
    run = {
        "objectives": ["map50", "params_m", "latency_ms@b"],
        "device": {"name": "a"},
        "further_devices": [{"name": "b"}],
    }
    assert objectives_of_run(run).names == run["objectives"] and devices_of_run(run) == ["a", "b"]
    assert on_device(run, "a").names == ["map50", "latency_ms"]
    assert on_device(run, "b").names == ["map50", "latency_ms@b"]
    with pytest.raises(InputError, match="not timed there.*a, b"):
        on_device(run, "c")
