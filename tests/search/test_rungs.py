"""Who goes on at a rung, against the obvious definition of domination."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdistill.search.rungs import Rungs, crowding, order_of, ranks, rung_epochs

points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=14)


@pytest.mark.parametrize(("epochs", "expected"), [(1, ()), (2, ()), (3, (1,)), (8, (2,)), (9, (1, 3)), (200, (22, 66))])
def test_rungs_are_whole_epochs_at_a_third_and_a_ninth(epochs: int, expected: tuple[int, ...]) -> None:
    assert rung_epochs(epochs) == expected


def obvious_ranks(losses: np.ndarray) -> list[int]:
    found, level = [-1] * len(losses), 0
    while -1 in found:
        left = [i for i, rank in enumerate(found) if rank == -1]
        for i in left:
            if not any((losses[j] <= losses[i]).all() and (losses[j] < losses[i]).any() for j in left):
                found[i] = level
        level += 1
    return found


@given(points)
def test_order_is_by_rank_first(drawn: list[tuple[int, int]]) -> None:
    losses = np.array(drawn, dtype=float)
    rank = obvious_ranks(losses)
    assert ranks(losses).tolist() == rank
    order = order_of(losses)
    assert sorted(order) == list(range(len(drawn)))
    assert [rank[i] for i in order] == sorted(rank)


def test_within_a_rank_the_solitary_come_first() -> None:
    losses = np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [9.0, 1.0], [10.0, 0.0]])
    assert [math.isinf(value) for value in crowding(losses)] == [True, False, False, False, True]
    assert order_of(losses)[2] in (2, 3) and order_of(losses)[-1] == 1


@given(points)
def test_nothing_on_the_front_and_a_third_of_all_go_on(drawn: list[tuple[int, int]]) -> None:
    rungs = Rungs(slack=0.0)
    for trial, point in enumerate(drawn):
        rungs.note(0, trial, point)
    assert rungs.reached(0) == len(drawn) and rungs.reached(1) == 0
    losses = np.array(drawn, dtype=float)
    going = [trial for trial in range(len(drawn)) if rungs.goes_on(0, trial)]
    assert {i for i, rank in enumerate(obvious_ranks(losses)) if rank == 0} <= set(going)
    assert len(going) >= math.ceil(len(drawn) / 3)
    if len(drawn) < 3:
        assert len(going) == len(drawn)


def test_a_dominated_trial_stops_once_enough_are_there() -> None:
    rungs = Rungs(slack=0.0)
    rungs.note(0, 1, (-0.5, 2.0))
    rungs.note(0, 2, (-0.4, 3.0))
    assert rungs.goes_on(0, 2)  # two decide nothing
    rungs.note(0, 3, (-0.3, 4.0))
    assert rungs.goes_on(0, 1) and not rungs.goes_on(0, 2) and not rungs.goes_on(0, 3)


def test_slack_forgives_a_little_accuracy_and_no_latency() -> None:
    scores = {1: (-0.50, 2.0), 2: (-0.495, 2.5), 3: (-0.30, 9.0), 4: (-0.46, 2.0)}
    kept = {}
    for slack in (0.0, 0.03):
        rungs = Rungs(keep=0.01, slack=slack)
        for trial, losses in scores.items():
            rungs.note(0, trial, losses)
        kept[slack] = [trial for trial in scores if rungs.goes_on(0, trial)]
    # the spread of scores is 0.2, so 0.006 is forgiven: trial 2 misses by 0.005, trial 4 by 0.04. One goes on in any case.
    assert kept == {0.0: [1], 0.03: [1, 2]}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    # 0.011 below the front, where 0.03 of the spread of 0.4 is forgiven, then a third of that; or a third of nine, then one
    [({"keep": 0.01}, [[0, 1], [0]]), ({"slack": 0.0}, [[0, 1, 3], [0]])],
)
def test_the_second_rung_forgives_and_keeps_a_third_of_what_the_first_does(
    arguments: dict[str, float], wanted: list[list[int]]
) -> None:
    rungs = Rungs(**arguments)
    scores = [(-0.5, 1.0), (-0.489, 2.0), (-0.2, 3.0), (-0.1, 1.5), *((-0.15, 4.0 + n) for n in range(5))]
    going = []
    for rung in (0, 1):
        for trial, losses in enumerate(scores):
            rungs.note(rung, trial, losses)
        going.append([trial for trial in range(len(scores)) if rungs.goes_on(rung, trial)])
    assert going == wanted


def test_what_is_no_number_never_reaches_a_rung() -> None:
    rungs = Rungs()
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="trial 7 scored"):
            rungs.note(0, 7, (wrong, 1.0))
    assert rungs.reached(0) == 0
    with pytest.raises(ValueError, match="keep=0"):
        Rungs(keep=0)
    with pytest.raises(ValueError, match="slack=-1"):
        Rungs(slack=-1)
