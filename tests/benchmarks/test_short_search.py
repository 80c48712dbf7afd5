"""The made-up half hour is close to the real one that it was fitted to, and its searches keep to the time."""

import csv
import math
from pathlib import Path
from statistics import median

import pytest

from benchmarks._half_hour import BOX_MS, SEARCH_S, WORKERS, Searched, figures, search
from nasdistill.space.loader import load_space

RUN = Path(__file__).resolve().parents[2] / "results" / "deeppcb-28m-avx2" / "trials.csv"


def test_its_figures_are_those_of_real_trials() -> None:
    errors: dict[str, list[float]] = {"score": [], "latency": [], "seconds": []}
    with RUN.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            point: dict[str, str | float] = {}
            for name, value in row.items():
                if name.startswith("param.") and value:
                    point[name.removeprefix("param.")] = value
            found = figures(point)
            errors["score"].append(abs(found.score - float(row["map50_95"])))
            errors["latency"].append(abs(math.log(found.latency_ms / float(row["latency_ms"]))))
            errors["seconds"].append(abs(math.log(found.seconds / float(row["seconds"]))))
    assert len(errors["score"]) == 16
    assert median(errors["score"]) < 0.02 and max(errors["score"]) < 0.08
    assert median(errors["latency"]) < 0.1 and max(errors["latency"]) < 0.3
    assert median(errors["seconds"]) < 0.1 and max(errors["seconds"]) < 0.4


def test_the_hypervolume_is_that_of_the_stairs() -> None:
    searched = Searched([(20.0, 0.5), (10.0, 0.4), (15.0, 0.3), (60.0, 0.9)])
    assert searched.hypervolume() == pytest.approx((0.4 * 10 + 0.5 * 30) / BOX_MS)
    expected = 0.4 * math.log(20 / 10) + 0.5 * math.log(BOX_MS / 20)
    assert searched.hypervolume(log=True) == pytest.approx(expected / math.log(BOX_MS / 2))
    assert Searched([]).hypervolume() == 0.0


def test_a_search_keeps_to_the_time_and_is_the_same_again() -> None:
    space = load_space("edge-default")
    first, again = (search(space, "random", 3) for _ in range(2))
    assert first == again
    assert 8 <= len(first.students) <= 30
    assert len(set(first.students)) == len(first.students)
    largest = max(figures(anchor).seconds for anchor in space.anchors())
    assert largest < SEARCH_S and WORKERS == 2
