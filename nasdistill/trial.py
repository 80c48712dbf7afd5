"""One trial, as a straight line. It knows neither Ray nor Optuna: a test calls it in a plain loop."""

import time
from collections.abc import Generator
from pathlib import Path

import torch
from torch import nn

from nasdistill.compress.prune import prune, pruning_of
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.objective import LossChoice, LossWeights
from nasdistill.distill.schedule import teacher_share_at
from nasdistill.distill.sensitivity import loss_gradients
from nasdistill.distill.stage import Stage, StageRun
from nasdistill.distill.temperature import temperature_at
from nasdistill.errors import TrialError
from nasdistill.measure.accuracy import Accuracy
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.costs import Costs, costs_of
from nasdistill.records import RungScore, TrialConfig, TrialResult, fields_of
from nasdistill.rung_files import BestFiles, RungFiles
from nasdistill.students.student import Student
from nasdistill.tasks import Report
from nasdistill.trial_rungs import TrialPlace, Way, export_and_score, save_weights
from nasdistill.workbench import FROM_TEACHER, Workbench

InRungs = Generator[RungScore, None, TrialResult]
"""A trial under way: it yields what it scored at each rung, and returns its result."""


def trial_in_rungs(config: TrialConfig, bench: Workbench, place: TrialPlace, report: Report) -> InRungs:
    """Build, time, distil, prune, fine-tune, export, score and time one student.

    At each of the run's rungs the score is yielded, after it and the training so far are on disk. Closing the generator
    there ends the trial; its caller then says what became of it (`search.worker.at_the_end` goes through them all).

    Raises:
        TrialError, DeadlineReachedError, or whatever went wrong: the caller makes it a failed or stopped trial.
    """
    started = time.monotonic()
    size, training = config.image_size, bench.assets.training
    artifact = place.folder / "student.onnx"
    start = bench.start(config)
    student, init = start.student, start.init

    pruning = pruning_of(config, bench.assets.device.channel_multiple)
    planned = prune(student, pruning).student
    write_onnx(planned.model, size, artifact, bench.assets.device.batch)
    before = _costs(planned.model, artifact, size, bench)
    report(f"{config.family} {dict(config.arch)} at {size} px from {init}: {before} before training")

    figures = fields_of(before.figures)
    told = {limit: before.figures[limit.objective.name] for limit in place.constraints}
    beyond = [
        f"{limit.objective.name} {value:.4g} misses {limit}" for limit, value in told.items() if not limit.keeps(value)
    ]
    if beyond:
        artifact.unlink()
        return TrialResult(
            trial=place.trial,
            state="rejected",
            family=config.family,
            reason=", ".join(beyond),
            seconds=time.monotonic() - started,
            params={**place.params, "init": init},
            **figures,
        )

    files = RungFiles(place.folder, config, training)
    if files.stage is None:  # else the stage under way has its own weights on disk
        bench.adapt(start, config)
    started -= files.seconds
    best = None if place.best_by is None else BestFiles(place.folder, files.key, place.best_by)
    way = Way(config, bench, place, files, figures, started, report)
    torch.manual_seed(training.seed)
    connectors = _connectors(student, config, bench)
    kept = sum(planned.pyramid_channels[:3]) / sum(bench.assets.teacher_channels)
    stage1, stage2 = _stages(config, bench, student.head.end2end, kept if init.startswith(FROM_TEACHER) else None)
    if files.stage != stage2.name:
        report(_line(stage1, (yield from way.train(student, connectors, stage1))))
    gradients = None if files.stage == stage2.name else _gradients(student, connectors, stage2, config, bench)
    pruned = prune(student, pruning, gradients)
    if config.prune_ratio:  # its maps have fewer channels now
        connectors = _connectors(pruned.student, config, bench)
    report(_line(stage2, (yield from way.train(pruned.student, connectors, stage2, best))))

    accuracy: Accuracy | RungScore = export_and_score(pruned.student, size, artifact, bench)
    save_weights(pruned.student, place.folder / "student.safetensors")
    epochs = training.epochs
    if best is not None:
        on_the_way = best.score()
        if on_the_way is not None and best.value(on_the_way) > best.value(accuracy):
            report(
                f"the end has {best.value(accuracy):.4f}: the student is that of epoch {on_the_way.epochs} of {epochs}"
            )
            best.take(on_the_way)
            accuracy, epochs = on_the_way, on_the_way.epochs
    costs = _costs(pruned.student.model, artifact, size, bench)
    files.remove()
    if best is not None:
        best.remove()
    report(
        f"mAP50 {accuracy.map50:.4f}, mAP50-95 {accuracy.map50_95:.4f}, {costs}, "
        f"{costs.figures['params_m']:.3f} M parameters"
    )
    return TrialResult(
        trial=place.trial,
        state="complete",
        family=config.family,
        fidelity=1.0,
        map50=accuracy.map50,
        map50_95=accuracy.map50_95,
        epochs=epochs,
        seconds=time.monotonic() - started,
        params={**place.params, "init": init, "prune.achieved": round(pruned.achieved, 4)},
        **fields_of(costs.figures),
    )


