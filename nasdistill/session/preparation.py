"""The steps before the first trial, in order, on the run's own workers; all of it is cached by what it depends on."""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasdistill.config import TrainingSettings
from nasdistill.errors import NothingSucceededError
from nasdistill.pareto.hypervolume import Reference, teacher_reference
from nasdistill.prepare import families, length, pools, reference, scouting
from nasdistill.prepare.inputs import Inputs
from nasdistill.records import Scouted
from nasdistill.search.budget import BudgetClock
from nasdistill.search.rungs import rung_epochs
from nasdistill.session.filled import affordable, fill_pools
from nasdistill.session.session import Session
from nasdistill.space.families import FAMILIES
from nasdistill.store.atomic import write_text
from nasdistill.store.run_folder import STOP_FILE_NAME
from nasdistill.workbench import Assets

WARM_SHARE = 0.2  # of a time budget: what warming the families may cost
WARM_SECONDS_PER_LINEAGE = 60.0  # where the budget is not one of time
SCOUT_SHARE = 0.02  # of a time budget: what timing untrained students may cost
SCOUT_SECONDS = 30.0  # where the budget is not one of time: so many, and one for each trial or epoch at most
SCOUTED_NAME = "scouted.json"
"""In the run folder: points of the space and the costs of their untrained students, so that resuming knows the same."""
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
    scouted: Sequence[Scouted] = ()

    def trial_seconds(self, params: Mapping[str, Any]) -> float:
        """Expected seconds of a trial with these flat parameters."""
        steps = self.assets.steps_per_epoch
        return length.trial_seconds(params, self.step_seconds, self.timed_size, steps, self.assets.training.epochs)


