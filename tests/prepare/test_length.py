"""How long trials are: as many steps as the budget gives, whatever a whole epoch is."""

import pytest

from nasdistill.config import MOST_EPOCHS
from nasdistill.prepare.length import (
    FEWEST_EPOCHS,
    LONGEST_S,
    TRIAL_OVERHEAD_S,
    epochs_for,
    trial_seconds,
    wanted_seconds,
)

STEPS = 125  # of an epoch


@pytest.mark.parametrize("step_s", [0.0005, 0.01, 0.1, 0.3, 0.31, 0.45, 0.6, 0.8, 1.2, 20.0])
def test_rounding_to_epochs_costs_an_eighth_at_most(step_s: float) -> None:
    core_seconds = 2700.0
    epochs, parts = epochs_for(core_seconds, {"yolov5": step_s}, 256, [256], STEPS)
    wanted = (wanted_seconds(core_seconds) - TRIAL_OVERHEAD_S) / step_s
    assert epochs * STEPS / parts == pytest.approx(wanted, rel=0.5 / FEWEST_EPOCHS + 0.01)
    assert epochs >= FEWEST_EPOCHS
    # whole epochs where enough of them fit
    assert (parts == 1) == (wanted >= FEWEST_EPOCHS * STEPS)


def test_steps_scale_with_the_area_and_a_slow_family_does_not_decide() -> None:
    mixed = epochs_for(2700.0, {"a": 0.1, "b": 0.4}, 256, [128, 384], STEPS)
    # a fifth of a second between the families, and 1.25 times the area between the sizes
    assert mixed == epochs_for(2700.0, {"a": 0.25}, 256, [256], STEPS)
    point = {"family": "yolov5", "yolov5.depth": 0.33, "yolov5.width": 0.25, "image_size": 128}
    seconds = trial_seconds(point, {"yolov5": 0.2, "mobilenetv3-small": 9.0}, 256, STEPS, 4)
    assert seconds == pytest.approx(TRIAL_OVERHEAD_S + 4 * STEPS * 0.2 / 4)


def test_there_is_a_step_in_every_epoch_and_an_epoch_in_every_trial() -> None:
    assert epochs_for(60.0, {"yolov5": 100.0}, 256, [256], STEPS) == (1, STEPS)
    assert epochs_for(60.0, {"yolov5": 0.1}, 256, [256], 1) == (100, 1)
    assert epochs_for(36_000.0, {"yolov5": 0.01}, 256, [256], 1) == (MOST_EPOCHS, 1), "no more than settings allow"


def test_more_budget_means_longer_trials_of_which_ten_of_middle_size_always_fit() -> None:
    budgets = [60.0 * minutes for minutes in (2, 5, 8, 10, 15, 20, 30, 45, 50, 60, 100, 200, 400, 2000)]
    seconds = [wanted_seconds(budget) for budget in budgets]
    assert seconds == sorted(seconds) and seconds[-1] == LONGEST_S
    fitting = [budget / each for budget, each in zip(budgets, seconds, strict=True)]
    assert fitting[2] == pytest.approx(20.0) and min(fitting[1:]) == pytest.approx(10.0, abs=0.5)
