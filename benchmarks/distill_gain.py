"""What distillation is worth: the same student from the same weights, distilled or trained on labels alone, at equal time.

    python -m benchmarks.distill_gain --data ../shared/data/deeppcb/data.yaml --teacher ../shared/weights/pcb_teacher.pt
    python -m benchmarks.distill_gain … --minutes 30 --charge whole --losses default     # one long training, cache included
    python -m benchmarks.distill_gain … --steps 1400 --losses default_better  # equal steps, whatever they cost
    python -m benchmarks.distill_gain --quick      # on the embedded demo, seconds instead of minutes

Every mix of losses is compared with labels alone over paired seeds: same starting weights (the teacher's own channels, cut,
and not fitted to what it says as a search's are: that is distillation too), same batches to begin with. Time is equal in core
seconds (where there is a GPU: in seconds of it, by the clock): each arm makes the steps that fit, by step times measured in
turns beforehand (at the pace of the first measurement, whatever the machine did since); filling the cache is charged to the
distilled arm, whole or divided by the 12 trials of a search that share it.
Each trial is kept in `benchmarks/results/distill_gain.partial.json` as it ends: the same command goes on where a killed run
ended, until the result is out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks._harness import RESULTS, Goal, Outcome, run_benchmark, spread
from benchmarks._losses import LABELS, MIXES, Mix
from benchmarks._parts import Parts
from benchmarks._students import Job, run_jobs
from benchmarks._training import MOST_VIEWS, Setting, add_input_arguments, length_of, make_timer, open_setting, spent
from nasdistill.config import RECIPES, TrainingSettings
from nasdistill.distill.compute import choose_compute
from nasdistill.prepare.families import in_data_order
from nasdistill.prepare.inputs import cache_folder
from nasdistill.prepare.length import TRIAL_OVERHEAD_S
from nasdistill.records import Scalar
from nasdistill.students.families import lineage
from nasdistill.students.importance import sorted_by_importance
from nasdistill.students.slicing import transplant
from nasdistill.students.student import parameters_m
from nasdistill.workbench import FROM_TEACHER, SupernetFile

FAMILY = "yolov5"
PARTIAL = RESULTS / "distill_gain.partial.json"
SHARED_BY = 12  # trials of a search that read one cache
GOALS = {"shared": Goal(0.03, at_most=False), "whole": Goal(0.01, at_most=False)}
AT_EQUAL_STEPS = Goal(0.0, at_most=False)
# two-sided 95 % quantiles of Student's t by degrees of freedom
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % interval (Student's t); one pair has no interval but itself."""
    mean, pairs = statistics.fmean(differences), len(differences)
    if pairs < 2:
        return mean, mean, mean
    quantile = T95[pairs - 2] if pairs - 2 < len(T95) else 2.1
    half = quantile * statistics.stdev(differences) / pairs**0.5
    return mean, mean - half, mean + half


def starting_weights(setting: Setting, arch: Mapping[str, Scalar], folder: Path) -> SupernetFile:
    """The student filled with the teacher's most important channels where they fit, in a file."""
    student = setting.student(FAMILY, arch)
    inputs = setting.inputs
    share = transplant(in_data_order(sorted_by_importance(inputs.teacher.model), inputs.class_order), student.model)
    path = folder / "start.safetensors"
    save_file({name: tensor.detach().contiguous() for name, tensor in student.model.state_dict().items()}, path)
    return SupernetFile(path, dict(arch), FROM_TEACHER if share > 0 else "random")


def step_seconds(setting: Setting, arch: Mapping[str, Scalar], mix: Mix, rounds: int) -> tuple[float, float]:
    """Median core seconds of a step on labels alone and of one with `mix`, taken in turns."""
    compute = choose_compute(setting.training.precision)
    timers = [
        make_timer(setting, setting.student(FAMILY, arch), setting.feed(with_targets=False), LABELS.weights, compute),
        make_timer(setting, setting.student(FAMILY, arch), setting.feed(), mix.weights, compute, mix.losses),
    ]
    for turn in range(rounds + 2):
        for timer in timers if turn % 2 else reversed(timers):
            timer.step(seed=turn, keep=turn >= 2)
    first, second = (statistics.median(timer.spent_s) for timer in timers)
    return first, second


