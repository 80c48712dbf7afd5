"""How much of the teacher a run's students keep: mAP, parameters and latency against the teacher's.

    python -m benchmarks.retention results/deeppcb-30m [--least-ratio 10] [--json] [--out]

Nothing is trained: the figures are those of a finished run, in which the teacher was exported, scored and timed as its
students were. Students trained for longer afterwards (`nasdistill train`) count as well. The figure is the share of the
teacher's mAP50-95 that the best student with at most a tenth of its parameters (`--least-ratio`) has. The field's claim is
90 % at a tenth of the parameters and 3 to 5 times the speed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from nasdistill.errors import InputError
from nasdistill.records import TrialResult
from nasdistill.report.teacher import teacher_of
from nasdistill.store.run_folder import RunFolder

GOAL = Goal(0.9, at_most=False)


def kept(result: TrialResult, teacher: dict[str, float]) -> dict[str, object]:
    """One student against the teacher: shares of mAP, and how many times smaller and faster it is."""
    assert result.map50 is not None and result.map50_95 is not None
    assert result.params_m is not None and result.latency_ms is not None
    return {
        "trial": result.trial,
        "student": result.family,
        "epochs": result.epochs,
        "of mAP50": result.map50 / teacher["map50"],
        "of mAP50-95": result.map50_95 / teacher["map50_95"],
        "times smaller": teacher["params_m"] / result.params_m,
        "times faster": teacher["latency_ms"] / result.latency_ms,
    }


def measure(options: argparse.Namespace) -> Outcome:
    """Read the run and compare."""
    run = RunFolder.open(options.run)
    facts = run.read_run()
    found = teacher_of(facts)
    measured = {name: getattr(found, name, None) for name in ("map50", "map50_95", "params_m", "latency_ms")}
    unknown = [name for name, value in measured.items() if not value]
    if unknown:
        raise InputError(f"{run.run_file}: says nothing of the teacher's {', '.join(unknown)}")
    teacher = {name: float(value) for name, value in measured.items() if value}
    students = [kept(result, teacher) for result in (*run.results(), *run.trained()) if result.state == "complete"]
    small = [row for row in students if float(str(row["times smaller"])) >= options.least_ratio]
    if not small:
        raise InputError(f"{options.run}: no student has at most 1/{options.least_ratio:g} of the teacher's parameters")
    shares = [float(str(row["of mAP50-95"])) for row in small]
    best = small[shares.index(max(shares))]
    return Outcome(
        value=max(shares),
        unit=f"of the teacher's mAP50-95 at 1/{options.least_ratio:g} of its parameters or less",
        goal=GOAL,
        spread=spread(shares),
        detail={"best": best, "teacher": teacher, "data": facts.get("data"), "budget": facts.get("budget")},
        table=sorted(students, key=lambda row: -float(str(row["of mAP50-95"]))),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and which students count."""
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument(
        "--least-ratio", type=float, default=10.0, help="teacher's parameters over a student's, at least"
    )


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("retention", "What students keep of their teacher.", measure, add_arguments, argv)


if __name__ == "__main__":
    main()
