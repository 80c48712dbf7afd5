import numpy as np
import pytest

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import ACCURACY, COST, OBJECTIVES, accuracy_objective, cost_objective, losses
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