def measure(options: argparse.Namespace) -> Outcome:
    """Run what is not there yet, `--workers` trials side by side, and compare."""
    torch.set_num_threads(1)
    names = options.losses or (["default"] if options.quick else list(MIXES))
    seeds = range(options.first_seed, options.first_seed + (1 if options.quick else options.seeds))
    arch: dict[str, Scalar] = {"depth": options.depth, "width": options.width}
    rows: list[dict[str, object]] = []
    gains: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            compared = _compare(name, options, arch, seeds, Path(work))
            mean, low, high = interval(compared.gains)
            cost = compared.cost
            rows.append(
                {
                    "losses": name,
                    "gain": mean,
                    "low": low,
                    "high": high,
                    "labels alone": statistics.fmean(compared.labels),
                    "step / plain": cost["step_s"] / cost["plain_step_s"],
                    "steps": compared.steps,
                }
            )
            gains = gains or compared.gains
    setting = compared.setting
    return Outcome(
        value=statistics.fmean(gains),
        unit=f"mAP50-95 gained by {names[0]} over labels alone, mean of {len(seeds)} paired seeds",
        goal=GOALS[options.charge] if options.steps is None else AT_EQUAL_STEPS,
        spread=spread(gains),
        detail={
            "mixes": rows,
            "interval_95": interval(gains)[1:],
            "gains": gains,
            "seeds": list(seeds),
            **_length(options),
            "student": {"family": FAMILY, **arch, "params_m": parameters_m(setting.student(FAMILY, arch).model)},
            "teacher": {"name": setting.inputs.teacher.name, "params_m": setting.inputs.teacher.parameters_m},
            "data": setting.data_name,
            "views_per_image": options.views_per_image,
            "image_size": _image_size(options),
            "recipe": options.recipe,
            "quick": options.quick,
        },
        table=rows,
    )


@dataclass(frozen=True)
class _Compared:
    """A mix against labels alone, a value for each seed."""

    setting: Setting
    cost: Mapping[str, float]
    steps: int
    """Of the distilled arm."""
    labels: list[float]
    gains: list[float]


def _compare(name: str, options: argparse.Namespace, arch: Mapping[str, Scalar], seeds: range, work: Path) -> _Compared:
    """Both arms of one mix, from the parts that are kept and the trials that are missing."""
    mix, quick = MIXES[name], options.quick
    training = TrainingSettings(
        recipe=RECIPES[options.recipe],
        views_per_image=options.views_per_image,
        max_views=64 if quick else MOST_VIEWS,
    )
    size = _image_size(options)
    setting = open_setting(
        options.data, options.teacher, work if quick else cache_folder(), training, [size], form=mix.form
    )
    training = setting.training
    key = {
        "data": setting.inputs.data_hash,
        "teacher": setting.inputs.teacher.sha256,
        "arch": arch,
        "size": size,
        "seconds": _seconds(options),
        "steps": options.steps,
        "views_per_image": training.views_per_image,
        "recipe": training.recipe.model_dump(),
    }
    parts = Parts(work / PARTIAL.name if quick else PARTIAL, key)
    cost = parts.get(f"cost {name}", partial(cost_of, setting, arch, mix, quick))
    baseline = parts.get("plain step", partial(_plain_step, cost))
    cost = at_pace(cost, baseline["plain_step_s"])
    charged = cost["cache_core_s"] / (1 if options.charge == "whole" else SHARED_BY)
    start = starting_weights(setting, arch, work)

    jobs: dict[str, Job] = {}
    scores: dict[str, list[str]] = {"labels": [], name: []}
    for seed in seeds:
        for arm, each, step_s, own_s in (
            ("labels", LABELS, cost["plain_step_s"], 0.0),
            (name, mix, cost["step_s"], charged),
        ):
            steps = options.steps or max(2, int((_seconds(options) - TRIAL_OVERHEAD_S - own_s) / step_s))
            epochs, images, steps = length_of(steps, training.recipe.batch_size)
            own = training.model_copy(update={"epochs": epochs, "seed": seed})
            assets = setting.assets({lineage(FAMILY, arch): start}, own, images_per_epoch=images)
            trial = f"{arm} seed {seed}" if arm == "labels" else f"{arm} {options.charge} seed {seed}"
            jobs[trial] = Job(each.config(family=FAMILY, arch=arch, image_size=size), assets, work / trial)
            scores[arm].append(trial)
    run_jobs(parts, jobs, options.workers)
    labels, distilled = ([float(parts[trial]["map50_95"]) for trial in scores[arm]] for arm in ("labels", name))
    return _Compared(setting, cost, steps, labels, [a - b for a, b in zip(distilled, labels, strict=True)])


