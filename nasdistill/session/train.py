"""Training a student of a finished run for longer: the same trial again, of another length, on all cores."""

import itertools
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from nasdistill.errors import InputError, InterruptedSearchError, NasdistillError
from nasdistill.pareto.of_run import devices_of_run, objectives_of_run
from nasdistill.pareto.select import choose
from nasdistill.prepare.inputs import cache_folder
from nasdistill.progress import Progress
from nasdistill.records import TrialConfig, TrialResult
from nasdistill.remeasure import timed_beside
from nasdistill.report.html import write_report
from nasdistill.search.budget import Budget, BudgetClock
from nasdistill.search.worker import at_the_end
from nasdistill.session.goals import goals_of
from nasdistill.session.opening import open_inputs, tell_notes
from nasdistill.session.preparation import changed_starts, prepare
from nasdistill.session.request import MOVABLE, SearchRequest, check, training_of
from nasdistill.session.resources import workplace
from nasdistill.session.session import Session
from nasdistill.session.training_plan import planned
from nasdistill.store.atomic import write_text
from nasdistill.store.run_folder import RunFolder
from nasdistill.students.families import lineage
from nasdistill.trial import trial_in_rungs
from nasdistill.trial_rungs import TrialPlace
from nasdistill.workbench import Assets, Workbench
from nasdistill.worker import searched


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


def train(request: TrainRequest, progress: Progress) -> TrialResult:
    """Train the chosen trial's student again, within a budget of time or of so many epochs; the result, which is kept in
    `trained/<n>/` with its files, and on no front.

    Starting weights, recipe and seed are those of the run, and what the cache still has is taken from it. The length
    differs, and with it the pool of views: a long training has more of them (`session/training_plan.py`). Where an earlier
    version gave the run other starting weights, that is said.

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
    objectives, left_out = objectives_of_run(recorded, request.device), list[str]()
    chosen = choose(run.results(left_out), request.trial, request.select, objectives, devices_of_run(recorded) or None)
    clock = BudgetClock(request.budget)
    progress.begin(clock, (), objectives)
    for line in left_out:
        progress.log(line)
    progress.log(f"trial {chosen.trial} {chosen.family}: {_figures(chosen)} in the search")
    with run.held():
        folder = run.trained_folder(chosen.trial)
        under_way = folder.with_name(f"{folder.name}.under-way")
        try:
            config, assets = _prepared(request, run, settings, chosen, clock, under_way, progress)
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
    under_way: Path,
    progress: Progress,
) -> tuple[TrialConfig, Assets]:
    """The trial's configuration; and the run's assets, from the cache or made again, as planned for the training."""
    recorded, cache = run.read_run(), cache_folder()
    goals = goals_of(settings, recorded)
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
        session = replace(session, inputs=replace(inputs, image_sizes=(config.image_size,)))
        return config, planned(config, prepared.assets, session, under_way)


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
