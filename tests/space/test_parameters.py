"""Choices and ranges: every sample is contained, grids are exact, midpoints lie in the middle."""

import math
import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nasdistill.space.parameters import Choice, Range

rngs = st.integers(0, 2**32).map(random.Random)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    kind = draw(st.sampled_from(["plain", "log", "step", "whole"]))
    if kind == "whole":
        low, step = draw(st.integers(0, 100)), draw(st.integers(1, 32))
        return Range(low, low + step * draw(st.integers(1, 40)), step)
    low = draw(st.floats(1e-3, 10.0))
    if kind == "step":
        step_size = draw(st.sampled_from([0.05, 0.0625, 0.1, 1 / 3]))
        low = round(low, 2)
        return Range(low, low + step_size * draw(st.integers(1, 40)), step_size)
    high = draw(st.floats(1e-3, 100.0))
    assume(high > low)
    return Range(low, high, log=kind == "log")


@given(ranges(), rngs)
def test_samples_midpoint_and_grid_lie_in_the_range(parameter: Range, rng: random.Random) -> None:
    for value in (parameter.sample(rng), parameter.midpoint(), parameter.low, parameter.high):
        assert parameter.contains(value)
        assert math.isclose(parameter.nearest(value), value, rel_tol=1e-9)
        assert isinstance(value, int) == parameter.is_whole
    for value in parameter.values() or ():
        assert parameter.contains(value)
        assert parameter.nearest(value) == value
    assert not parameter.contains(parameter.low - 0.51 * (parameter.step or 1e-3))
    assert not parameter.contains(parameter.high + 0.51 * (parameter.step or 1e-3))


def test_a_grid_is_what_a_person_would_write() -> None:
    assert Range(0.0, 0.5, 0.05).values() == (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
    assert Range(256, 352, 32).values() == (256, 288, 320, 352)
    assert Range(0.0, 1.0).values() is None


def test_a_sampler_s_rounding_noise_is_accepted_and_removed() -> None:
    grid = Range(0.0, 0.5, 0.05)
    assert 3 * 0.05 != 0.15
    assert grid.contains(3 * 0.05)
    assert grid.nearest(3 * 0.05) == 0.15
    assert not grid.contains(0.151)
    with pytest.raises(ValueError, match="0.151 is outside 0.0 to 0.5 in steps of 0.05"):
        grid.nearest(0.151)


def test_values_of_other_kinds_are_not_contained() -> None:
    for value in ("1", True, math.nan, math.inf):
        assert not Range(0.0, 2.0).contains(value)
        assert not Range(0, 2, 1).contains(value)
    assert not Choice((1, 2)).contains(True)
    assert not Choice((1, 2)).contains("1")
    assert Choice((256, 320)).contains(256.0)
    assert isinstance(Choice((256, 320)).nearest(256.0), int)
    with pytest.raises(ValueError, match="512 is none of 256, 320"):
        Choice((256, 320)).nearest(512)


def test_midpoints() -> None:
    assert Range(1.0, 4.0, log=True).midpoint() == 2.0
    assert Range(1.0, 4.0).midpoint() == 2.5
    assert Range(0.0, 0.5, 0.05).midpoint() == 0.25
    assert Range(0.0, 0.3, 0.1).midpoint() == 0.1
    assert Choice((3, 1, 2, 4)).midpoint() == 2
    assert Choice(("cosine", "linear", "constant")).midpoint() == "cosine"


def test_log_samples_spread_over_orders_of_magnitude() -> None:
    rng = random.Random(0)
    values = [Range(0.01, 100.0, log=True).sample(rng) for _ in range(2000)]
    assert 0.45 < sum(value < 1.0 for value in values) / len(values) < 0.55
    flat = [Range(0.01, 100.0).sample(rng) for _ in range(2000)]
    assert sum(value < 1.0 for value in flat) / len(flat) < 0.03
