"""The hypervolume of 10,000 points, as a multiple of what moocore alone takes for them.

    python -m benchmarks.hypervolume_time [--quick] [--json] [--out]

Points of two and of three objectives, random in the box, a tenth of them beyond it. Both sides get the same array and take
turns; the figure is the larger of the two medians of the ratio. That of whole results (10,000 `TrialResult`s, whose figures
have to be read one by one) is in the detail.
"""

from __future__ import annotations

import argparse
import time

import moocore
import numpy as np

from benchmarks._harness import Goal, Outcome, paired_ratios, run_benchmark, spread
from nasdistill.pareto.hypervolume import Reference, hypervolume, share_of_box
from nasdistill.records import TrialResult

POINTS, GOAL = 10_000, Goal(1.5)


def measure(options: argparse.Namespace) -> Outcome:
    """Time both, in turns."""
    rng, rounds = np.random.default_rng(0), 5 if options.quick else 31
    ratios, rows = [], []
    for objectives in (2, 3):
        points = rng.uniform(0.0, 1.1, (POINTS, objectives))
        corner = np.ones(objectives)
        ours, theirs = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            share = share_of_box(points, corner, 1.0)
            between = time.perf_counter()
            plain = moocore.hypervolume(points, ref=corner)
            theirs.append(time.perf_counter() - between)
            ours.append(between - began)
            assert abs(share - plain) < 1e-12
        ratios.append(paired_ratios(ours, theirs))
        rows.append(
            {"objectives": objectives, "ms": 1e3 * spread(ours)["median"], "moocore ms": 1e3 * spread(theirs)["median"]}
        )
    results = [
        TrialResult(trial=i, state="complete", family="a", fidelity=1.0, map50=a, map50_95=a, latency_ms=b)
        for i, (a, b) in enumerate(rng.uniform(0.01, 1.0, (POINTS, 2)).tolist())
    ]
    began = time.perf_counter()
    hypervolume(results, Reference(latency_ms=1.0))
    worst = max(ratios, key=lambda ratio: ratio["median"])
    return Outcome(
        value=worst["median"],
        unit=f"times moocore's time for {POINTS} points",
        goal=GOAL,
        spread=worst,
        detail={"by_objectives": rows, "of_results_ms": 1e3 * (time.perf_counter() - began)},
        table=rows,
    )


if __name__ == "__main__":
    run_benchmark("hypervolume_time", __doc__ or "", measure)
