"""What Muon is worth to a short trial: the same students by AdamW and by Muon, at equal time.

    python -m benchmarks.optimizers --data ../shared/data/deeppcb/data.yaml --teacher ../shared/weights/pcb_teacher.pt
    python -m benchmarks.optimizers --quick       # on the embedded demo, seconds instead of minutes

One student of each family, from the supernets that `inheritance_search` prepares, trained by AdamW at two rates and by Muon
in batches of two sizes, all else as the recipe `short` has it. Time is equal in core seconds: each arm makes the steps
that fit, by step times measured in turns. The figure is mAP50-95 by the recipe `short` itself over that of the better
AdamW, the geometric mean of the families. Each trial is kept in `benchmarks/results/optimizers.partial.json` as it comes: the
same command goes on where a killed run ended.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import torch

from benchmarks._harness import RESULTS, Goal, Outcome, run_benchmark, spread
from benchmarks._parts import Parts
from benchmarks._students import Job, run_jobs
from benchmarks._training import (
    DISTILLED,
    Setting,
    add_input_arguments,
    length_of,
    make_timer,
    open_setting,
    warm,
    warm_plans,
)
from nasdistill.config import SHORT, Recipe, TrainingSettings
from nasdistill.distill.compute import choose_compute
from nasdistill.prepare.families import supernets
from nasdistill.prepare.inputs import cache_folder
from nasdistill.prepare.length import TRIAL_OVERHEAD_S
from nasdistill.records import Scalar, TrialConfig
from nasdistill.students.families import lineage

GOAL = Goal(1.0, at_most=False)
STUDENTS: dict[str, dict[str, Scalar]] = {
    "yolov5": {"depth": 0.33, "width": 0.1875},
    "mobilenetv3": {"variant": "small_075", "neck": 48},
    "efficientnet_lite0": {"neck": 48},
}
# that of the recipe before, and the best of 2, 4, 5, 10 and 20 thousandths for YOLOv5; MobileNetV3 had more at 1e-2
ADAMW_RATES = (2e-3, 5e-3)
BATCH_SIZES = (16, 8)
SHORTS_ARM = f"muon, batches of {SHORT.batch_size}"
SPACE = "edge-default"
PARTIAL = RESULTS / "optimizers.partial.json"


def arms() -> dict[str, Recipe]:
    """The recipes by name; stage 1 has half the rate of stage 2 in all of them."""
    adamw = {
        f"adamw {rate:g}": SHORT.model_copy(
            update={
                "optimizer": "adamw",
                "batch_size": 16,
                "stage1_learning_rate": rate / 2,
                "stage2_learning_rate": rate,
                "sliced_rate_share": 1.0,
                "narrow_rate_share": None,
            }
        )
        for rate in ADAMW_RATES
    }
    return adamw | {f"muon, batches of {size}": SHORT.model_copy(update={"batch_size": size}) for size in BATCH_SIZES}


def measure(options: argparse.Namespace) -> Outcome:
    """Warm, time the steps, train every student by every recipe, compare."""
    torch.set_num_threads(1)
    quick = options.quick
    seconds, warming_s = (TRIAL_OVERHEAD_S + 4.0, 12.0) if quick else (options.seconds, options.warming_s)
    training = TrainingSettings(views_per_image=1 if quick else 3)
    names = list(STUDENTS)[:1] if quick else list(STUDENTS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if quick else cache_folder()
        setting = open_setting(options.data, options.teacher, folder, training, None, "demo" if quick else SPACE)
        size = min(setting.inputs.image_sizes)
        key = {
            "data": setting.inputs.data_hash,
            "teacher": setting.inputs.teacher.sha256,
            "seconds": [seconds, warming_s],
            "arms": {name: recipe.model_dump() for name, recipe in arms().items()},
            "students": STUDENTS,
        }
        parts = Parts(Path(temporary) / PARTIAL.name if quick else PARTIAL, key)
        _train_all(setting, names, size, seconds, warming_s, parts, options.processes, folder, Path(temporary))
    rows = [_row(parts, name) for name in names]
    best = [max(row[arm] for arm in arms() if arm.startswith("adamw")) for row in rows]
    ratios = [row[SHORTS_ARM] / adamw for row, adamw in zip(rows, best, strict=True)]
    return Outcome(
        value=geometric_mean(ratios),
        unit="times the mAP50-95 of the better AdamW at equal time",
        goal=GOAL,
        spread=spread(ratios),
        detail={
            "quick": quick,
            "seconds_a_trial": seconds,
            "students": {
                name: {arm: parts[f"{name} by {arm}"] for arm in arms()} | {"step_s": parts[f"{name} steps"]}
                for name in names
            },
            "data": setting.data_name,
            "teacher": setting.inputs.teacher.name,
            "image_size": size,
        },
        table=rows,
    )


def _train_all(
    setting: Setting,
    names: Sequence[str],
    size: int,
    seconds: float,
    warming_s: float,
    parts: Parts,
    processes: int,
    folder: Path,
    work: Path,
) -> None:
    wanted = {lineage(name, STUDENTS[name]) for name in names}
    lines = [line for line in setting.inputs.lineages if line.name in wanted]
    plans = warm_plans(setting, lines, warming_s, processes, folder)
    if any(f"{name} by {arm}" not in parts for name in names for arm in arms()):
        for plan in plans:
            warm(setting, plan, folder)
    jobs = {}
    for name in names:
        steps_s = parts.get(f"{name} steps", partial(_step_seconds, setting, name, size))
        for arm, recipe in arms().items():
            steps = max(2, int((seconds - TRIAL_OVERHEAD_S) / steps_s[arm]))
            epochs, images, _ = length_of(steps, recipe.batch_size)
            training = setting.training.model_copy(update={"recipe": recipe, "epochs": epochs})
            assets = setting.assets(supernets(plans), training, images_per_epoch=images)
            config = TrialConfig(family=name, arch=STUDENTS[name], image_size=size)
            jobs[f"{name} by {arm}"] = Job(config, assets, work / f"{name}-{arm}")
    run_jobs(parts, jobs, processes)


def _step_seconds(setting: Setting, name: str, size: int) -> dict[str, float]:
    """Core seconds of a step by each recipe, timed in turns."""
    compute, feed = choose_compute(setting.training.precision), setting.feed(image_size=size)
    timers = {
        arm: make_timer(setting, setting.student(name, STUDENTS[name]), feed, DISTILLED, compute, recipe=recipe)
        for arm, recipe in arms().items()
    }
    for turn in range(7):
        for timer in timers.values():
            timer.step(seed=turn, keep=turn > 0)
    return {arm: round(median(timer.spent_s), 4) for arm, timer in timers.items()}


def _row(parts: Parts, name: str) -> dict[str, Any]:
    return {"student": name, **{arm: parts[f"{name} by {arm}"]["map50_95"] for arm in arms()}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, on how many cores."""
    add_input_arguments(parser)
    parser.add_argument("--seconds", type=float, default=120.0, help="core seconds of a trial (default 120)")
    parser.add_argument("--warming-s", type=float, default=288.0, help="core seconds of warming (default 288)")
    parser.add_argument("--processes", type=int, default=2, help="trials side by side (default 2)")


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says; the kept parts go once the result is out."""
    return run_benchmark("optimizers", __doc__ or "", measure, add_arguments, argv, partial=PARTIAL)


if __name__ == "__main__":
    main()
