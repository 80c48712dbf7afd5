"""What early stopping saves: `pareto-asha` against training everything to the end, where looking a training up is free.

    python -m benchmarks.multi_fidelity [--quick] [--json] [--out]

Real detectors: YOLOBench's 88 architectures at 480 px are the targets; the same architecture at 192 and 288 px stands for a
trial at its rungs, at the share of the cost that the area of its input is. Accuracy there is that of the small input, latency
that of the target, as in a search, where it is exact at every rung. A function: 200 random points of the Branin-Currin
problem (`branin_currin`), whose two values both become exact only with the last fidelity; rungs are at a ninth and a third.
Both sides see the same candidates in the same random order, so that nothing but the decisions differs. Going on costs the
difference of the shares, as with epochs; `retrained` in the detail charges every rung anew, and `oracle` stops at the first
rung whatever is not on the true front: no rule can do better with these rungs. The figure is the geometric mean over the
problems of the cost at which early stopping's median hypervolume is at that of 60 full trainings, as a share of 60. Besides:
how many members of the true front went past the first rung.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import moocore
import numpy as np

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from benchmarks._replay import first_reaching, geometric_mean
from benchmarks._tables import YOLOBENCH, YOLOBENCH_DEVICES, yolobench
from nasdistill.search.rungs import Rungs, ranks

RUNG_SIZES, TARGET_SIZE = (192, 288), 480
POINTS, POINT_SHARES = 200, (1 / 9, 1 / 3)
SEEDS, LEVEL, LEVELS = 20, 60, (20, 40, 60, 80)
GOAL = Goal(1 / 3)
GRID = np.arange(0.0, POINTS + 50.0, 0.25)

Losses = tuple[float, float]


@dataclass(frozen=True)
class Candidate:
    """What it scores at each rung and in the end, both objectives to minimise."""

    rungs: tuple[Losses, ...]
    final: Losses


@dataclass(frozen=True)
class Problem:
    """Candidates in the order in which they come, the rungs' share of a training's cost, which of the objectives change
    with training, and the corner of the hypervolume."""

    candidates: tuple[Candidate, ...]
    shares: tuple[float, ...]
    uncertain: tuple[int, ...]
    corner: Losses

    def front(self) -> set[int]:
        """Indices of the candidates that nothing dominates in the end."""
        return set(np.flatnonzero(ranks(np.array([one.final for one in self.candidates])) == 0).tolist())

    def volumes(self, indices: Sequence[int]) -> list[float]:
        """The hypervolume of the first one, the first two, and so on."""
        points = np.array([self.candidates[index].final for index in indices])
        return [float(moocore.hypervolume(points[: count + 1], ref=self.corner)) for count in range(len(indices))]


def detectors(device: str, seed: int) -> Problem:
    """YOLOBench's architectures that have every size, in random order."""
    by_name: dict[tuple[Any, ...], dict[int, tuple[float, float]]] = {}
    for key, values in yolobench(device).points.items():
        point = dict(key)
        size = point.pop("image_size")
        by_name.setdefault(tuple(sorted(point.items())), {})[size] = values
    whole = [found for found in by_name.values() if all(size in found for size in (*RUNG_SIZES, TARGET_SIZE))]
    candidates = [
        Candidate(tuple((-found[size][0], latency_ms) for size in RUNG_SIZES), (-accuracy, latency_ms))
        for found in whole
        for accuracy, latency_ms in (found[TARGET_SIZE],)
    ]
    order = np.random.default_rng(seed).permutation(len(candidates))
    shares = tuple((size / TARGET_SIZE) ** 2 for size in RUNG_SIZES)
    corner = (0.0, 1.1 * max(one.final[1] for one in candidates))
    return Problem(tuple(candidates[index] for index in order), shares, (0,), corner)


def branin_currin(x: float, y: float, fidelity: float) -> Losses:
    """The Branin and Currin functions with a fidelity, x, y and fidelity in 0..1, both to minimise.

    Irshad et al., "Expected hypervolume improvement for simultaneous multi-objective and multi-fidelity optimization",
    arXiv 2112.13901 (BoTorch's `MOMFBraninCurrin`).
    """
    missing = 1.0 - fidelity
    across, along = 15.0 * x - 5.0, 15.0 * y
    bend = 5.1 / (4.0 * math.pi**2) - 0.01 * missing
    slope = 5.0 / math.pi - 0.1 * missing
    swing = 10.0 * (1.0 - 1.0 / (8.0 * math.pi) - 0.05 * missing)
    branin = (along - bend * across**2 + slope * across - 6.0) ** 2 + swing * math.cos(across) + 10.0
    upper = 2300.0 * x**3 + 1900.0 * x**2 + 2092.0 * x + 60.0
    lower = 100.0 * x**3 + 500.0 * x**2 + 4.0 * x + 20.0
    currin = (1.0 - 0.1 * missing * math.exp(-0.5 / y)) * upper / lower
    return (branin - 21.0) / 22.0, (currin - 14.0) / 15.0