def _costs(model: nn.Module, artifact: Path, size: int, bench: Workbench) -> Costs:
    """What a student costs, which its shapes alone decide. Raises TrialError without a figure that the run compares."""
    costs = costs_of(model, artifact, size, bench.profiler, bench.further)
    missing = [name for name in bench.assets.needed if name not in costs.figures]
    if missing:
        raise TrialError(f"no {missing[0]} could be measured")
    return costs


def _stages(config: TrialConfig, bench: Workbench, nms_free: bool, kept: float | None) -> tuple[Stage, Stage]:
    """The two stages of the recipe, in steps; rates that the trial chose itself are taken as they are.

    A stage 1 in which nothing has a weight is left to stage 2. Of an `nms_free` student the teacher's answers reach only the
    head that is not deployed: where nothing else teaches the other one in stage 1, labels do, as much as in stage 2. `kept`
    is the share of the teacher's channels that a student cut from it keeps, None of another student.
    """
    recipe, epochs = bench.assets.training.recipe, bench.assets.training.epochs
    recipe = (recipe if kept is None else recipe.from_teacher(kept)).with_trial(config)
    steps = epochs * bench.assets.steps_per_epoch
    label = recipe.stage1_label_weight
    taught = (label, config.weight_feature, config.weight_cls, config.weight_box, config.weight_detections)
    first = round(steps * recipe.stage1_share) if any(taught) else 0
    if nms_free and not label and not config.weight_detections:
        label = recipe.stage2_label_weight
    closing = round(steps * recipe.closing_share)
    losses = LossChoice(config.feature_loss, config.box_loss, config.participation, config.box_where)

    def weights(label: float) -> LossWeights:
        return LossWeights(config.weight_feature, config.weight_cls, config.weight_box, label, config.weight_detections)

    return (
        Stage(
            "stage 1",
            first,
            recipe.stage1_learning_rate,
            weights(label),
            freeze_backbone=True,
            first_step=0,
            all_steps=steps,
            batch_size=recipe.batch_size,
            optimizer=recipe.optimizer,
            losses=losses,
            closing_steps=max(0, closing - (steps - first)),
        ),
        Stage(
            "stage 2",
            steps - first,
            recipe.stage2_learning_rate,
            weights(recipe.stage2_label_weight),
            freeze_backbone=False,
            first_step=first,
            all_steps=steps,
            batch_size=recipe.batch_size,
            optimizer=recipe.optimizer,
            losses=losses,
            closing_steps=closing,
        ),
    )


def _connectors(student: Student, config: TrialConfig, bench: Workbench) -> Connectors:
    channels = bench.assets.teacher_channels
    return Connectors(student.pyramid_channels, channels, config.connector, generators=config.feature_loss == "mgd")


def _gradients(
    student: Student, connectors: Connectors, stage: Stage, config: TrialConfig, bench: Workbench
) -> dict[str, torch.Tensor] | None:
    """Gradients of the loss of `stage`, where the trial prunes by them."""
    if config.prune_importance != "taylor" or not config.prune_ratio:
        return None
    begins = stage.first_step / max(1, stage.all_steps - 1)
    return loss_gradients(
        student,
        connectors,
        bench.feed(config.image_size),
        stage.weights,
        temperature_at(begins, config.temperature_start, config.temperature_end, config.temperature_schedule),
        bench.compute,
        losses=stage.losses,
        teacher_share=teacher_share_at(begins, config.weight_schedule),
    )


def _line(stage: Stage, run: StageRun) -> str:
    losses = ", ".join(f"{name} {value:.3f}" for name, value in run.losses.items())
    return f"{stage.name}: {stage.steps} steps in {run.seconds:.1f} s; {losses}"
