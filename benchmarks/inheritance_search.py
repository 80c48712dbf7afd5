"""Whether inheriting pays in a whole search: the same students from warmed supernets and from random weights.

    python -m benchmarks.inheritance_search --data ../shared/data/deeppcb/data.yaml \\
        --teacher ../shared/weights/pcb_teacher.pt --minutes 12 [--trials-of results/deeppcb-30m]
    python -m benchmarks.inheritance_search --quick    # on the embedded demo, tiny: it shows that it works

Both sides have the same core seconds for the same twelve students. One spends up to a fifth of them on warming the families
that are neither cut from the teacher nor have a pretrained backbone, the other trains every student that many steps longer.
Compared are the median trial's mAP50 and the front's hypervolume. The students are drawn at random, families in turn, or
(`--trials-of`) they are the first trials that a real search made. A student has the same latency on both sides, taken from
one file when nothing else runs.
Each trial is kept as it comes in `benchmarks/results/inheritance_search.partial.json`: the same command goes on where a
killed run ended.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks._harness import RESULTS, Goal, Outcome, run_benchmark, spread
from benchmarks._parts import Parts
from benchmarks._students import Job, draw_students, facts, lineages_of, run_jobs, step_seconds, steps_within
from benchmarks._training import Setting, add_input_arguments, length_of, open_setting, warm, warm_plans
from nasdistill.config import TrainingSettings
from nasdistill.devices.profiler import open_profiler
from nasdistill.errors import InputError
from nasdistill.pareto.hypervolume import default_reference, hypervolume
from nasdistill.prepare.families import WarmPlan, supernets
from nasdistill.prepare.inputs import cache_folder
from nasdistill.records import TrialConfig, TrialResult
from nasdistill.session.preparation import WARM_SHARE
from nasdistill.space.search_space import SearchSpace
from nasdistill.store.run_folder import RunFolder
from nasdistill.worker import searched

GOAL = Goal(3.0, at_most=False)
SPACE = "edge-default"
PARTIAL = RESULTS / "inheritance_search.partial.json"
SIDES = ("inherited", "random")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many students, how long, on how many cores."""
    add_input_arguments(parser)
    parser.add_argument("--students", type=int, default=12, help="how many (default 12)")
    parser.add_argument("--minutes", type=float, default=12.0, help="of each side, all cores (default 12)")
    parser.add_argument("--processes", type=int, default=2, help="trials side by side (default 2)")
    parser.add_argument(
        "--trials-of", type=Path, help="a run, whose first trials are the students, in the space it was started with"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the drawn students (default 0)")


def measure(options: argparse.Namespace) -> Outcome:
    """Warm, train every student on both sides, compare."""
    torch.set_num_threads(1)
    students = 3 if options.quick else options.students
    core_s = 60.0 if options.quick else options.minutes * 60.0 * options.processes
    training = TrainingSettings(views_per_image=1 if options.quick else 3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else cache_folder()
        name = "demo" if options.quick else SPACE
        run = None if options.trials_of is None else RunFolder.open(options.trials_of)
        kept = None if run is None else run.read_run().get("space_text")
        setting = open_setting(options.data, options.teacher, folder, training, None, name, kept_space=kept)
        space = setting.inputs.space
        configs = draw_students(space, students, options.seed) if run is None else students_of(run, space, students)
        key = {
            "data": setting.inputs.data_hash,
            "teacher": setting.inputs.teacher.sha256,
            "core_s": core_s,
            "students": [facts(config) for config in configs],
        }
        parts = Parts(Path(temporary) / PARTIAL.name if options.quick else PARTIAL, key)
        work = folder / "inheritance_search"  # a resumed run times the files that the first one left
        rows, steps = _both_sides(setting, configs, parts, options.processes, core_s, folder, work)
    sides = {side: _summary(rows, side) for side in SIDES}
    ratio = sides["inherited"]["median_map50"] / max(sides["random"]["median_map50"], 1e-3)
    return Outcome(
        value=ratio,
        unit="times the median mAP50 of trials from random weights",
        goal=GOAL,
        spread=spread([ratio]),
        detail={
            "quick": options.quick,
            "sides": sides,
            "hypervolume_larger": sides["inherited"]["hypervolume"] > sides["random"]["hypervolume"],
            "steps": steps,
            "core_seconds_a_side": core_s,
            "drawn": "at random, families in turn" if options.trials_of is None else f"of {options.trials_of}",
            "of_families": _of_families(rows),
            "students": rows,
            "data": setting.data_name,
            "teacher": setting.inputs.teacher.name,
            "note": "a random median below 0.001 counts as 0.001",
        },
        table=[
            {
                "family": row["family"],
                "px": row["params"]["image_size"],
                "M params": row["inherited"]["params_m"],
                "ms": row["latency_ms"],
                "inherited mAP50": row["inherited"]["map50"],
                "random mAP50": row["random"]["map50"],
            }
            for row in rows
        ],
    )


def students_of(run: RunFolder, space: SearchSpace, count: int) -> list[TrialConfig]:
    """The students of the first `count` complete trials of a run in `space`.

    Raises:
        InputError: it has fewer, or one that is not in the space.
    """
    complete = [result for result in run.results() if result.state == "complete"][:count]
    points = [space.complete(searched(result.params)) for result in complete]
    if len(points) < count or any(space.contains(point) for point in points):
        raise InputError(f"{run.path}: not {count} complete trials in the space {space.name}")
    return [space.config(point) for point in points]


def _of_families(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The median mAP50 of each family's trials on both sides."""
    families = {row["family"]: [one for one in rows if one["family"] == row["family"]] for row in rows}
    return {
        family: {side: median(row[side]["map50"] for row in found) for side in SIDES}
        for family, found in families.items()
    }


def _both_sides(
    setting: Setting,
    configs: Sequence[TrialConfig],
    parts: Parts,
    processes: int,
    core_s: float,
    cache: Path,
    work: Path,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    training = setting.training
    steps_s = [parts.get(f"step {i}", partial(step_seconds, setting, c))["step_s"] for i, c in enumerate(configs)]
    lines = [line for line in setting.inputs.lineages if line.name in lineages_of(configs)]
    warming_s = WARM_SHARE * core_s
    plans = warm_plans(setting, lines, warming_s, processes, cache)
    for plan in plans:
        parts.get(f"warming {plan.lineage.name}", partial(_warmed, setting, plan, cache))
    spent_s = sum(plan.seconds * plan.threads for plan in plans)
    # not in epochs: what warming takes is less than one of them
    steps = {"inherited": steps_within(core_s - spent_s, steps_s), "random": steps_within(core_s, steps_s)}
    jobs = {}
    for side, nets in (("inherited", supernets(plans)), ("random", {})):
        epochs, images, steps[side] = length_of(steps[side], training.recipe.batch_size)
        assets = setting.assets(nets, training.model_copy(update={"epochs": epochs}), images)
        jobs |= {f"{side} {i}": Job(c, assets, work / f"{side}-{i}") for i, c in enumerate(configs)}
    run_jobs(parts, jobs, processes)
    profiler = open_profiler(setting.inputs.device)
    rows = []
    for index, config in enumerate(configs):
        artifact = work / f"inherited-{index}" / "student.onnx"
        found = {side: parts[f"{side} {index}"] for side in SIDES}
        latency_ms = profiler.measure(artifact).median_ms
        rows.append({"family": config.family, "params": facts(config), "latency_ms": latency_ms, **found})
    return rows, steps


def _warmed(setting: Setting, plan: WarmPlan, cache: Path) -> dict[str, Any]:
    done = warm(setting, plan, cache)
    return {"steps": done.steps} if done else {"from_cache": True}


def _summary(rows: Sequence[dict[str, Any]], side: str) -> dict[str, float]:
    results = [
        TrialResult(
            trial=index,
            state="complete",
            family=row["family"],
            fidelity=1.0,
            map50=row[side]["map50"],
            map50_95=row[side]["map50_95"],
            latency_ms=row["latency_ms"],
            params={},
        )
        for index, row in enumerate(rows)
    ]
    return {
        "median_map50": median(row[side]["map50"] for row in rows),
        "hypervolume": hypervolume(results, default_reference(results)),
        "core_s": sum(row[side]["core_s"] for row in rows),
    }


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says; the kept parts go once the result is out."""
    return run_benchmark("inheritance_search", __doc__ or "", measure, add_arguments, argv, partial=PARTIAL)


if __name__ == "__main__":
    main()
