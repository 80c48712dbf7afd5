"""Eight asynchronous workers against one, at equal evaluations: what is lost by not knowing the running trials' scores.

    python -m benchmarks.parallel_replay [--quick] [--json] [--out]

A virtual clock: a trial takes as long as its latency tells (larger networks train longer) with 20 % of noise; whenever
a worker is free the sampler is asked, with the others' trials running. Counted besides: points proposed twice, and
points that the table does not hold. The figure is the median over tables and seeds of parallel over sequential
hypervolume after the same number of finished evaluations.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys

import numpy as np
import optuna

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from benchmarks._replay import load_tables, shares, suggest
from benchmarks._tables import Table
from nasdistill.search import LatencyFirstSampler

WORKERS, EVALUATIONS, SEEDS, GOAL = 8, 64, 20, 0.9
COUNTS = (16, 32, 64)


def replay(table: Table, seed: int, workers: int, evaluations: int) -> tuple[list[tuple[float, float]], int, int]:
    """(score, latency) in the order of finishing, the number of duplicates and that of invalid points."""
    sampler = LatencyFirstSampler(table.space, table.latency, seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    clock = np.random.default_rng(seed)
    running: list[tuple[float, int, optuna.Trial, tuple[float, float]]] = []
    seen: set[tuple[tuple[str, object], ...]] = set()
    finished: list[tuple[float, float]] = []
    now, asked, duplicates, invalid = 0.0, 0, 0, 0
    while len(finished) < evaluations:
        while len(running) < workers and asked < evaluations:
            trial = study.ask()
            params = suggest(trial, table)
            asked += 1
            key = tuple(sorted(params.items()))
            duplicates += key in seen
            seen.add(key)
            if key not in table.points:
                invalid += 1
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            values = table.look_up(params)
            ends = now + math.sqrt(values[1]) * clock.lognormal(0.0, 0.2)
            heapq.heappush(running, (ends, trial.number, trial, values))
        if not running:
            break
        now, _, trial, values = heapq.heappop(running)
        study.tell(trial, values)
        finished.append(values)
    return finished, duplicates, invalid


def measure(options: argparse.Namespace) -> Outcome:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    tables, missing = load_tables()
    for line in missing:
        print(line)
    if not tables:
        sys.exit("no table is there: nothing to replay")
    seeds = 1 if options.quick else SEEDS
    duplicates = invalid = 0
    ratios: list[float] = []
    rows = []
    for table in tables:
        own: dict[int, list[float]] = {count: [] for count in COUNTS}
        for seed in range(seeds):
            alone, *counted = replay(table, seed, 1, EVALUATIONS)
            together, *more = replay(table, seed, WORKERS, EVALUATIONS)
            duplicates += counted[0] + more[0]
            invalid += counted[1] + more[1]
            one, many = shares(table, alone), shares(table, together)
            for count in COUNTS:
                own[count].append(float(many[count - 1] / one[count - 1]))
        ratios += own[EVALUATIONS]
        rows.append(
            {"table": table.name}
            | {f"at {count}": float(np.median(own[count])) for count in COUNTS}
            | {f"worst at {EVALUATIONS}": min(own[EVALUATIONS])}
        )
    return Outcome(
        value=float(np.median(ratios)),
        unit=f"of the sequential hypervolume with {WORKERS} workers, at {EVALUATIONS} evaluations",
        goal=Goal(GOAL, at_most=False),
        spread=spread(ratios),
        detail={
            "worst": min(ratios),
            "duplicates": duplicates,
            "invalid": invalid,
            "seeds": seeds,
            "tables": rows,
            "skipped": missing,
        },
        table=rows,
    )


if __name__ == "__main__":
    run_benchmark("parallel_replay", __doc__ or "", measure)
