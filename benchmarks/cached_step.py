"""What a distillation step from the cache costs, against a plain training step and one with the teacher in it.

    python -m benchmarks.cached_step [--quick] [--json] [--out] [--data D --teacher T]

All three are steps of `StageTraining`, on the same views, the same student and one core, and take turns within the run.
The plain step trains on labels alone; the cached one adds the distillation losses (`--losses`), its targets read from the
cache; the online one adds the same losses, its targets from a forward pass of the teacher in the step. For the online
goal the teacher should have about ten times the student's parameters: DeepPCB's has 12 times the default student's. What
an online step costs depends on their sizes too: `cached_step_large` is the same with a teacher as large as people have.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks._harness import Goal, Outcome, paired_ratios, run_benchmark, spread
from benchmarks._losses import MIXES, Mix
from benchmarks._training import Setting, add_input_arguments, make_timer, open_setting
from nasdistill.config import TrainingSettings
from nasdistill.distill.compute import choose_compute
from nasdistill.distill.objective import LossWeights
from nasdistill.records import Scalar
from nasdistill.students.student import parameters_m

GOAL, ONLINE_GOAL = Goal(1.12), Goal(3.0, at_most=False)
FAMILY = "yolov5"
IMAGE_SIZE = 256
PLAIN = LossWeights(feature=0.0, cls=0.0, box=0.0, label=1.0)
WARM_UP = 2  # rounds


@dataclass(frozen=True)
class Timed:
    """One kind of step: milliseconds by the clock and of the processor, a number a round; the teacher's passes a step."""

    wall_ms: list[float]
    cpu_ms: list[float]
    teacher_passes: float


def time_steps(setting: Setting, arch: dict[str, Scalar], rounds: int, mix: Mix) -> dict[str, Timed]:
    """Time `rounds` rounds of a `plain`, a `cached` and an `online` step."""
    compute = choose_compute(setting.training.precision)
    teacher = setting.inputs.teacher
    kinds = {
        "plain": (setting.feed(with_targets=False), PLAIN),
        "cached": (setting.feed(), mix.weights),
        "online": (setting.online_feed(mix.form), mix.weights),
    }
    timers = {
        name: make_timer(setting, setting.student(FAMILY, arch), feed, weights, compute, mix.losses)
        for name, (feed, weights) in kinds.items()
    }
    passes = dict.fromkeys(timers, 0)
    names = list(timers)
    for turn in range(rounds + WARM_UP):
        first = turn % len(names)
        for name in names[first:] + names[:first]:  # nobody is always first
            before = teacher.forward_passes
            timers[name].step(seed=turn, keep=turn >= WARM_UP)
            passes[name] += teacher.forward_passes - before
    return {
        name: Timed([1000 * s for s in timer.wall_s], [1000 * s for s in timer.spent_s], passes[name] / timer.steps)
        for name, timer in timers.items()
    }


def measure(options: argparse.Namespace) -> Outcome:
    """Prepare a small pool, time the steps, and compare them."""
    torch.set_num_threads(1)
    rounds, views = (10, 64) if options.quick else (30, 256)
    mix = MIXES[options.losses]
    arch: dict[str, Scalar] = {"depth": options.depth, "width": options.width}
    training = TrainingSettings(views_per_image=1, max_views=views)
    with tempfile.TemporaryDirectory() as folder:
        setting = open_setting(options.data, options.teacher, Path(folder), training, [IMAGE_SIZE], form=mix.form)
        timed = time_steps(setting, arch, rounds, mix)
    plain, cached, online = timed["plain"], timed["cached"], timed["online"]
    ratio = paired_ratios(cached.wall_ms, plain.wall_ms)
    online_ratio = paired_ratios(online.wall_ms, cached.wall_ms)
    student_m = parameters_m(setting.student(FAMILY, arch).model)
    met = "met" if ONLINE_GOAL.met_by(online_ratio["median"]) else "MISSED"
    print(f"online / cached {online_ratio['median']:.2f}, goal {ONLINE_GOAL}: {met}")
    return Outcome(
        value=ratio["median"],
        unit="times a plain step",
        goal=GOAL,
        spread=ratio,
        detail={
            "losses": options.losses,
            "online_goal": str(ONLINE_GOAL),
            "online_goal_met": ONLINE_GOAL.met_by(online_ratio["median"]),
            "teacher_over_student_parameters": setting.inputs.teacher.parameters_m / student_m,
            "online_over_cached": online_ratio,
            "online_over_plain": paired_ratios(online.wall_ms, plain.wall_ms),
            "cached_over_plain_cpu": paired_ratios(cached.cpu_ms, plain.cpu_ms),
            "step_ms": {name: spread(kind.wall_ms) for name, kind in timed.items()},
            "teacher_passes_a_step": {name: kind.teacher_passes for name, kind in timed.items()},
            "teacher_passes_to_fill_the_cache": setting.target_passes,
            "student": {"family": FAMILY, **arch, "params_m": student_m},
            "teacher": {"name": setting.inputs.teacher.name, "params_m": setting.inputs.teacher.parameters_m},
            "data": setting.data_name,
            "image_size": IMAGE_SIZE,
            "batch_size": setting.training.recipe.batch_size,
            "precision": str(choose_compute(training.precision).autocast or torch.float32),
        },
        table=[
            {
                "step": name,
                "median ms": spread(kind.wall_ms)["median"],
                "cpu ms": spread(kind.cpu_ms)["median"],
                "/ plain": paired_ratios(kind.wall_ms, plain.wall_ms)["median"],
                "teacher passes a step": kind.teacher_passes,
            }
            for name, kind in timed.items()
        ],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The inputs, and the YOLOv5 student's depth and width."""
    add_input_arguments(parser)
    parser.add_argument("--depth", type=float, default=0.33)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--losses", choices=tuple(MIXES), default="default", help="which losses [default: default]")


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark(
        "cached_step", "A distillation step from the cache against a plain one.", measure, add_arguments, argv
    )


if __name__ == "__main__":
    main()
