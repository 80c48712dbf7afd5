"""Points of a space: their neighbours, and the branches there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from nasdistill.search.candidates import Tree, _moved


@pytest.mark.parametrize("distribution", [IntDistribution(1, 4), FloatDistribution(0.0, 0.5, step=0.05)])
def test_a_move_on_a_grid_goes_to_another_value_and_to_either_side_as_often(
    distribution: IntDistribution | FloatDistribution,
) -> None:
    low, high, step = distribution.low, distribution.high, distribution.step
    assert step is not None
    rng = np.random.default_rng(0)

    def moves(value: float, count: int = 2000) -> Counter[int]:
        return Counter(round((_moved(distribution, value, rng) - value) / step) for _ in range(count))

    inside = moves(low + step)
    assert 0 not in inside and 0.8 < inside[-1] / inside[1] < 1.25
    assert min(moves(low)) == 1 and max(moves(high)) == -1, "the ends are left, and reached"


def test_every_branch_that_a_choice_opens_is_found_however_few_points_are_drawn() -> None:
    families = tuple(f"f{number}" for number in range(20))

    def following(chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        if "family" not in chosen:
            return {"family": CategoricalDistribution(families)}
        own = f"{chosen['family']}.head"
        if own not in chosen:
            return {own: CategoricalDistribution((1, True, None))}
        return {f"{own}.cells": IntDistribution(1, 9)} if chosen[own] is None and f"{own}.cells" not in chosen else {}

    rng = np.random.default_rng(0)
    found = list(Tree(following).branches(2, rng))
    names = {name for distributions in found for name in distributions}
    assert names == {"family", *(f"{f}.head" for f in families), *(f"{f}.head.cells" for f in families)}
    assert len(found) <= 2 + 20 * 3
    after = np.random.default_rng(0)
    for _ in range(2):
        Tree(following).walk({}, after)
    assert rng.random() == after.random(), "what is drawn next does not depend on what was missed"