def _seconds(options: argparse.Namespace) -> float:
    """Core seconds of a trial, all in."""
    return TRIAL_OVERHEAD_S + 4.0 if options.quick else 60.0 * options.minutes


def _length(options: argparse.Namespace) -> dict[str, object]:
    """How long each arm trains, as the result tells it."""
    if options.steps is not None:
        return {"steps_a_trial": options.steps}
    return {"seconds_a_trial": _seconds(options), "cache_charged": options.charge}


def _image_size(options: argparse.Namespace) -> int:
    return 128 if options.quick else int(options.image_size)


def at_pace(cost: Mapping[str, float], plain_step_s: float) -> dict[str, float]:
    """The same costs on a machine as quick as when a plain step took `plain_step_s`.

    Other work beside the benchmark makes every core second longer. Plain steps are timed in turns with all others, so that
    they tell by how much, and one baseline for all mixes gives labels alone no more steps than their due.
    """
    pace = plain_step_s / cost["plain_step_s"]
    return {name: cost[name] * pace for name in ("plain_step_s", "step_s", "cache_core_s")}


def _plain_step(cost: Mapping[str, float]) -> dict[str, float]:
    return {"plain_step_s": cost["plain_step_s"]}


def cost_of(setting: Setting, arch: Mapping[str, Scalar], mix: Mix, quick: bool) -> dict[str, float]:
    """Core seconds of a step of each arm and of the cache; a cache that was there is timed by some of its passes."""
    plain_s, step_s = step_seconds(setting, arch, mix, 3 if quick else 45)
    cache_s = setting.target_core_s
    if not setting.target_passes:
        feed, compute = setting.online_feed(mix.form), choose_compute(setting.training.precision)
        started, views = spent(compute), 0
        for indices in feed.indices(5, 16, seed=0):
            assert feed.targets is not None
            feed.targets.batch(indices)
            views += len(indices)
        cache_s = (spent(compute) - started) / views * len(feed.views)
    return {"plain_step_s": plain_s, "step_s": step_s, "cache_core_s": cache_s}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The inputs, the student, the length and what is compared."""
    add_input_arguments(parser)
    parser.add_argument("--losses", nargs="+", choices=tuple(MIXES), help="which mixes [default: all]")
    parser.add_argument("--seeds", type=int, default=5, help="paired seeds [default: 5]")
    parser.add_argument(
        "--first-seed", type=int, default=0, help="where an earlier result has the seeds before [default: 0]"
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="core minutes of a trial [default: 2]")
    parser.add_argument("--steps", type=int, help="of both arms, instead of --minutes and --charge")
    parser.add_argument("--charge", choices=tuple(GOALS), default="shared", help="who pays for the cache")
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="short")
    parser.add_argument("--depth", type=float, default=0.33)
    parser.add_argument("--width", type=float, default=0.15625)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--views-per-image", type=int, default=3, help="of both arms [default: 3]")
    parser.add_argument("--workers", type=int, default=1, help="trials side by side, a core each [default: 1]")


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says; the kept parts go once the result is out."""
    return run_benchmark(
        "distill_gain", "Distillation against labels alone.", measure, add_arguments, argv, partial=PARTIAL
    )


if __name__ == "__main__":
    main()
