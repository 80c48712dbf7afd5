"""What a budget means for a run that is resumed."""

from typing import Any

import pytest

from nasdistill.errors import InputError
from nasdistill.search.budget import parse_budget
from nasdistill.session.request import SearchRequest, budget_of

TIMED: dict[str, Any] = {"budget": "30m", "training": {"epochs": 6, "epoch_parts": 4}}


def test_epochs_are_whole_ones_however_short_those_of_the_runs_trials_are() -> None:
    asked = SearchRequest(budget=parse_budget("200epochs"), resume=True)
    assert budget_of(asked, TIMED).amount == 800
    assert str(budget_of(asked, TIMED)) == "200epochs"
    kept = {**TIMED, "budget": "200epochs"}
    assert budget_of(SearchRequest(resume=True), kept).amount == 800
    assert budget_of(asked, {"training": {"epochs": 6}}).amount == 200


def test_time_and_trials_are_what_they_are() -> None:
    assert budget_of(SearchRequest(resume=True), TIMED).amount == 1800
    assert budget_of(SearchRequest(budget=parse_budget("40trials"), resume=True), TIMED).amount == 40


def test_a_run_that_had_not_begun_has_no_budget_of_its_own() -> None:
    with pytest.raises(InputError, match="--budget is missing"):
        budget_of(SearchRequest(resume=True), {})
