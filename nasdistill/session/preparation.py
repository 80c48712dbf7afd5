"""The steps before the first trial, in order, on the run's own workers; all of it is cached by what it depends on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasdistill.config import TrainingSettings
from nasdistill.errors import NothingSucceededError
from nasdistill.pareto.hypervolume import Reference, teacher_reference
from nasdistill.prepare import families, length, pools, reference
from nasdistill.prepare.inputs import Inputs
from nasdistill.prepare.needs import cache_bytes, choose_cache
from nasdistill.progress import Progress, RunTasks
from nasdistill.search.budget import BudgetClock
from nasdistill.search.rungs import rung_epochs
from nasdistill.search.runner import STOP_FILE_NAME
from nasdistill.session.goals import Goals
from nasdistill.store.run_folder import RunFolder
from nasdistill.workbench import Assets

POOL_SHARE = 0.15  # of a time budget: what drawing views and asking the teacher may cost
WARM_SHARE = 0.2  # of a time budget: what warming the families may cost
WARM_SECONDS_PER_LINEAGE = 60.0  # where the budget is not one of time
FINISH_RESERVE_S = 15.0  # left of a time budget for the last measurements and the report


@dataclass(frozen=True)
class Prepared:
    """What the trials need, and what they are expected to cost: seconds of a training step by lineage, at `timed_size`.

    `reference` is the box that the run's hypervolume is a share of.
    """

    assets: Assets
    teacher: Mapping[str, Any]
    step_seconds: Mapping[str, float]
    timed_size: int
    reference: Reference

    def trial_seconds(self, params: Mapping[str, Any]) -> float:
        """Expected seconds of a trial with these flat parameters."""
        steps = self.assets.steps_per_epoch
        return length.trial_seconds(params, self.step_seconds, self.timed_size, steps, self.assets.training.epochs)


def prepare(
    run: RunFolder,
    inputs: Inputs,
    goals: Goals,
    training: TrainingSettings,
    clock: BudgetClock,
    workers: int,
    cache: Path,
    epochs_asked: int | None,
    early_stopping: bool,
    run_tasks: RunTasks,
    progress: Progress,
) -> Prepared:
    """Views, targets, the teacher's figures, warmed families and the trials' length.

    Raises:
        NothingSucceededError: a time budget is used up before the first trial is complete.
    """
    teacher, names, order, known = inputs.teacher, inputs.dataset.names, inputs.class_order, run.read_run()
    timed = clock.budget.kind == "time"
    before = known.get("preparation", {})
    if timed and not before:
        progress.phase("timing the teacher")
        core_seconds = POOL_SHARE * clock.budget.amount * workers
        training = training.model_copy(update={"max_views": pools.affordable_views(inputs, training, core_seconds)})
    count = pools.pool_size(inputs, training)
    own_size = inputs.teacher_size
    kind, form = choose_cache(
        inputs.space, training.cache, teacher, inputs.image_sizes, own_size, count, cache / "targets"
    )
    training = training.model_copy(update={"cache": kind})  # on resuming the disk may look different
    progress.log(_cache_line(kind, cache_bytes(form, teacher, inputs.image_sizes, own_size, len(names)) * count))
    plans = pools.plan_pools(inputs, training, cache, form, online=kind == "online")
    own = next(plan for plan in plans if plan.image_size == own_size)
    trained = [plan for plan in plans if plan.image_size in inputs.image_sizes]
    largest = trained[-1]

    progress.tasks("augmented views", pools.view_tasks(plans, names, training.seed, workers), run_tasks)
    fill = pools.target_tasks(trained, own, teacher, order, training, workers)
    passes = progress.tasks("teacher targets", fill, run_tasks)
    pools.seal(trained, teacher)

    figures = known.get("teacher", {})
    if "map50" not in figures:
        figures = reference.measure_teacher(
            teacher,
            order,
            own,
            inputs.devices,
            run.path,
            workers,
            lambda text, tasks: progress.tasks(text, tasks, run_tasks),
        ).as_json()
    progress.teacher(figures)
    # One box for the whole run: the recorded figures, and so this, stay as they are when it is resumed.
    corner = teacher_reference(figures, goals.objectives)

    warm_seconds = before.get("warm_core_seconds") or _warm_seconds(clock, workers, len(inputs.lineages))
    # As divided when the run began: on other workers it goes on with the same supernets, not with others.
    warm_workers = before.get("warm_workers", workers)
    warm = families.plan_warming(
        inputs.lineages, names, teacher, trained, training, warm_seconds, warm_workers, cache, inputs.pretrained
    )
    for plan in warm:
        if not (plan.sliced or plan.pretrained):
            progress.log(f"{plan.lineage.name} starts from random weights: neither the teacher's nor a file's fit it")
    stop_file = run.path / STOP_FILE_NAME
    tasks = families.warm_tasks(warm, names, teacher, order, trained, training, stop_file)
    warmed = progress.tasks("warming the families", tasks, run_tasks)

    step_seconds = before.get("step_seconds", {})
    if not step_seconds:
        calibration = length.calibration_tasks(inputs.lineages, names, teacher.channels, largest, training, workers)
        seconds = progress.tasks("timing a training step", calibration, run_tasks)
        each = len(inputs.lineages)
        step_seconds = {line.name: max(seconds[index::each]) for index, line in enumerate(inputs.lineages)}
    steps_per_epoch = max(1, round(len(largest.train) / training.recipe.batch_size))
    if timed and epochs_asked is None and not before:
        core_seconds = max(1.0, clock.left - FINISH_RESERVE_S) * workers
        training = training.model_copy(
            update={
                "epochs": length.epochs_for(
                    core_seconds, step_seconds, largest.image_size, inputs.image_sizes, steps_per_epoch
                )
            }
        )
    if not before:
        rungs = rung_epochs(training.epochs) if early_stopping else ()
        training = training.model_copy(update={"rungs": rungs})
    assets = Assets(
        names=names,
        pools={plan.image_size: plan.folders for plan in trained},
        supernets=families.supernets(warm),
        teacher_channels=teacher.channels[:3],
        images_per_epoch=len(largest.train),
        device=inputs.device,
        training=training,
        further_devices=inputs.devices[1:],
        needed=goals.needed,
    )
    run.update_run(
        teacher=dict(figures),
        reference=dict(corner.costs),
        training=training.model_dump(),
        preparation={
            "views": len(largest.train) * max(1, largest.count // len(largest.train)),
            "teacher_forward_passes": before.get("teacher_forward_passes", 0) + sum(passes),
            "warm_core_seconds": warm_seconds,
            "warm_workers": warm_workers,
            "warm_steps": before.get("warm_steps", 0) + sum(done.steps for done in warmed),
            "teacher_slices": [plan.lineage.name for plan in warm if plan.sliced],
            "pretrained": {
                name: {"file": start.path.name, "sha256": start.sha256} for name, start in inputs.pretrained.items()
            },
            "step_seconds": {name: round(value, 4) for name, value in step_seconds.items()},
            "seconds": before.get("seconds", round(clock.used if timed else 0.0, 1)),
        },
    )
    prepared = Prepared(assets, figures, step_seconds, largest.image_size, corner)
    too_late = timed and clock.left < min(step_seconds.values()) * steps_per_epoch * training.epochs
    if too_late and not any(result.state == "complete" for result in run.results()):
        raise NothingSucceededError(
            f"{clock.used:.0f} s of the budget {clock.budget} are used and no trial is complete: too little is left for "
            f"one; the preparation is kept: go on with --resume --out {run.path} and a larger --budget"
        )
    return prepared


def _cache_line(kind: str, size: int) -> str:
    if kind == "online":
        return "teacher targets: none are kept, the teacher looks at every batch"
    return f"teacher targets: {kind}, {size / 1e6:.1f} MB"


def _warm_seconds(clock: BudgetClock, workers: int, lineages: int) -> float:
    """Core seconds for warming the families: a share of a time budget, so many for each lineage of another one."""
    if clock.budget.kind == "time":
        return round(WARM_SHARE * clock.budget.amount * workers, 1)
    return WARM_SECONDS_PER_LINEAGE * lineages
