"""One trial, as a straight line. It knows neither Ray nor Optuna: a test calls it in a plain loop."""

import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from nasdistill.compress.prune import prune, pruning_of
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.objective import LossChoice, LossWeights
from nasdistill.distill.schedule import teacher_share_at, temperature_at
from nasdistill.distill.sensitivity import loss_gradients
from nasdistill.distill.stage import Stage, StageRun
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
    beyond = _beyond(before, place)
    if beyond:
        artifact.unlink()
        return TrialResult(
            trial=place.trial,
            state="rejected",
            family=config.family,
            reason=beyond,
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
    kept = sum(planned.pyramid_channels[: len(bench.assets.teacher_channels)]) / sum(bench.assets.teacher_channels)
    stage1, stage2 = _stages(config, bench, student.head.end2end, kept if init.startswith(FROM_TEACHER) else None)
    if files.stage != stage2.name:
        report(_line(stage1, (yield from way.train(student, connectors, stage1))))
    gradients = None if files.stage == stage2.name else _gradients(student, connectors, stage2, config, bench)
    pruned = prune(student, pruning, gradients)
    if config.prune_ratio:  # its maps have fewer channels now
        connectors = _connectors(pruned.student, config, bench)
    end: Accuracy | None = None
    try:
        report(_line(stage2, (yield from way.train(pruned.student, connectors, stage2, best))))
        end = export_and_score(pruned.student, size, artifact, bench)
        save_weights(pruned.student, place.folder / "student.safetensors")
    except TrialError as error:
        if best is None or best.score() is None:
            raise
        report(str(error))
    accuracy, epochs = _best_of(end, training.epochs, best, report)
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
        confidence=accuracy.confidence,
        epochs=epochs,
        seconds=time.monotonic() - started,
        params={**place.params, "init": init, "prune.achieved": round(pruned.achieved, 4)},
        **fields_of(costs.figures),
    )


def _beyond(costs: Costs, place: TrialPlace) -> str:
    """The constraints that a student's costs miss; empty for none."""
    told = {limit: costs.figures[limit.objective.name] for limit in place.constraints}
    return ", ".join(
        f"{limit.objective.name} {value:.4g} misses {limit}" for limit, value in told.items() if not limit.keeps(value)
    )


def _best_of(
    end: Accuracy | None, epochs: int, best: BestFiles | None, report: Report
) -> tuple[Accuracy | RungScore, int]:
    """The end's accuracy and length; or those of the best rung, where they are kept and the end (None: there was none) is not
    better. The trial's files are then that student's."""
    on_the_way = None if best is None else best.score()
    if best is None or on_the_way is None or (end is not None and best.value(end) >= best.value(on_the_way)):
        assert end is not None
        return end, epochs
    ended = "there is no end" if end is None else f"the end has {best.value(end):.4f}"
    report(f"{ended}: the student is that of epoch {on_the_way.epochs} of {epochs}")
    best.take(on_the_way)
    return on_the_way, on_the_way.epochs


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
    losses = LossChoice.of(config)

    def weights(label: float) -> LossWeights:
        return LossWeights(config.weight_feature, config.weight_cls, config.weight_box, label, config.weight_detections)

    stage2 = Stage(
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
    )
    stage1 = replace(
        stage2,
        name="stage 1",
        steps=first,
        learning_rate=recipe.stage1_learning_rate,
        weights=weights(label),
        freeze_backbone=True,
        first_step=0,
        closing_steps=max(0, closing - stage2.steps),
    )
    return stage1, stage2


def _connectors(student: Student, config: TrialConfig, bench: Workbench) -> Connectors:
    channels = bench.assets.teacher_channels
    return Connectors(student.pyramid_channels, channels, config.connector, generators=config.feature_loss == "mgd")


def _gradients(
    student: Student, connectors: Connectors, stage: Stage, config: TrialConfig, bench: Workbench
) -> dict[str, torch.Tensor] | None:
    """Gradients of the loss of `stage`, where the trial prunes by them."""
    if config.prune_importance != "taylor" or not config.prune_ratio:
        return None
    begins = stage.progress(0)
    return loss_gradients(
        student,
        connectors,
        bench.feed(config.image_size),
        stage.weights,
        temperature_at(begins, config),
        bench.compute,
        losses=stage.losses,
        teacher_share=teacher_share_at(begins, config),
    )


def _line(stage: Stage, run: StageRun) -> str:
    losses = ", ".join(f"{name} {value:.3f}" for name, value in run.losses.items())
    return f"{stage.name}: {stage.steps} steps in {run.seconds:.1f} s; {losses}"