def prepare(
    session: Session,
    training: TrainingSettings,
    epochs_asked: int | None,
    early_stopping: bool,
    scout: bool,
    lineages: Collection[str] | None = None,
) -> Prepared:
    """Views, targets, the teacher's figures, warmed families, costs of untrained students (`scout`) and the trials' length.

    What a run has recorded of its preparation stays as it is when it is resumed. Of `lineages` alone students will be
    wanted; None: of all.

    Raises:
        NothingSucceededError: a time budget is used up before the first trial is complete.
    """
    run, inputs, clock = session.run, session.inputs, session.clock
    before = run.read_run().get("preparation", {})
    if session.place.gpus and not before:
        training = training.model_copy(update={"recipe": training.recipe.on_gpu()})
    if session.timed and not before:
        training = affordable(session, training)
    training, filled = fill_pools(session, training)
    figures = _teacher_figures(session, filled.own)
    session.progress.teacher(figures)
    # One box for the whole run, although the teacher is timed again at the end of each part of it.
    recorded = run.read_run().get("reference")
    corner = Reference(**recorded) if recorded else teacher_reference(figures, session.goals.objectives)
    warm_seconds = before.get("warm_core_seconds") or _warm_seconds(clock, session.place.workers, len(inputs.lineages))
    # As divided when the run began: on other workers it goes on with the same supernets, not with others.
    warm_workers = before.get("warm_workers", session.place.workers)
    warm, warm_steps = _warm_families(session, training, filled.trained, warm_seconds, warm_workers, lineages)
    step_seconds = before.get("step_seconds") or _time_steps(session, training, filled.largest)
    scouted = _scout(session, training.seed, going_on=bool(before)) if scout else []
    steps_per_epoch = max(1, round(filled.train_images / training.recipe.batch_size))
    if not before:
        epochs, parts = training.epochs, 1
        if session.timed and epochs_asked is None:
            epochs, parts = _affordable_epochs(session, step_seconds, filled.largest.image_size, steps_per_epoch)
        rungs = rung_epochs(epochs) if early_stopping else ()
        training = training.model_copy(update={"epochs": epochs, "epoch_parts": parts, "rungs": rungs})
    run.update_run(
        teacher=dict(figures),
        reference=dict(corner.costs),
        training=training.model_dump(),
        preparation={
            "views": filled.train_images * max(1, filled.largest.count // filled.train_images),
            "teacher_forward_passes": before.get("teacher_forward_passes", 0) + filled.teacher_passes,
            **(starts_of(before) if before else _starts(inputs)),
            "images_per_epoch": filled.train_images,
            "warm_core_seconds": warm_seconds,
            "warm_workers": warm_workers,
            "warm_steps": before.get("warm_steps", 0) + warm_steps,
            "teacher_slices": [plan.lineage.name for plan in warm if plan.sliced],
            "step_seconds": {name: round(value, 4) for name, value in step_seconds.items()},
            "seconds": before.get("seconds", round(clock.used if session.timed else 0.0, 1)),
        },
    )
    if session.timed:
        _check_time(session, min(step_seconds.values()) * steps_per_epoch * training.epochs / training.epoch_parts)
    assets = Assets(
        names=inputs.dataset.names,
        pools={plan.image_size: plan.folders for plan in filled.trained},
        supernets=families.supernets(warm),
        teacher_channels=inputs.teacher.neck_channels,
        images_per_epoch=filled.train_images,
        device=inputs.device,
        training=training,
        further_devices=inputs.devices[1:],
        needed=session.goals.needed,
    )
    return Prepared(assets, figures, step_seconds, filled.largest.image_size, corner, scouted)


def _starts(inputs: Inputs) -> dict[str, Any]:
    """What `run.json` says of the weights that students start from."""
    files = {
        name: {"file": start.path.name, "sha256": start.sha256, "whole": start.whole}
        for name, start in inputs.pretrained.items()
    }
    return {"starts": families.WARM_VERSION, "pretrained": files}


def starts_of(preparation: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a recorded preparation; None for what an earlier version did not record."""
    return {name: preparation.get(name) for name in ("starts", "pretrained")}


def changed_starts(recorded: Mapping[str, Any], inputs: Inputs) -> str | None:
    """Why students of the recorded run would start from other weights now, so that their scores do not compare; or None."""
    before, now = recorded.get("preparation", {}), _starts(inputs)
    if before and before.get("starts") != now["starts"]:
        return "an earlier version began this run, from other starting weights"
    if before and before.get("pretrained", now["pretrained"]) != now["pretrained"]:
        return "the pretrained weights of its search space changed since the run was started, or how they are used"
    return None


def _teacher_figures(session: Session, own: pools.PoolPlan) -> dict[str, Any]:
    """The teacher's accuracy and costs, measured once in a run."""
    figures: dict[str, Any] = session.run.read_run().get("teacher", {})
    if "map50" in figures:
        return figures
    inputs, run_tasks = session.inputs, session.place.run_tasks
    return reference.measure_teacher(
        inputs.teacher,
        inputs.class_order,
        own,
        inputs.devices,
        session.run.path,
        session.place.workers,
        lambda text, tasks: session.progress.tasks(text, tasks, run_tasks),
        session.cache,
    ).as_json()


def _warm_families(
    session: Session,
    training: TrainingSettings,
    trained: list[pools.PoolPlan],
    seconds: float,
    workers: int,
    lineages: Collection[str] | None = None,
) -> tuple[list[families.WarmPlan], int]:
    """A plan for every lineage, and in the cache the supernets of `lineages`; and how many steps that took now."""
    inputs, progress = session.inputs, session.progress
    teacher, names = inputs.teacher, inputs.dataset.names
    warm = families.plan_warming(
        inputs.lineages, names, teacher, trained, training, seconds, workers, session.cache, inputs.pretrained
    )
    wanted = [plan for plan in warm if lineages is None or plan.lineage.name in lineages]
    for plan in wanted:
        if not (plan.sliced or plan.pretrained):
            family = plan.lineage.family
            hub = FAMILIES[family].source.startswith("timm") and not inputs.space.weights.get(family)
            hint = f"; 'weights: hub' of {family} in the search space downloads ImageNet's" if hub else ""
            progress.log(
                f"{plan.lineage.name} starts from random weights: neither the teacher's nor a file's fit it{hint}"
            )
    stop_file = session.run.path / STOP_FILE_NAME
    tasks = families.warm_tasks(wanted, names, teacher, inputs.class_order, trained, training, stop_file)
    warmed = progress.tasks("warming the families", tasks, session.place.run_tasks)
    return warm, sum(done.steps for done in warmed)


def _time_steps(session: Session, training: TrainingSettings, largest: pools.PoolPlan) -> dict[str, float]:
    """Seconds of a training step at the largest input size, by lineage: the slowest of the workers'."""
    inputs, workers = session.inputs, session.place.workers
    tasks = length.calibration_tasks(
        inputs.lineages, inputs.dataset.names, inputs.teacher.neck_channels, largest, training, workers
    )
    seconds = session.progress.tasks("timing a training step", tasks, session.place.run_tasks)
    each = len(inputs.lineages)
    return {line.name: max(seconds[index::each]) for index, line in enumerate(inputs.lineages)}


def _scout(session: Session, seed: int, going_on: bool) -> list[Scouted]:
    """Costs of untrained students, measured when the run begins."""
    file, inputs, clock, place = session.run.path / SCOUTED_NAME, session.inputs, session.clock, session.place
    if file.is_file():
        return [Scouted.model_validate(one) for one in json.loads(file.read_text(encoding="utf-8"))]
    if going_on:  # a run of an earlier version
        return []
    seconds = SCOUT_SHARE * clock.budget.amount if session.timed else min(SCOUT_SECONDS, clock.budget.amount)
    points = scouting.scout_points(inputs.space, seed)
    tasks = scouting.scout_tasks(points, inputs.space, inputs.dataset.names, inputs.devices, seconds, place.workers)
    found = [
        one for share in session.progress.tasks("timing untrained students", tasks, place.run_tasks) for one in share
    ]
    if found:
        write_text(file, json.dumps([one.model_dump() for one in found]) + "\n")
    return found


def _affordable_epochs(
    session: Session, step_seconds: Mapping[str, float], timed_size: int, steps_per_epoch: int
) -> tuple[int, int]:
    core_seconds = max(1.0, session.clock.left - FINISH_RESERVE_S) * session.place.workers
    return length.epochs_for(core_seconds, step_seconds, timed_size, session.inputs.image_sizes, steps_per_epoch)


def _check_time(session: Session, trial_seconds: float) -> None:
    """Refuse to go on where too little time is left for the quickest trial and none is complete yet."""
    run, clock = session.run, session.clock
    if clock.left < trial_seconds and not any(result.state == "complete" for result in run.results()):
        raise NothingSucceededError(
            f"{clock.used:.0f} s of the budget {clock.budget} are used and no trial is complete: too little is left for "
            f"one; the preparation is kept: go on with --resume --out {shlex.quote(str(run.path))} and a larger --budget"
        )


def _warm_seconds(clock: BudgetClock, workers: int, lineages: int) -> float:
    """Core seconds for warming the families: a share of a time budget, so many for each lineage of another one."""
    if clock.budget.kind == "time":
        return round(WARM_SHARE * clock.budget.amount * workers, 1)
    return WARM_SECONDS_PER_LINEAGE * lineages
