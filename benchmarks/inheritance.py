"""What a short trial scores from inherited weights, and from random ones.

    python -m benchmarks.inheritance --data ../shared/data/deeppcb/data.yaml --teacher ../shared/weights/pcb_teacher.pt
    python -m benchmarks.inheritance --quick      # on the embedded demo, seconds instead of minutes

Each family is warmed on one core with the seconds that a search of 30 minutes on 2 cores gives it (none to what is cut
from the teacher or has a pretrained backbone); then one student of
each is trained for 3 minutes of one core, from what it inherits and from random weights. Warming is limited by the clock,
as in a search, so the machine should be quiet: `core_share` in the detail says how much of its core a part had. Each
part's result is kept in `benchmarks/results/inheritance.partial.json` as it comes: the same command goes on where a
killed run ended.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks._harness import RESULTS, Goal, Outcome, run_benchmark, spread
from benchmarks._parts import Parts
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
from nasdistill.prepare.families import WarmPlan, supernets
from nasdistill.prepare.inputs import cache_folder
from nasdistill.prepare.length import TRIAL_OVERHEAD_S
from nasdistill.records import Scalar, TrialConfig
from nasdistill.session.preparation import WARM_SHARE
from nasdistill.students.families import lineage
from nasdistill.students.student import parameters_m
from nasdistill.workbench import Assets

STUDENTS: dict[str, dict[str, Scalar]] = {
    "yolov5": {"depth": 0.33, "width": 0.1875},
    "mobilenetv3": {"variant": "small_100", "neck": 48},
    "efficientnet_lite0": {"neck": 48},
}
GOALS = {family: Goal(0.5 if family == "yolov5" else 0.2, at_most=False) for family in STUDENTS}
SPACE = "edge-default"
PARTIAL = RESULTS / "inheritance.partial.json"


@dataclass(frozen=True)
class Lengths:
    """Core seconds of warming (all families together) and of a trial; input sizes that warming uses, the trial's first."""

    warming_s: float
    trial_s: float
    image_sizes: tuple[int, ...]
    views_per_image: int


WORKERS = 2
# what a search of 30 minutes on 2 cores spends on warming, at both sizes of the search space
FULL = Lengths(WARM_SHARE * 1800 * WORKERS, 180.0, (256, 320), 3)
QUICK = Lengths(12.0, TRIAL_OVERHEAD_S + 3.0, (128,), 1)


def warm_and_try(setting: Setting, lengths: Lengths, folder: Path, work: Path, parts: Parts) -> dict[str, Any]:
    """Warm the families and run the trials; for each family its student, `warmed`, `inherited` and `random`."""
    training = setting.training
    wanted = {lineage(family, arch) for family, arch in STUDENTS.items()}
    lines = [line for line in setting.inputs.lineages if line.name in wanted]
    plans = warm_plans(setting, lines, lengths.warming_s, WORKERS, folder)
    by_lineage = {plan.lineage.name: plan for plan in plans}
    found = {}
    for family, arch in STUDENTS.items():
        plan = by_lineage[lineage(family, arch)]
        warmed = parts.get(f"{family} warmed", partial(_warmed, setting, plan, folder))
        timed = parts.get(f"{family} timed", partial(_epochs, setting, family, arch, lengths))
        longer = training.model_copy(update={"epochs": timed["epochs"]})
        config = TrialConfig(family=family, arch=arch, image_size=lengths.image_sizes[0])
        trials = {}
        for start, nets in (("inherited", supernets([plan])), ("random", {})):
            assets = setting.assets(nets, longer)
            trials[start] = parts.get(f"{family} {start}", partial(_trial, config, assets, work / f"{family}-{start}"))
        found[family] = {
            "arch": arch,
            "params_m": round(parameters_m(setting.student(family, arch).model), 3),
            "goal": GOALS[family].limit,
            "trial": timed,
            "warmed": warmed,
            **trials,
        }
    return found


def _trial(config: TrialConfig, assets: Assets, folder: Path) -> dict[str, Any]:
    result = run_one_trial(config, assets, folder)
    return {"map50": result.map50, "map50_95": result.map50_95, "init": result.params["init"]}


def _warmed(setting: Setting, plan: WarmPlan, folder: Path) -> dict[str, Any]:
    done = warm(setting, plan, folder)
    facts = {"planned_s": plan.seconds, "from_teacher": plan.sliced}
    return {**facts, "steps": done.steps} if done else {**facts, "from_cache": True}


def _epochs(setting: Setting, family: str, arch: dict[str, Scalar], lengths: Lengths) -> dict[str, Any]:
    """Epochs that fit into the trial's seconds, from the core seconds of a step."""
    timer = distillation_timer(setting, family, arch, setting.training.precision, lengths.image_sizes[0])
    for turn in range(6):
        timer.step(seed=turn, keep=turn > 1)
    steps_per_epoch = setting.assets({}, setting.training).steps_per_epoch
    step_s = median(timer.spent_s)
    epochs = max(1, int((lengths.trial_s - TRIAL_OVERHEAD_S) / (step_s * steps_per_epoch)))
    return {"epochs": epochs, "step_s": round(step_s, 4), "steps": epochs * steps_per_epoch}


def measure(options: argparse.Namespace) -> Outcome:
    """Prepare, warm and try; with `--quick` in seconds, which shows that it works and says nothing about the goal."""
    torch.set_num_threads(1)
    lengths = QUICK if options.quick else FULL
    training = TrainingSettings(views_per_image=lengths.views_per_image)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else cache_folder()
        setting = open_setting(options.data, options.teacher, folder, training, lengths.image_sizes, SPACE)
        key = {
            "data": setting.inputs.data_hash,
            "teacher": setting.inputs.teacher.sha256,
            "lengths": asdict(lengths),
            "students": STUDENTS,
        }
        path = Path(temporary) / PARTIAL.name if options.quick else PARTIAL
        parts = Parts(path, key)
        found = warm_and_try(setting, lengths, folder, Path(temporary), parts)
    if options.quick:
        print("--quick shows that it works; it is far too short for the goals")
    for family, facts in found.items():
        score, goal = facts["inherited"]["map50"], GOALS[family]
        print(f"{family}: mAP50 {score:.3f}, goal {goal}: {'met' if goal.met_by(score) else 'MISSED'}")
    first = found["yolov5"]["inherited"]["map50"]
    return Outcome(
        value=first,
        unit="mAP50 of the YOLOv5 student that inherits",
        goal=GOALS["yolov5"],
        spread=spread([first]),
        detail={
            "quick": options.quick,
            "goals_met": {f: GOALS[f].met_by(facts["inherited"]["map50"]) for f, facts in found.items()},
            "families": found,
            "seconds_of_warming": lengths.warming_s,
            "seconds_of_a_trial": lengths.trial_s,
            "image_size": lengths.image_sizes[0],
            "data": setting.data_name,
            "teacher": setting.inputs.teacher.name,
            "note": "one trial each: mAP50 of repeated trials differs by some points",
        },
        table=[
            {
                "family": family,
                "M params": facts["params_m"],
                "inherited mAP50": facts["inherited"]["map50"],
                "mAP50-95": facts["inherited"]["map50_95"],
                "goal": facts["goal"],
                "random mAP50": facts["random"]["map50"],
                "core s": facts["inherited"]["core_s"],
                "core share": facts["inherited"]["core_share"],
            }
            for family, facts in found.items()
        ],
    )


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says; the kept parts go once the result is out."""
    return run_benchmark("inheritance", __doc__ or "", measure, add_input_arguments, argv, partial=PARTIAL)


if __name__ == "__main__":
    main()
