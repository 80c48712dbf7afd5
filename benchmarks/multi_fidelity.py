"""What early stopping saves: `pareto-asha` against training everything to the end, on real detectors.

    python -m benchmarks.multi_fidelity [--quick] [--json] [--out]

YOLOBench's 88 architectures at 480 px are the targets; the same architecture at 192 and 288 px stands for a trial at its
rungs, at the share of the cost that the area of its input is. Accuracy there is that of the small input, latency that of
the target, as in a search, where it is exact at every rung. Both sides see the same architectures in the same random
order, so that nothing but the decisions differs. Going on costs the difference of the shares, as with epochs; `retrained`
in the detail charges every rung anew. The figure is the geometric mean over the devices of the cost at which early
stopping's median hypervolume is at that of 60 full trainings, as a share of 60. Besides: how many members of the table's
true front went past the first rung.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from benchmarks._replay import Scale, first_reaching, geometric_mean
from benchmarks._tables import YOLOBENCH, YOLOBENCH_DEVICES, yolobench
from nasdistill.search.rungs import Rungs, ranks

RUNG_SIZES, TARGET_SIZE = (192, 288), 480
SEEDS, LEVEL, LEVELS = 20, 60, (20, 40, 60, 80)
GOAL = Goal(1 / 3)
GRID = np.arange(0.0, 130.0, 0.25)


@dataclass(frozen=True)
class Architecture:
    """Accuracy at each rung's size and at the target, and the target's latency in ms."""

    rungs: tuple[float, ...]
    accuracy: float
    latency_ms: float


def architectures(device: str) -> list[Architecture]:
    """Those of YOLOBench that have every size."""
    by_name: dict[tuple[Any, ...], dict[int, tuple[float, float]]] = {}
    for key, values in yolobench(device).points.items():
        point = dict(key)
        size = point.pop("image_size")
        by_name.setdefault(tuple(sorted(point.items())), {})[size] = values
    sizes = (*RUNG_SIZES, TARGET_SIZE)
    whole = [found for found in by_name.values() if all(size in found for size in sizes)]
    return [Architecture(tuple(f[s][0] for s in RUNG_SIZES), *f[TARGET_SIZE]) for f in whole]


@dataclass(frozen=True)
class Curve:
    """The share of the true hypervolume over the cost in full trainings, and which architectures passed the first rung."""

    cost: list[float]
    share: list[float]
    passed: set[int]
    complete: int


def replay(table: Sequence[Architecture], order: Sequence[int], stopping: bool, retrained: bool = False) -> Curve:
    """Train the architectures in this order, with early stopping or without."""
    rungs, cost, done = Rungs(), 0.0, list[int]()
    shares = [(size / TARGET_SIZE) ** 2 for size in RUNG_SIZES]
    costs, complete, passed = list[float](), list[int](), set[int]()
    for index in order:
        one, before, going = table[index], 0.0, True
        for rung, share in enumerate(shares if stopping else ()):
            cost += share if retrained else share - before
            before = share
            rungs.note(rung, index, (-one.rungs[rung], one.latency_ms))
            going = rungs.goes_on(rung, index)
            if not going:
                break
            passed.add(index)
        if going:
            cost += 1.0 if retrained else 1.0 - before
            done.append(index)
        costs.append(cost)
        complete.append(len(done))
    points = [(one.accuracy, one.latency_ms) for one in table]
    scale = Scale((0.0, 1.1 * max(latency_ms for _, latency_ms in points)), log=False)
    volumes, whole = [0.0, *scale.volumes([points[index] for index in done])], scale.volumes(points)[-1]
    return Curve(costs, [volumes[count] / whole for count in complete], passed, len(done))


def on_grid(curve: Curve) -> np.ndarray:
    """The share reached at each cost of GRID; the last one holds on."""
    at = np.searchsorted(curve.cost, GRID + 1e-9, side="right")
    return np.array([0.0, *curve.share])[at]


def compare(device: str, seeds: int) -> dict[str, Any]:
    """Both sides over paired orders on one device."""
    table = architectures(device)
    orders = [np.random.default_rng(seed).permutation(len(table)).tolist() for seed in range(seeds)]
    full = np.median([replay(table, order, False).share for order in orders], axis=0)
    front = np.flatnonzero(ranks(np.array([(-one.accuracy, one.latency_ms) for one in table])) == 0)
    result: dict[str, Any] = {"device": device, "architectures": len(table), "true_front": len(front)}
    for name, retrained in (("continued", False), ("retrained", True)):
        curves = [replay(table, order, True, retrained) for order in orders]
        middle = np.median([on_grid(curve) for curve in curves], axis=0)
        ratios: dict[str, float | None] = {}
        for level in LEVELS:
            there = first_reaching(middle, full[level - 1])
            ratios[str(level)] = None if there is None else float(GRID[there - 1]) / level
        result[name] = {"ratio": ratios, "cost": fmean(curve.cost[-1] for curve in curves)}
    result["front_past_rung_1"] = fmean(len(curve.passed.intersection(front)) / len(front) for curve in curves)
    result["trained_to_the_end"] = fmean(curve.complete for curve in curves)
    return result


def measure(options: argparse.Namespace) -> Outcome:
    """Replay on every device."""
    if not YOLOBENCH.is_file():
        sys.exit(f"skipped: {YOLOBENCH.name} is not there")
    found = [compare(device, 4 if options.quick else SEEDS) for device in YOLOBENCH_DEVICES]
    ratios = [_ratio(row) for row in found]
    return Outcome(
        value=geometric_mean(ratios),
        unit=f"of the cost of {LEVEL} full trainings, to reach their hypervolume",
        goal=GOAL,
        spread=spread(ratios),
        detail={"quick": options.quick, "rung_sizes": RUNG_SIZES, "target_size": TARGET_SIZE, "devices": found},
        table=[
            {
                "device": row["device"],
                f"cost at level {LEVEL}": _ratio(row),
                "retrained": row["retrained"]["ratio"][str(LEVEL)] or float("inf"),
                "whole table": row["continued"]["cost"] / row["architectures"],
                "true front past rung 1": row["front_past_rung_1"],
            }
            for row in found
        ],
    )


def _ratio(row: Mapping[str, Any]) -> float:
    """Where the level is never reached, the whole table was not enough."""
    reached = row["continued"]["ratio"][str(LEVEL)]
    return float(row["continued"]["cost"] / LEVEL if reached is None else reached)


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("multi_fidelity", __doc__ or "", measure, None, argv)


if __name__ == "__main__":
    main()
