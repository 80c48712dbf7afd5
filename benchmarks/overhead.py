"""What the framework itself costs: an empty trial on a warm worker against one on a worker of its own.

    python -m benchmarks.overhead [--quick] [--json] [--out]

Both go the whole way: sampler, Ray Tune, worker, trial record on disk, journal, events. Ray's own start is left out,
and so is the first trial of each warm search, which starts the worker. The cold design is what Ray Tune does by
default: an actor for every trial. Warm and cold searches take turns within the run, on one Ray.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from nasdistill.records import TrialResult
from nasdistill.search import runner
from nasdistill.search.budget import parse_budget
from nasdistill.search.cluster import start_ray
from nasdistill.search.events import SearchEvent, TrialFinished
from nasdistill.search.worker import TrialJob
from nasdistill.space.loader import load_space
from nasdistill.store.run_folder import RunFolder

GOAL_SECONDS = 0.15


class EmptyWorker:
    """Trains nothing: the result is made up from the trial's number, so that the sampler has something to rank."""

    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        accuracy = (job.trial * 7 % 10) / 10
        return TrialResult(
            trial=job.trial,
            state="complete",
            family=str(job.params["family"]),
            fidelity=1.0,
            map50=accuracy,
            map50_95=accuracy / 2,
            latency_ms=1.0 + job.trial % 5,
            epochs=1,
        )


def seconds_per_trial(trials: int, warm: bool) -> list[float]:
    """Seconds from the end of one trial to the end of the next, in a search with one worker."""
    ends: list[float] = []

    def on_event(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run")
        runner.run_search(
            load_space("edge-default"),
            EmptyWorker,
            run,
            parse_budget(f"{trials}trials"),
            on_event=on_event,
            warm_workers=warm,
        )
    return [after - before for before, after in itertools.pairwise(ends)]


def measure(options: argparse.Namespace) -> Outcome:
    rounds, warm_trials, cold_trials = (2, 31, 4) if options.quick else (4, 51, 6)
    warm: list[float] = []
    cold: list[float] = []
    with start_ray(1, gpus=0):
        for _ in range(rounds):
            warm += seconds_per_trial(warm_trials, warm=True)
            cold += seconds_per_trial(cold_trials, warm=False)
    figures, cold_figures = spread(warm), spread(cold)
    ratio = cold_figures["median"] / figures["median"]
    return Outcome(
        value=figures["median"],
        unit="s per empty trial on a warm worker",
        goal=Goal(GOAL_SECONDS),
        spread=figures,
        detail={"cold": cold_figures, "cold_over_warm": ratio, "longest_warm_s": max(warm), "rounds": rounds},
        table=[
            {"design": "warm worker", "median s": figures["median"], "worst s": max(warm), "trials": len(warm)},
            {
                "design": "worker per trial",
                "median s": cold_figures["median"],
                "worst s": max(cold),
                "trials": len(cold),
            },
            {"design": "ratio", "median s": ratio, "worst s": max(cold) / max(warm), "trials": ""},
        ],
    )


if __name__ == "__main__":
    run_benchmark("overhead", __doc__ or "", measure)
