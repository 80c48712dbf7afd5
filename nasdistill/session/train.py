"""Training a student of a finished run for longer: the same trial again, of another length, on all cores."""

import contextlib
import itertools
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from nasdistill.compress.prune import prune, pruning_of
from nasdistill.config import MOST_EPOCHS, TrainingSettings
from nasdistill.distill.compute import release_gpu_memory
from nasdistill.errors import InputError, InterruptedSearchError, NasdistillError
from nasdistill.pareto.of_run import devices_of_run, objectives_of_run
from nasdistill.pareto.select import choose
from nasdistill.prepare.inputs import cache_folder
from nasdistill.prepare.length import TRIAL_OVERHEAD_S, step_seconds
from nasdistill.progress import Progress
from nasdistill.records import Record, TrialConfig, TrialResult
from nasdistill.remeasure import timed_beside
from nasdistill.report.html import write_report
from nasdistill.search.budget import Budget, BudgetClock
from nasdistill.search.worker import at_the_end
from nasdistill.session.goals import goals_of
from nasdistill.session.opening import open_inputs, tell_notes
from nasdistill.session.preparation import FINISH_RESERVE_S, changed_starts, prepare
from nasdistill.session.request import MOVABLE, SearchRequest, check, training_of
from nasdistill.session.resources import workplace
from nasdistill.session.session import Session
from nasdistill.store.atomic import write_text
from nasdistill.store.provenance import usable_cores
from nasdistill.store.run_folder import RunFolder
from nasdistill.students.families import lineage
from nasdistill.students.student import Student
from nasdistill.trial import trial_in_rungs
from nasdistill.trial_rungs import TrialPlace, export_and_score
from nasdistill.workbench import Assets, Workbench
from nasdistill.worker import searched

SCORED = 10
"""A training is scored, and kept for a restart, after each so-manieth part of it."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Which student of which run to train, and for how long. `trial` is a number or `best`, which `select` explains."""

    run: Path
    budget: Budget
    trial: str = "best"
    select: str | None = None
    device: str | None = None
    trust_teacher: bool = False
    data: str | None = None
    """Where the run's data lies now, if it has moved; likewise `teacher` and `teacher_yaml`."""
    teacher: str | None = None
    teacher_yaml: str | None = None


class Plan(Record):
    """What a training that is under way was started with: with the same budget it goes on, with another it starts anew."""

    budget: str
    threads: int
    training: TrainingSettings


def train(request: TrainRequest, progress: Progress) -> TrialResult:
    """Train the chosen trial's student again, within a budget of time or of so many epochs; the result, which is kept in
    `trained/<n>/` with its files, and on no front.

    Everything is as it was in the run (starting weights, views, targets, recipe, seed), and taken from the cache where
    it still is; only the length differs. Where an earlier version gave the run other starting weights, that is said.

    Raises:
        InputError: no such run or trial, a budget of trials, or inputs that are no longer those of the run.
        InterruptedSearchError: Ctrl-C; the same command goes on from the last score.
        TrialError: the training gave no result.
    """
    if request.budget.kind == "trials":
        raise InputError(f"budget '{request.budget}' is for a search; a training takes time (30m, 2h) or 200epochs")
    moved = {name: getattr(request, name) for name in MOVABLE}
    run, settings = check(SearchRequest(resume=True, out=request.run, **moved))
    recorded = run.read_run()
    objectives = objectives_of_run(recorded, request.device)
    chosen = choose(run.results(), request.trial, request.select, objectives, devices_of_run(recorded) or None)
    clock = BudgetClock(request.budget)
    progress.begin(clock, (), objectives)
    progress.log(f"trial {chosen.trial} {chosen.family}: {_figures(chosen)} in the search")
    with run.held():
        config, assets = _prepared(request, run, settings, chosen, clock, progress)
        folder = run.trained_folder(chosen.trial)
        under_way = folder.with_name(f"{folder.name}.under-way")
        under_way.mkdir(parents=True, exist_ok=True)
        try:
            plan = _plan(config, assets, clock, under_way, progress)
            assets = replace(assets, threads=plan.threads, training=plan.training)
            place = TrialPlace(chosen.trial, under_way, searched(chosen.params), best_by=objectives.accuracy.name)
            with open(under_way / "log.txt", "a", encoding="utf-8", buffering=1) as log:
                result = _run(config, assets, place, log, progress)
            result = _timed_again(result, under_way, run, chosen, assets, progress)
        except KeyboardInterrupt:
            begun = (under_way / "plan.json").exists()
            what = "goes on from the last score" if begun else "begins anew"
            raise InterruptedSearchError(f"interrupted; the same command {what}") from None
        write_text(under_way / "trial.json", result.model_dump_json(indent=2) + "\n")
        _put_in_place(under_way, folder)
        write_report(run, run.report_file)
        return result


