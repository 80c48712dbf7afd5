"""Milliseconds that keeping one trial costs: its result in the run folder and its two entries in the study.

    python -m benchmarks.storage_time [--quick] [--json] [--out]

What a search does for each trial, in its order and with its own code, up to 500 trials: the study hears that the trial runs,
the result is written to a file of its own and synced to the disk, the study hears the outcome. The figure is the median of
the last hundred, so that one that grows with the number of trials would show.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import optuna

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from nasdistill.pareto.objectives import LATENCY_MS, MAP50_95
from nasdistill.records import TrialResult
from nasdistill.search.distributions import point_of
from nasdistill.search.journal_file import JOURNAL_NAME, open_journal_file
from nasdistill.search.reconcile import directions_of
from nasdistill.space.loader import load_space
from nasdistill.store.run_folder import RunFolder

TRIALS, LAST, GOAL_MS = 500, 100, 10.0


def measure(options: argparse.Namespace) -> Outcome:
    """Write trials, and time each one's writes."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, rng = load_space("edge-default"), random.Random(0)
    count = 40 if options.quick else TRIALS
    milliseconds: list[float] = []
    parts: dict[str, list[float]] = {"study: begins": [], "result": [], "study: ends": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        run = RunFolder.create(Path(name) / "run")
        journal = open_journal_file(run.path / JOURNAL_NAME, directions_of((MAP50_95, LATENCY_MS)))
        for number in range(count):
            found = point_of(space, space.sample(rng))
            assert found is not None
            params, distributions = found
            result = TrialResult(
                trial=number,
                state="complete",
                family=str(params["family"]),
                fidelity=1.0,
                map50=0.5,
                map50_95=0.3,
                latency_ms=5.0,
                params=params,
            )
            marks = [time.perf_counter()]
            trial = journal.start(params, distributions, {"trial": number}, {})
            marks.append(time.perf_counter())
            run.write_trial(result)
            marks.append(time.perf_counter())
            journal.finish(trial, [0.3, 5.0])
            marks.append(time.perf_counter())
            for part, (begin, end) in zip(parts, pairwise(marks), strict=True):
                parts[part].append((end - begin) * 1e3)
            milliseconds.append((marks[-1] - marks[0]) * 1e3)
    last = min(LAST, count)
    figures = spread(milliseconds[-last:])
    rows: list[dict[str, object]] = [
        {"what": part, "ms": spread(some[-last:])["median"]} for part, some in parts.items()
    ]
    return Outcome(
        value=figures["median"],
        unit=f"ms a trial, the last {last} of {count}",
        goal=Goal(GOAL_MS),
        spread=figures,
        detail={"first": spread(milliseconds[:last]), "parts": rows},
        table=rows,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the run folder is."""
    parser.add_argument("--folder", type=Path, help="on which disk [default: the temporary folder's]")


if __name__ == "__main__":
    run_benchmark("storage_time", __doc__ or "", measure, add_arguments)
