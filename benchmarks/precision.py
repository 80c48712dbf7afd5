"""How much faster a training step is in the precision that `auto` chooses (bfloat16 where the processor has it).

    python -m benchmarks.precision [--quick] [--json] [--out] [--data D --teacher T]

Distillation steps from the cache, one student of each family, on one core; float32 and `auto` take turns. Without
`--quick`, the same short trials are also run in both precisions, from the same inherited weights with two seeds, so that
the difference in mAP stands beside the difference that a seed makes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._harness import Goal, Outcome, paired_ratios, print_table, run_benchmark, spread
from benchmarks._training import (
    Setting,
    add_input_arguments,
    distillation_timer,
    open_setting,
    run_one_trial,
    warm,
    warm_plans,
)
from nasdistill.config import TrainingSettings
from nasdistill.distill.compute import choose_compute
from nasdistill.prepare.families import supernets
from nasdistill.records import Precision, Scalar, TrialConfig
from nasdistill.students.families import Lineage

GOAL = Goal(1.4, at_most=False)
IMAGE_SIZE, TRIAL_IMAGE_SIZE = 256, 192
STUDENTS: dict[str, dict[str, Scalar]] = {
    "yolov5": {"depth": 0.33, "width": 0.1875},
    "mobilenetv3": {"variant": "small_100", "neck": 48},
    "efficientnet_lite0": {"neck": 48},
}
PRECISIONS: tuple[Precision, ...] = ("float32", "auto")
WARM_UP = 2
TRIAL_FAMILY, TRIAL_EPOCHS, TRIAL_WARMING_S, TRIAL_SEEDS = "yolov5", 6, 30.0, (0, 1)


def time_steps(setting: Setting, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of `rounds` steps of each family's student in each precision, taking turns."""
    timed: dict[str, dict[str, list[float]]] = {}
    for family, arch in STUDENTS.items():
        timers = {precision: distillation_timer(setting, family, arch, precision) for precision in PRECISIONS}
        for turn in range(rounds + WARM_UP):
            order = PRECISIONS if turn % 2 else PRECISIONS[::-1]
            for precision in order:
                timers[precision].step(seed=turn, keep=turn >= WARM_UP)
        timed[family] = {precision: [1000 * s for s in timer.wall_s] for precision, timer in timers.items()}
    return timed


def run_trials(setting: Setting, folder: Path) -> list[dict[str, Any]]:
    """The same short trial in each precision and with each seed, all from the same warmed weights."""
    line = Lineage(TRIAL_FAMILY, TRIAL_FAMILY, (STUDENTS[TRIAL_FAMILY],))
    plans = warm_plans(setting, [line], TRIAL_WARMING_S, 1, folder)
    warm(setting, plans[0], folder)
    config = TrialConfig(family=TRIAL_FAMILY, arch=STUDENTS[TRIAL_FAMILY], image_size=setting.pools[0].image_size)
    rows = []
    for seed in TRIAL_SEEDS:
        for precision in PRECISIONS:
            training = setting.training.model_copy(
                update={"precision": precision, "seed": seed, "epochs": TRIAL_EPOCHS}
            )
            result = run_one_trial(config, setting.assets(supernets(plans), training), folder / f"{precision}-{seed}")
            rows.append(
                {
                    "precision": precision,
                    "seed": seed,
                    "map50": result.map50,
                    "map50_95": result.map50_95,
                    "seconds": round(result.seconds, 1),
                }
            )
    return rows


def measure(options: argparse.Namespace) -> Outcome:
    """Time the steps, then (unless `--quick`) run the trials."""
    torch.set_num_threads(1)
    rounds, views = (6, 64) if options.quick else (20, 256)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = TrainingSettings(views_per_image=1, max_views=views)
        setting = open_setting(options.data, options.teacher, folder, training, [IMAGE_SIZE])
        timed = time_steps(setting, rounds)
        trials: list[dict[str, Any]] = []
        if not options.quick:
            whole = open_setting(options.data, options.teacher, folder, TrainingSettings(), [TRIAL_IMAGE_SIZE])
            trials = run_trials(whole, folder / "trials")
    if trials:
        print_table(trials)
        print()
    # a round's geometric mean over the families; every round is one sample
    ratios = {family: paired_ratios(times["float32"], times["auto"]) for family, times in timed.items()}
    rounds_of = [[a / b for a, b in zip(times["float32"], times["auto"], strict=True)] for times in timed.values()]
    means = [statistics.geometric_mean(ratio) for ratio in zip(*rounds_of, strict=True)]
    return Outcome(
        value=statistics.geometric_mean([ratio["median"] for ratio in ratios.values()]),
        unit="times as fast as float32 (geometric mean over families)",
        goal=GOAL,
        spread=spread(means),
        detail={
            "auto": str(choose_compute("auto").autocast or torch.float32),
            "families": ratios,
            "step_ms": {f: {p: spread(values) for p, values in times.items()} for f, times in timed.items()},
            "students": STUDENTS,
            "accuracy": compare(trials),
            "trials": trials,
            "data": setting.data_name,
            "image_size": IMAGE_SIZE,
            "batch_size": setting.training.recipe.batch_size,
            "optimizer": setting.training.recipe.optimizer,
        },
        table=[
            {
                "family": family,
                "float32 ms": spread(times["float32"])["median"],
                "auto ms": spread(times["auto"])["median"],
                "faster": ratios[family]["median"],
            }
            for family, times in timed.items()
        ],
    )


def compare(trials: Sequence[dict[str, Any]]) -> dict[str, float]:
    """mAP50 of each precision, averaged over seeds; their difference beside the difference that a seed makes."""
    if not trials:
        return {}
    by = {(row["precision"], row["seed"]): row["map50"] for row in trials}
    mean = {p: statistics.mean(by[p, seed] for seed in TRIAL_SEEDS) for p in PRECISIONS}
    between_seeds = [max(v) - min(v) for p in PRECISIONS if (v := [by[p, seed] for seed in TRIAL_SEEDS])]
    return {
        **{f"map50_{precision}": value for precision, value in mean.items()},
        "difference": mean["auto"] - mean["float32"],
        "difference_between_seeds": statistics.mean(between_seeds),
    }


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("precision", __doc__ or "", measure, add_input_arguments, argv)


if __name__ == "__main__":
    main()
