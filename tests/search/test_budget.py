from pathlib import Path

import pytest
from search_workers import scored

from nasdistill.errors import InputError
from nasdistill.records import TrialResult
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.search.stop import Patience, StopControl
from nasdistill.search.worker import TrialJob


def result(trial: int, state: str = "complete", epochs: int = 3) -> TrialResult:

    job = TrialJob(trial, {}, Path("."), None, Path("stop"))
    fields = {
        **scored(job).model_dump(),
        "state": state,
        "epochs": epochs,
        "reason": "" if state == "complete" else "x",
    }
    return TrialResult.model_validate(fields)


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("90s", "time", 90),
        ("30m", "time", 1800),
        ("2h", "time", 7200),
        ("1.5h", "time", 5400),
        (" 5m ", "time", 300),
        ("40trials", "trials", 40),
        ("1trial", "trials", 1),
        ("200epochs", "epochs", 200),
        ("200 epochs", "epochs", 200),
    ],
)
def test_budgets_a_person_writes(text: str, kind: str, amount: float) -> None:
    budget = parse_budget(text)
    assert (budget.kind, budget.amount) == (kind, amount)


@pytest.mark.parametrize(
    "text", ["", "5x", "5", "m", "-5m", "0s", "0trials", "1.5trials", "5 m m", "1e3s", "5M", "nans", "infs", "99999h"]
)
def test_anything_else_is_refused_in_one_line_that_says_what_is_allowed(text: str) -> None:
    with pytest.raises(InputError, match="90s, 30m, 2h") as caught:
        parse_budget(text)
    assert repr(text) in str(caught.value) and "\n" not in str(caught.value)


def test_time_goes_on_from_what_earlier_parts_used() -> None:
    now = [1000.0]
    clock = BudgetClock(parse_budget("60s"), seconds_before=20.0, now=lambda: now[0])
    assert (clock.used, clock.left, clock.deadline) == (20.0, 40.0, 1040.0)
    now[0] += 30
    assert (clock.used, clock.left, clock.exhausted) == (50.0, 10.0, False)
    assert clock.share == pytest.approx(50 / 60)
    now[0] += 30
    assert (clock.left, clock.share, clock.exhausted) == (0.0, 1.0, True)


def test_a_stopped_clock_counts_nothing_and_puts_the_deadline_off() -> None:
    now = [1000.0]
    clock = BudgetClock(parse_budget("60s"), seconds_before=20.0, now=lambda: now[0])
    now[0] += 10
    with clock.stopped():
        now[0] += 500
        assert (clock.used, clock.left, clock.deadline) == (30.0, 30.0, 1540.0)
    assert (clock.used, clock.left, clock.deadline) == (30.0, 30.0, 1540.0)
    now[0] += 30
    assert clock.exhausted


@pytest.mark.parametrize("budget", ["60s", "9trials"])
def test_a_clock_knows_the_seconds_of_the_run_whatever_the_budget_is_of(budget: str) -> None:
    clock = BudgetClock.resumed(parse_budget(budget), [], 20.0)
    began = clock._start
    clock._now = lambda: began + 10.04
    assert clock.seconds == 30.0
    with clock.stopped():
        clock._now = lambda: began + 100.0
        assert clock.seconds == 30.0
    assert clock.seconds == 30.0


def test_trials_count_when_they_were_really_done() -> None:
    clock = BudgetClock(parse_budget("3trials"))
    for state in ("complete", "failed", "rejected", "stopped"):
        clock.count(result(0, state))
    assert (clock.used, clock.left, clock.exhausted, clock.deadline) == (2, 1, False, None)
    clock.count(result(1))
    assert clock.exhausted


@pytest.mark.parametrize(
    ("state", "fidelity", "done"),
    [("complete", 1.0, 1), ("failed", 0.0, 1), ("rejected", 0.0, 0), ("stopped", 0.0, 0), ("stopped", 0.3, 1)],
)
def test_which_trials_are_done(state: str, fidelity: float, done: int) -> None:
    clock = BudgetClock(parse_budget("3trials"))
    clock.count(result(0, state).model_copy(update={"fidelity": fidelity}))
    assert clock.used == done


def test_a_failure_costs_the_longest() -> None:
    clock = BudgetClock(parse_budget("90epochs"))
    for one in (result(0, epochs=5), result(1, epochs=8), result(2, epochs=3), result(3, "failed", 0)):
        clock.count(one)
    assert clock.used == 5 + 8 + 3 + 8


@pytest.mark.parametrize(("budget", "deadline"), [("60s", 1066.0), ("10m", 1615.0), ("5trials", None)])
def test_overtime_is_a_tenth_at_most(tmp_path: Path, budget: str, deadline: float | None) -> None:
    clock = BudgetClock(parse_budget(budget), now=lambda: 1000.0)
    assert StopControl(tmp_path / "stop", clock, Patience()).trial_deadline == deadline


def test_epochs_count_whatever_became_of_the_trial() -> None:
    clock = BudgetClock.resumed(parse_budget("10epochs"), [result(0), result(1, "stopped", 4)])
    assert (clock.used, clock.left) == (7, 3)


def test_a_failed_trial_costs_as_many_epochs_as_the_longest_so_far() -> None:
    clock = BudgetClock(parse_budget("20epochs"))
    for one in (result(0, "failed", 0), result(1, epochs=8), result(2, "failed", 0), result(3, "rejected", 0)):
        clock.count(one)
    assert clock.used == 16


def test_a_budget_without_end_is_refused() -> None:
    with pytest.raises(InputError, match="more than a billion trials"):
        parse_budget("9999999999trials")
    assert parse_budget("1000000000epochs").amount == 1e9
