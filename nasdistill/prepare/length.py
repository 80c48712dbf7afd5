"""How long a trial is: epochs that let a time budget hold a useful number of trials, from measured step times."""

import functools
import math
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nasdistill.config import MOST_EPOCHS, Recipe, TrainingSettings
from nasdistill.distill.compute import Compute, choose_compute, keep_freed_memory
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import LossWeights
from nasdistill.distill.stage import StageTraining, timing_stage
from nasdistill.prepare.pools import PoolPlan
from nasdistill.records import Scalar
from nasdistill.students.families import Lineage, build_student, lineage
from nasdistill.students.student import Student
from nasdistill.tasks import Report, Task

TIMED_STEPS = 5
TRIAL_OVERHEAD_S = 5.0  # building, pruning, exporting, scoring and timing a student
SHORTEST_S, LONGEST_S = 15.0, 900.0
# How many trials of middle size should fit into so many core seconds. More budget goes into longer trials rather than into
# more of them: in half an hour of two cores, twice the steps are worth more than the second half of the trials
# (docs/decisions.md). The sampler prefers smaller students where the budget is time, so half as many again are made.
SHORT_BUDGET, LONG_BUDGET = (600.0, 20.0), (3000.0, 10.0)
# Beyond, trials of (core seconds)^0.73 at most, until LONGEST_S
LENGTH_EXPONENT = 0.73
# That a trial has: where fewer whole ones fit, they are divided, so that rounding costs an eighth at most
FEWEST_EPOCHS = 4


def calibration_tasks(
    lineages: Sequence[Lineage],
    names: Sequence[str],
    channels: Sequence[int],
    pool: PoolPlan,
    training: TrainingSettings,
    workers: int,
) -> Sequence[Task[float]]:
    """Work that measures one distillation step of each lineage's middle member at the pool's size.

    Fewer lineages than workers are measured several times at once, since trials will run at once, too: the results are
    in the order of `lineages`, repeated.
    """
    repeats = -(-workers // len(lineages))
    tasks = [functools.partial(_time_step, line, tuple(names), tuple(channels), pool, training) for line in lineages]
    return tasks * repeats


def _time_step(
    line: Lineage,
    names: tuple[str, ...],
    channels: tuple[int, ...],
    pool: PoolPlan,
    training: TrainingSettings,
    report: Report,
) -> float:
    torch.set_num_threads(1)
    keep_freed_memory()
    compute = choose_compute(training.precision)
    student = build_student(line.family, line.archs[len(line.archs) // 2], names)
    return step_seconds(student, channels, pool.folders.feed(compute), compute, training.recipe)


def step_seconds(student: Student, channels: Sequence[int], feed: Feed, compute: Compute, recipe: Recipe) -> float:
    """Median seconds of a distillation step with everything free, on as many threads as torch now has.

    `channels` are the teacher's, by level. `student` changes: it is a copy that nothing else needs.
    """
    connectors = Connectors(student.pyramid_channels, channels)
    compute.place(student.model)
    compute.place(connectors)
    stage = timing_stage(1 + TIMED_STEPS, LossWeights(label=1.0), recipe)
    training = StageTraining(student, connectors, feed, stage, lambda progress: 2.0, compute, seed=0)
    seconds: list[float] = []
    for step in range(1, stage.steps + 1):
        started = time.perf_counter()
        training.run_to(step)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])  # the first step allocates


def wanted_seconds(core_seconds: float) -> float:
    """Core seconds that a trial of middle size should take of a budget."""
    budgets, numbers = zip(SHORT_BUDGET, LONG_BUDGET, strict=True)
    trials = float(np.interp(math.log(max(core_seconds, 1.0)), np.log(budgets), numbers))
    wanted: float = min(core_seconds**LENGTH_EXPONENT, core_seconds / trials)
    return min(max(wanted, SHORTEST_S), LONGEST_S)


def epochs_for(
    core_seconds: float,
    step_seconds: Mapping[str, float],
    timed_size: int,
    image_sizes: Sequence[int],
    steps_per_epoch: int,
) -> tuple[int, int]:
    """Epochs a trial, so that a typical one takes `wanted_seconds`.

    The second number is in how many parts the images of an epoch are divided for that, FEWEST_EPOCHS being the least.

    Typical is the geometric mean over lineages (a family of slow steps must not shorten all others' trials to nothing)
    at the mean area of the input sizes; `step_seconds` were measured at `timed_size`.
    """
    area = sum((size / timed_size) ** 2 for size in image_sizes) / len(image_sizes)
    step = statistics.geometric_mean(step_seconds.values()) * area
    steps = max(1.0, (wanted_seconds(core_seconds) - TRIAL_OVERHEAD_S) / step)
    parts = min(steps_per_epoch, math.ceil(FEWEST_EPOCHS * steps_per_epoch / steps))
    return min(MOST_EPOCHS, max(1, round(steps * parts / steps_per_epoch))), parts


def trial_seconds(
    params: Mapping[str, Scalar], step_seconds: Mapping[str, float], timed_size: int, steps_per_epoch: int, epochs: int
) -> float:
    """Expected seconds of a trial before it is run: its lineage's measured step, scaled by the input's area."""
    family = str(params["family"])
    arch = {name.removeprefix(f"{family}."): value for name, value in params.items() if name.startswith(f"{family}.")}
    area = (int(params["image_size"]) / timed_size) ** 2
    return TRIAL_OVERHEAD_S + epochs * steps_per_epoch * step_seconds[lineage(family, arch)] * area
