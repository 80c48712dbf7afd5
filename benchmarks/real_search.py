"""The search's defaults against random search without early stopping: real trainings, the same minutes and cores.

    python -m benchmarks.real_search --data ../shared/data/deeppcb/data.yaml --teacher ../shared/weights/pcb_teacher.pt
    python -m benchmarks.real_search --quick           # two searches of three trials on the embedded demo

`nasdistill search --budget 30m` and the same with `--sampler random --scheduler none`, each seed of both one after the
other with nothing else running (of odd seeds random first), each with an empty cache: whatever a search spends comes out of
its own budget. Compared is the hypervolume of the two fronts of a seed (mAP50-95 against latency) in one box, 1.1 times the
mean of the teacher's latencies in both runs; in the detail also with each run's own teacher as its box. The run folders stay
in `--runs`: finished ones are not run again, one that was killed starts anew. Of a finished one `run.json` and `trials.csv`
are enough (results/real_search), so pairs may be made one by one, on different machines too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from benchmarks._training import add_input_arguments
from nasdistill.pareto.front import front
from nasdistill.pareto.hypervolume import MARGIN, Reference, hypervolume
from nasdistill.prepare.inputs import cache_folder
from nasdistill.report.teacher import teacher_of
from nasdistill.store.run_folder import RunFolder

GOAL = Goal(1.0, at_most=False)
SIDES = {"defaults": (), "random": ("--sampler", "random", "--scheduler", "none")}
QUICK = ("--budget", "3trials", "--epochs", "1", "--space", "demo")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Inputs, how long, how often, and where the runs are kept."""
    add_input_arguments(parser)
    parser.add_argument("--budget", default="30m", help="of each search [default: 30m]")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each kind [default: 3]")
    parser.add_argument("--runs", type=Path, help="folder of the runs [default: real_search in the cache]")


def measure(options: argparse.Namespace) -> Outcome:
    """Run what is missing, compare all."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else options.runs or cache_folder() / "real_search"
        inputs = [
            part
            for name in ("data", "teacher")
            if (given := getattr(options, name)) is not None
            for part in (f"--{name}", str(given))
        ]
        length = QUICK if options.quick else ("--budget", options.budget)
        runs: dict[str, list[RunFolder]] = {side: [] for side in SIDES}
        for seed in range(1 if options.quick else options.seeds):
            for side, choices in list(SIDES.items())[:: -1 if seed % 2 else 1]:
                search = [*inputs, *length, *choices, "--seed", str(seed)]
                runs[side].append(_finished(folder / f"{side}-{seed}", search))
        return _compared(runs)


def _finished(out: Path, search: Sequence[str]) -> RunFolder:
    """The run in `out`, searched now unless it is there and ended."""
    if (out / "run.json").is_file() and RunFolder.open(out).read_run().get("ended"):
        return RunFolder.open(out)
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [sys.executable, "-m", "nasdistill", "search", *search, "--out", str(out)],
            env={**os.environ, "NASDISTILL_CACHE": cache},
            stdout=sys.stderr,  # the benchmark's own figures come last on standard output
            check=True,
        )
    return RunFolder.open(out)


def _compared(runs: dict[str, list[RunFolder]]) -> Outcome:
    corners = [_corner(pair) for pair in zip(*runs.values(), strict=True)]
    rows = {
        side: [_figures(run, corner) for run, corner in zip(found, corners, strict=True)]
        for side, found in runs.items()
    }
    ratios, own = (
        [
            ours[volume] / max(theirs[volume], 1e-3)
            for ours, theirs in zip(rows["defaults"], rows["random"], strict=True)
        ]
        for volume in ("hypervolume", "hypervolume_own_box")
    )
    one = runs["defaults"][0].read_run()
    return Outcome(
        value=geometric_mean(ratios),
        unit="times the hypervolume of random search (geometric mean over pairs)",
        goal=GOAL,
        spread=spread(ratios),
        detail={
            "runs": rows,
            "ratios": ratios,
            "in_own_boxes": geometric_mean(own),
            "reference_ms": [corner.costs["latency_ms"] for corner in corners],
            "budget": one.get("budget"),
            "data": Path(str(one.get("data"))).parent.name,
        },
        table=[
            {
                "search": side,
                "seed": seed,
                "hypervolume": row["hypervolume"],
                "best mAP50-95": max(member["map50_95"] for member in row["front"]),
                "front": len(row["front"]),
                "trials": row["trials"],
            }
            for side, found in rows.items()
            for seed, row in enumerate(found)
        ],
    )


def _corner(pair: Sequence[RunFolder]) -> Reference:
    """The box of a pair of runs, from the teacher's latencies in both: a machine is not as fast in every half hour."""
    teachers = [teacher_of(run.read_run()) for run in pair]
    return Reference(latency_ms=MARGIN * mean(found.latency_ms for found in teachers if found and found.latency_ms))


def _figures(run: RunFolder, corner: Reference) -> dict[str, Any]:
    """A run's hypervolume, its complete trials, its front from fast to accurate, and when and where it was made."""
    kept = ("trial", "family", "map50", "map50_95", "latency_ms", "params_m", "epochs")
    results, facts = run.results(), run.read_run()
    return {
        "hypervolume": hypervolume(results, corner),
        "hypervolume_own_box": hypervolume(results, _corner([run])),
        "trials": sum(result.state == "complete" for result in results),
        "stopped": sum(result.state == "stopped" for result in results),
        "started": facts.get("started"),
        "teacher_ms": facts.get("teacher", {}).get("latency_ms"),
        "front": [member.model_dump(include=set(kept)) for member in front(results)],
    }


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("real_search", __doc__ or "", measure, add_arguments, argv)


if __name__ == "__main__":
    main()
