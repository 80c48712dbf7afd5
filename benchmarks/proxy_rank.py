"""Whether a short trial tells the truth: students ranked by a short trial, and by one that trains 8 times as long.

    python -m benchmarks.proxy_rank --data ../shared/data/deeppcb/data.yaml --teacher ../shared/weights/pcb_teacher.pt
    python -m benchmarks.proxy_rank --quick       # on the embedded demo, tiny: it shows that it works

Twelve students of all families of the space, drawn at random with their recipes, start from the same weights in both
trainings. Kendall's tau of their mAP50-95 (and mAP50) says how well the short ranking agrees with the long one. With
--out the scatter plot is written beside the result. Each trial is kept as it comes in
`benchmarks/results/proxy_rank.partial.json`: the same command goes on where a killed run ended.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from scipy.stats import kendalltau

from benchmarks._harness import RESULTS, Goal, Outcome, run_benchmark, spread
from benchmarks._parts import Parts
from benchmarks._students import Job, draw_students, facts, lineages_of, run_jobs, step_seconds
from benchmarks._training import Setting, add_input_arguments, open_setting, warm, warm_plans
from nasdistill.config import TrainingSettings
from nasdistill.prepare.families import supernets
from nasdistill.prepare.inputs import cache_folder
from nasdistill.session.preparation import WARM_SHARE

FACTOR = 8
GOAL = Goal(0.7, at_most=False)
SPACE = "edge-default"
PARTIAL = RESULTS / "proxy_rank.partial.json"
PLOT = RESULTS / "proxy_rank.svg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many students, how long, on how many cores."""
    add_input_arguments(parser)
    parser.add_argument("--students", type=int, default=12, help="how many (default 12)")
    parser.add_argument("--epochs", type=int, default=2, help="of a short trial (default 2)")
    parser.add_argument("--processes", type=int, default=2, help="trials side by side (default 2)")
    parser.add_argument(
        "--warming-s", type=float, help="core seconds of warming (default: a quarter of the short trials)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawn students (default 0)")


def measure(options: argparse.Namespace) -> Outcome:
    """Warm, train every student twice, compare the rankings."""
    torch.set_num_threads(1)
    students = 4 if options.quick else options.students
    training = TrainingSettings(
        views_per_image=1 if options.quick else 3, epochs=1 if options.quick else options.epochs
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else cache_folder()
        space = "demo" if options.quick else SPACE
        setting = open_setting(options.data, options.teacher, folder, training, None, space)
        configs = draw_students(setting.inputs.space, students, options.seed)
        key = {
            "data": setting.inputs.data_hash,
            "teacher": setting.inputs.teacher.sha256,
            "epochs": training.epochs,
            "warming": options.warming_s,
            "students": [facts(config) for config in configs],
        }
        parts = Parts(Path(temporary) / PARTIAL.name if options.quick else PARTIAL, key)
        rows = _train_all(setting, configs, parts, options, folder, Path(temporary))
    tau = {name: _tau(rows, name) for name in ("map50_95", "map50")}
    if options.out:
        _plot(rows, tau["map50_95"])
    value = tau["map50_95"]
    return Outcome(
        value=value,
        unit="Kendall's tau of mAP50-95, short against long",
        goal=GOAL,
        spread=spread([value]),
        detail={
            "quick": options.quick,
            "tau": tau,
            "students": rows,
            "epochs": training.epochs,
            "factor": FACTOR,
            "data": setting.data_name,
            "teacher": setting.inputs.teacher.name,
        },
        table=[
            {
                "family": row["family"],
                "px": row["params"]["image_size"],
                "M params": row["params_m"],
                "short mAP50-95": row["short"]["map50_95"],
                "long mAP50-95": row["long"]["map50_95"],
                "short core s": row["short"]["core_s"],
                "long core s": row["long"]["core_s"],
            }
            for row in rows
        ],
    )


def _train_all(
    setting: Setting, configs: Sequence[Any], parts: Parts, options: argparse.Namespace, cache: Path, work: Path
) -> list[dict[str, Any]]:
    training = setting.training
    lines = [line for line in setting.inputs.lineages if line.name in lineages_of(configs)]
    warming_s = options.warming_s
    if warming_s is None:
        steps = setting.assets({}, training).steps_per_epoch * training.epochs
        timed = [parts.get(f"step {i}", partial(step_seconds, setting, c))["step_s"] for i, c in enumerate(configs)]
        # as in a search, where a fifth of the time goes into warming and the rest into trials
        warming_s = WARM_SHARE / (1 - WARM_SHARE) * geometric_mean(timed) * len(configs) * steps
        print(f"warming takes {warming_s:.0f} core seconds", flush=True)
    plans = warm_plans(setting, lines, warming_s, options.processes, cache)
    for plan in plans:
        warm(setting, plan, cache)
    longer = training.model_copy(update={"epochs": training.epochs * FACTOR})
    jobs = {}
    for length, settings in (("short", training), ("long", longer)):
        assets = setting.assets(supernets(plans), settings)
        jobs |= {f"{length} {i}": Job(c, assets, work / f"{length}-{i}") for i, c in enumerate(configs)}
    run_jobs(parts, jobs, options.processes)
    return [
        {
            "family": config.family,
            "params_m": parts[f"short {i}"]["params_m"],
            "params": facts(config),
            "short": parts[f"short {i}"],
            "long": parts[f"long {i}"],
        }
        for i, config in enumerate(configs)
    ]


def _tau(rows: Sequence[dict[str, Any]], metric: str) -> float:
    found = kendalltau([row["short"][metric] for row in rows], [row["long"][metric] for row in rows]).statistic
    return float(found)


def _plot(rows: Sequence[dict[str, Any]], tau: float) -> None:
    """The scatter plot: a point a student, coloured by family."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.5, 4.5))
    for family in sorted({row["family"] for row in rows}):
        own = [row for row in rows if row["family"] == family]
        axes.scatter([r["short"]["map50_95"] for r in own], [r["long"]["map50_95"] for r in own], label=family)
    axes.set_xlabel("mAP50-95 after a short trial")
    axes.set_ylabel(f"mAP50-95 after {FACTOR} times the training")
    axes.set_title(f"{len(rows)} students, Kendall's tau {tau:.2f}")
    axes.legend()
    figure.tight_layout()
    figure.savefig(PLOT)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says; the kept parts go once the result is out."""
    return run_benchmark("proxy_rank", __doc__ or "", measure, add_arguments, argv, partial=PARTIAL)


if __name__ == "__main__":
    main()
