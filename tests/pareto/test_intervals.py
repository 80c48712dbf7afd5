"""Intervals and ties against scipy, against a simulation, and on the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nasdistill.errors import InputError
from nasdistill.pareto.front import front
from nasdistill.pareto.intervals import Certainty, Spread, certainty, pooled_spread, scores_of
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import TrialResult


def trial(number: int, latency_ms: float, score: float, *repeats: float, shift: float = 0.3) -> TrialResult:
    return TrialResult(
        trial=number,
        state="complete",
        family="yolov5",
        fidelity=1.0,
        map50=score + shift,
        map50_95=score,
        latency_ms=latency_ms,
        repeats_map50=tuple(again + shift for again in repeats),
        repeats_map50_95=repeats,
    )


def certainty_of(*results: TrialResult, accuracy: str = "map50_95") -> Certainty:
    return certainty(results, front(results, DEFAULT.with_accuracy(accuracy)), accuracy)


def test_two_groups_agree_with_scipys_t_test() -> None:
    a, b = [0.31, 0.29, 0.33], [0.36, 0.345, 0.35]
    spread = pooled_spread([a, b])
    assert spread is not None and spread.freedom == 4
    expected = stats.ttest_ind(b, a).confidence_interval(0.95)
    middle, half = np.mean(b) - np.mean(a), spread.half_width(1 / 3 + 1 / 3)
    assert (middle - half, middle + half) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_group_agrees_with_scipys_interval_of_a_mean() -> None:
    scores = [0.31, 0.29, 0.33]
    spread = pooled_spread([scores])
    assert spread is not None
    expected = stats.ttest_1samp(scores, 0.0).confidence_interval(0.95)
    half = spread.half_width(1 / 3)
    assert (np.mean(scores) - half, np.mean(scores) + half) == pytest.approx((expected.low, expected.high))


def test_pooling_many_groups_is_the_mean_square_within() -> None:
    groups = [[0.1, 0.2], [0.5, 0.55, 0.4], [0.9], []]
    spread = pooled_spread(groups)
    assert spread is not None and spread.freedom == 3
    within = sum(((np.array(group) - np.mean(group)) ** 2).sum() for group in groups if group)
    assert spread.deviation == pytest.approx(math.sqrt(within / 3))
    assert pooled_spread([[0.9], [], [0.1]]) is None and pooled_spread([]) is None


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (2, 2, 1, 1), (3, 2, 2, 2, 1, 1)])
def test_intervals_cover_what_they_should(sizes: tuple[int, ...]) -> None:
    """4000 runs: the true mean of the first member, and its true distance to the last, are within 95 % of the intervals."""
    rng = np.random.default_rng(7)
    means, runs, mean_inside, apart_inside = np.linspace(0.2, 0.5, len(sizes)), 4000, 0, 0
    for _ in range(runs):
        groups = [rng.normal(mean, 0.02, size) for mean, size in zip(means, sizes, strict=True)]
        spread = pooled_spread([list(group) for group in groups])
        assert spread is not None
        mean_inside += abs(groups[0].mean() - means[0]) <= spread.half_width(1 / sizes[0])
        apart = groups[-1].mean() - groups[0].mean() - (means[-1] - means[0])
        apart_inside += abs(apart) <= spread.half_width(1 / sizes[0] + 1 / sizes[-1])
    # Three standard errors of a share of 0.95 over 4000 runs are 0.0103.
    assert mean_inside / runs == pytest.approx(0.95, abs=0.0103)
    assert apart_inside / runs == pytest.approx(0.95, abs=0.0103)


def test_neighbours_within_the_interval_of_their_difference_are_tied() -> None:
    # Pooled deviation 0.01 with 2 degrees of freedom: t is 4.30.
    half = math.sqrt(0.5) * 0.01
    close, far = trial(3, 2.0, 0.30 - half, 0.30 + half), trial(1, 4.0, 0.40 - half, 0.40 + half)
    found = certainty_of(close, far, trial(0, 1.0, 0.28), trial(2, 3.0, 0.31))
    assert found.spread is not None and found.spread.deviation == pytest.approx(0.01) and found.spread.freedom == 2
    # 0 and 3: 0.02 apart, limit 4.30 * 0.01 * sqrt(1 + 1/2) = 0.053. 3 and 2: 0.01. 2 and 1: 0.09.
    assert found.ties == {0: (3,), 3: (0, 2), 2: (3,)}
    assert found.tied_with(3) == "0;2" and found.tied_with(1) == ""
    assert set(found.intervals) == {1, 3}
    assert found.intervals[3].seeds == 2 and found.intervals[3].mean == pytest.approx(0.30)
    assert found.intervals[3].half_width == pytest.approx(stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(2))


def test_only_neighbours_are_compared_and_members_off_the_front_only_inform() -> None:
    noisy = trial(9, 9.0, 0.1, 0.3)  # dominated, repeated when it was on the front
    found = certainty_of(trial(0, 1.0, 0.30), trial(1, 2.0, 0.31), trial(2, 3.0, 0.32), noisy)
    assert found.ties == {0: (1,), 1: (0, 2), 2: (1,)}
    assert set(found.intervals) == {9}


def test_without_repeats_nothing_is_said() -> None:
    results = [trial(0, 1.0, 0.30), trial(1, 2.0, 0.30001)]
    assert certainty(results, front(results)) == Certainty()
    assert certainty([], []) == Certainty()


def test_the_other_accuracy_has_its_own() -> None:
    results = [trial(0, 1.0, 0.30, 0.32), trial(1, 2.0, 0.31, 0.33, shift=0.5)]
    found = certainty_of(*results, accuracy="map50")
    assert found.intervals[0].mean == pytest.approx(0.61) and found.accuracy == "map50"
    assert found.ties == {}  # 0.21 apart there, 0.01 in mAP50-95
    assert certainty_of(*results).ties == {0: (1,), 1: (0,)}
    with pytest.raises(InputError, match="unknown accuracy"):
        certainty(results, results, "latency_ms")


def test_ends_stay_within_what_a_score_can_be() -> None:
    found = certainty_of(trial(0, 1.0, 0.02, 0.04), trial(1, 2.0, 0.9, 0.98)).intervals
    assert found[0].low == 0.0 and found[1].high == 1.0
    assert 0 < found[0].high < 1 and 0 < found[1].low < 1


def test_scores_of_needs_one() -> None:
    failed = TrialResult(trial=4, state="failed", family="f", reason="r")
    with pytest.raises(ValueError, match="trial 4 needs a finite map50_95"):
        scores_of(failed)
    assert Spread(0.0, 1).half_width(0.5) == 0.0