def points(seed: int) -> Problem:
    """Random points of the function."""
    drawn = 1.0 - np.random.default_rng(seed).random((POINTS, 2))  # above 0: the function divides by y
    candidates = [
        Candidate(tuple(branin_currin(x, y, share) for share in POINT_SHARES), branin_currin(x, y, 1.0))
        for x, y in drawn.tolist()
    ]
    return Problem(tuple(candidates), POINT_SHARES, (0, 1), (0.0, 0.0))


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    **{device: partial(detectors, device) for device in YOLOBENCH_DEVICES},
    "branin-currin": points,
}


@dataclass(frozen=True)
class Curve:
    """The hypervolume over the cost in full trainings, and which candidates passed the first rung."""

    cost: list[float]
    volume: list[float]
    passed: set[int]
    complete: int


def replay(problem: Problem, stopping: bool, retrained: bool = False, known: set[int] | None = None) -> Curve:
    """Train the candidates in their order, with early stopping or without; `known` alone go on, where it is given."""
    rungs, cost, done = Rungs(problem.uncertain), 0.0, list[int]()
    costs, complete, passed = list[float](), list[int](), set[int]()
    for index, one in enumerate(problem.candidates):
        before, going = 0.0, True
        for rung, share in enumerate(problem.shares if stopping else ()):
            cost += share if retrained else share - before
            before = share
            rungs.note(rung, index, one.rungs[rung])
            going = rungs.goes_on(rung, index) if known is None else index in known
            if not going:
                break
            passed.add(index)
        if going:
            cost += 1.0 if retrained else 1.0 - before
            done.append(index)
        costs.append(cost)
        complete.append(len(done))
    volumes = [0.0, *problem.volumes(done)]
    return Curve(costs, [volumes[count] for count in complete], passed, len(done))


def on_grid(curve: Curve) -> np.ndarray:
    """The hypervolume reached at each cost of GRID; the last one holds on."""
    at = np.searchsorted(curve.cost, GRID + 1e-9, side="right")
    return np.array([0.0, *curve.volume])[at]


def ratios(curves: Sequence[Curve], full: np.ndarray) -> dict[str, float | None]:
    """The cost at which the median curve is at each level's full trainings, as a share of them; None: never."""
    middle = np.median([on_grid(curve) for curve in curves], axis=0)
    found: dict[str, float | None] = {}
    for level in LEVELS:
        there = first_reaching(middle, full[level - 1])
        found[str(level)] = None if there is None else float(GRID[there - 1]) / level
    return found


def compare(name: str, make: Callable[[int], Problem], seeds: int) -> dict[str, Any]:
    """Both sides over paired orders of one problem."""
    problems = [make(seed) for seed in range(seeds)]
    full = np.median([replay(problem, False).volume for problem in problems], axis=0)
    fronts = [problem.front() for problem in problems]
    continued = [replay(problem, True) for problem in problems]
    anew = [replay(problem, True, retrained=True) for problem in problems]
    oracle = [replay(problem, True, known=front) for problem, front in zip(problems, fronts, strict=True)]
    pairs = list(zip(continued, fronts, strict=True))
    return {
        "problem": name,
        "candidates": len(problems[0].candidates),
        "true_front": fmean(map(len, fronts)),
        "continued": {"ratio": ratios(continued, full), "cost": fmean(curve.cost[-1] for curve in continued)},
        "retrained": {"ratio": ratios(anew, full), "cost": fmean(curve.cost[-1] for curve in anew)},
        "oracle": {"ratio": ratios(oracle, full), "cost": fmean(curve.cost[-1] for curve in oracle)},
        "front_past_rung_1": fmean(len(curve.passed & front) / len(front) for curve, front in pairs),
        "trained_to_the_end": fmean(curve.complete for curve in continued),
    }


def measure(options: argparse.Namespace) -> Outcome:
    """Replay every problem."""
    if not YOLOBENCH.is_file():
        sys.exit(f"skipped: {YOLOBENCH} is not there")
    found = [compare(name, make, 4 if options.quick else SEEDS) for name, make in PROBLEMS.items()]
    reached = [_ratio(row, "continued") for row in found]
    return Outcome(
        value=geometric_mean(reached),
        unit=f"of the cost of {LEVEL} full trainings, to reach their hypervolume",
        goal=GOAL,
        spread=spread(reached),
        detail={
            "quick": options.quick,
            "rung_sizes": RUNG_SIZES,
            "target_size": TARGET_SIZE,
            "oracle": geometric_mean([_ratio(row, "oracle") for row in found]),
            "problems": found,
        },
        table=[
            {
                "problem": row["problem"],
                f"cost at level {LEVEL}": _ratio(row, "continued"),
                "retrained": row["retrained"]["ratio"][str(LEVEL)] or float("inf"),
                "an oracle's": _ratio(row, "oracle"),
                "all of them": row["continued"]["cost"] / row["candidates"],
                "true front past rung 1": row["front_past_rung_1"],
            }
            for row in found
        ],
    )


def _ratio(row: Mapping[str, Any], side: str) -> float:
    """Where the level is never reached, all candidates were not enough."""
    reached = row[side]["ratio"][str(LEVEL)]
    return float(row[side]["cost"] / LEVEL if reached is None else reached)


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("multi_fidelity", __doc__ or "", measure, None, argv)


if __name__ == "__main__":
    main()