def _prepared(
    request: TrainRequest,
    run: RunFolder,
    settings: dict[str, object],
    chosen: TrialResult,
    clock: BudgetClock,
    progress: Progress,
) -> tuple[TrialConfig, Assets]:
    """The trial's configuration and the run's assets, from the cache or made again."""
    recorded, goals, cache = run.read_run(), goals_of(settings), cache_folder()
    inputs, _ = open_inputs(
        settings,
        recorded,
        goals,
        clock,
        workers=None,
        trust_teacher=request.trust_teacher,
        cache=cache,
        progress=progress,
    )
    tell_notes(inputs, goals, progress)
    if (reason := changed_starts(recorded, inputs)) is not None:
        progress.log(f"{reason}: the student starts otherwise than its trial did")
    training = training_of(settings, recorded, inputs.space)
    config = inputs.space.config(searched(chosen.params))
    with workplace(run.path, cache, inputs.dataset.yaml_path) as place:
        session = Session(run, inputs, goals, clock, place, cache, progress)
        prepared = prepare(
            session,
            training,
            training.epochs,
            early_stopping=bool(training.rungs),
            scout=False,
            lineages=[lineage(config.family, config.arch)],
        )
    return config, prepared.assets


def _run(config: TrialConfig, assets: Assets, place: TrialPlace, log: TextIO, progress: Progress) -> TrialResult:
    """Run the training in this process, from where an earlier one left it; its student is the best one scored on the way."""
    epochs = assets.training.epochs
    steps, asked = assets.steps_per_epoch * epochs, itertools.count(1)

    def count_step() -> bool:  # asked before every step
        progress.share(next(asked) / steps)
        return False

    def report(line: str) -> None:
        log.write(f"{line}\n")
        progress.log(line)

    progress.phase(f"training trial {place.trial} for {epochs} epochs")
    return at_the_end(trial_in_rungs(config, Workbench(assets), replace(place, should_stop=count_step), report))


def _timed_again(
    result: TrialResult, made: Path, run: RunFolder, chosen: TrialResult, assets: Assets, progress: Progress
) -> TrialResult:
    """The result with latencies that compare with the run's: taken beside the trial's own student, while that is there."""
    before = run.trial_folder(chosen.trial) / "student.onnx"
    if not before.is_file():
        return result
    progress.phase("timing the student beside the search's")
    try:
        return timed_beside(result, made / "student.onnx", chosen, before, (assets.device, *assets.further_devices))
    except NasdistillError as error:
        progress.log(f"the student keeps the latency it had: {error}")
        return result


def _plan(config: TrialConfig, assets: Assets, clock: BudgetClock, folder: Path, progress: Progress) -> Plan:
    """The length and threads of the training: as it began, where one of this budget is under way, else measured."""
    budget = clock.budget
    file, own = folder / "plan.json", assets.training.model_copy(update={"epoch_parts": 1})
    assets = replace(assets, training=own)
    with contextlib.suppress(OSError, ValidationError):
        before = Plan.model_validate_json(file.read_bytes())
        same = before.training.model_copy(update={"epochs": own.epochs, "rungs": own.rungs}) == own
        if before.budget == str(budget) and same:
            progress.log(f"goes on with a training of {before.training.epochs} epochs")
            return before
    progress.phase("timing a training step")
    seconds, threads = min(
        (_step_seconds(config, replace(assets, threads=threads)), threads) for threads in {1, usable_cores()}
    )
    if budget.kind == "epochs":
        epochs = int(budget.amount)
    else:
        if clock.left < seconds * assets.steps_per_epoch:  # before anything slow
            raise _too_short(budget, seconds * assets.steps_per_epoch)
        progress.phase("timing how long scoring takes")
        scoring = max(TRIAL_OVERHEAD_S, _scoring_seconds(config, replace(assets, threads=threads)))
        progress.log(f"{scoring:.0f} s a scoring")
        left = clock.left - FINISH_RESERVE_S - (SCORED + 1) * scoring
        epochs = int(left / (seconds * assets.steps_per_epoch))
    if epochs < 1:
        raise _too_short(budget, seconds * assets.steps_per_epoch)
    epochs = min(epochs, MOST_EPOCHS)
    rungs = sorted({epochs * part // SCORED for part in range(1, SCORED)} - {0, epochs})
    plan = Plan(
        budget=str(budget),
        threads=threads,
        training=own.model_copy(update={"epochs": epochs, "rungs": tuple(rungs)}),
    )
    progress.log(f"{epochs} epochs on {threads} thread(s), {seconds:.3f} s a step")
    write_text(file, plan.model_dump_json(indent=1) + "\n")
    release_gpu_memory()
    return plan


def _too_short(budget: Budget, epoch_s: float) -> InputError:
    return InputError(f"budget '{budget}' is too short: an epoch takes {epoch_s:.0f} s")


def _step_seconds(config: TrialConfig, assets: Assets) -> float:
    bench = Workbench(assets)
    pruned = _pruned(config, bench)
    feed = bench.feed(config.image_size)
    return step_seconds(pruned, assets.teacher_channels, feed, bench.compute, assets.training.recipe)


def _scoring_seconds(config: TrialConfig, assets: Assets) -> float:
    bench = Workbench(assets)
    pruned = _pruned(config, bench)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        export_and_score(pruned, config.image_size, Path(folder) / "student.onnx", bench)
    return time.monotonic() - started


def _pruned(config: TrialConfig, bench: Workbench) -> Student:
    """The student as it will be for most of the training."""
    return prune(bench.start(config).student, pruning_of(config, bench.assets.device.channel_multiple)).student


def _put_in_place(made: Path, folder: Path) -> None:
    """What an earlier training left gives way only now."""
    (made / "plan.json").unlink(missing_ok=True)
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(made, folder)
    shutil.rmtree(old, ignore_errors=True)


def _figures(result: TrialResult) -> str:
    return f"mAP50 {result.map50:.3f}, mAP50-95 {result.map50_95:.3f}, {result.latency_ms:.2f} ms"
