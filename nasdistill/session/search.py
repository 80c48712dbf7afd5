"""A search: check, prepare, run, measure again, repeat, write."""

import contextlib
import time
from datetime import UTC, datetime
from typing import Any

from nasdistill.errors import InputError, InterruptedSearchError, NothingSucceededError
from nasdistill.measure.artifact import write_onnx
from nasdistill.pareto.front import front
from nasdistill.pareto.intervals import certainty
from nasdistill.pareto.of_run import devices_of_run, objectives_of_run, on_device
from nasdistill.prepare.inputs import Inputs, cache_folder
from nasdistill.prepare.needs import check_cache, check_labels
from nasdistill.progress import Progress
from nasdistill.records import TrialResult
from nasdistill.remeasure import remeasure
from nasdistill.report.html import write_report
from nasdistill.search.budget import Budget, BudgetClock
from nasdistill.search.events import SearchEvent, TrialFinished, TrialStarted
from nasdistill.search.journal import StudyJournal
from nasdistill.search.pareto_asha import DEFAULT_SCHEDULER, NONE
from nasdistill.search.reserve import WORKER_START_S, RepeatReserve, repeats_for
from nasdistill.search.runner import run_search
from nasdistill.search.samplers import DEFAULT_SAMPLER, learns_costs
from nasdistill.search.scratch import scratch_folder
from nasdistill.session.enqueue import read_configurations
from nasdistill.session.goals import Goals, goals_of
from nasdistill.session.opening import open_inputs, tell_notes
from nasdistill.session.preparation import Prepared, changed_starts, prepare
from nasdistill.session.repeats import repeat_front
from nasdistill.session.request import SearchRequest, budget_of, training_of
from nasdistill.session.resources import workplace
from nasdistill.session.session import Session
from nasdistill.session.storage import check_storage, open_journal
from nasdistill.session.warm_start import keep_warm_start, kept_warm_start, read_warm_start
from nasdistill.store.provenance import environment
from nasdistill.store.run_folder import RunFolder
from nasdistill.store.rungs import all_rung_scores
from nasdistill.worker import MakeTrialWorker


def search(request: SearchRequest, run: RunFolder, settings: dict[str, Any], progress: Progress) -> RunFolder:
    """Run a checked request (see `request.check`) to its end: tables, models and report are in the run that is returned.

    That is `run`, or where nobody named its folder and another search has just taken that, one beside it.

    Raises:
        InputError: a wrong input, before anything is spent, or another process works on the run.
        InterruptedSearchError: Ctrl-C; everything finished is kept.
        NothingSucceededError: no trial was completed.
    """
    with contextlib.ExitStack() as held:
        if request.resume:
            held.enter_context(run.held())
        return _search(request, run, settings, progress, held)


def _search(
    request: SearchRequest,
    run: RunFolder,
    settings: dict[str, Any],
    progress: Progress,
    held: contextlib.ExitStack,
) -> RunFolder:
    """The same, while no other process works on the run: a new one is held from when its folder is made."""
    recorded = run.read_run() if request.resume else {}
    sampler = request.sampler or recorded.get("sampler", DEFAULT_SAMPLER)
    used = float(recorded.get("seconds", 0.0))
    url = check_storage(request.storage, recorded)
    left_out: list[str] = []
    earlier = run.results(left_out) if request.resume else []
    clock = BudgetClock.resumed(budget_of(request, recorded), earlier, used)
    for score in run.repeats() if request.resume else ():
        clock.count_repeat(score)
    asked = request.repeats if request.repeats is not None else recorded.get("repeats")
    goals = goals_of(settings, recorded)
    progress.begin(clock, earlier, goals.objectives)
    for line in left_out:
        progress.log(line)
    cache = cache_folder()
    if request.ray_address is not None:
        # The processes of a cluster have other current folders.
        cache, run = cache.absolute(), RunFolder(run.path.absolute())
    inputs, synthesis = open_inputs(
        settings,
        recorded,
        goals,
        clock,
        workers=request.workers,
        trust_teacher=request.trust_teacher,
        cache=cache,
        progress=progress,
    )
    enqueued = read_configurations(request.enqueue, inputs.space) if request.enqueue is not None else []
    warm = read_warm_start(request.warm_start, inputs, goals.objectives) if request.warm_start is not None else None
    tell_notes(inputs, goals, progress)
    training = training_of(settings, recorded, inputs.space)
    if (reason := changed_starts(recorded, inputs)) is not None:
        raise InputError(f"--resume: {reason}; start a new run")
    check_labels(inputs.space, training.recipe, inputs.dataset.splits["train"], str(inputs.dataset.yaml_path))
    check_cache(inputs.space, training.cache)
    scheduler = settings.get("scheduler") or DEFAULT_SCHEDULER
    if not request.resume:
        run = RunFolder.create(run.path, or_beside=request.out is None)
        held.enter_context(run.held())
        if warm is not None:
            keep_warm_start(run, warm)
        run.update_run(settings=settings, enqueued=enqueued, started=_now(), teacher=_teacher_facts(inputs))
    description = _description(clock.budget, inputs, goals, run, training.seed, sampler, scheduler)
    run.update_run(settings=settings, repeats=asked, **description)
    if synthesis is not None:
        run.update_run(**synthesis.description())
    journal = open_journal(run, url, goals.objectives, progress.log)
    progress.log(f"results go to {run.path}")
    try:
        with workplace(
            run.path,
            cache,
            inputs.dataset.yaml_path.absolute(),
            request.workers,
            request.ray_address,
            request.gpus_per_trial,
        ) as place:
            run.update_run(workers=place.workers)
            if request.workers is not None and place.workers < request.workers:
                progress.log(
                    f"{place.workers} workers instead of {request.workers}: no more trials fit at the same time"
                )
            session = Session(run, inputs, goals, clock, place, cache, progress)
            prepared = prepare(
                session,
                training,
                settings["epochs"],
                early_stopping=scheduler != NONE,
                scout=learns_costs(sampler),
            )
            run.update_run(seconds=clock.seconds)  # a killed run knows what it has used
            start_s = _run_trials(session, prepared, journal, sampler, scheduler, asked)
            with clock.stopped():
                _measure_again(session)
            repeat_front(session, prepared.assets, repeats_for(clock.budget, asked), start_s)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            _write(run)
        raise InterruptedSearchError("interrupted; everything finished is kept, and --resume goes on") from None
    except Exception as error:
        if isinstance(error, InterruptedSearchError) or run.results():
            with contextlib.suppress(OSError):  # a full disk: the first error is the one to tell
                _write(run)
        raise
    finally:
        with contextlib.suppress(OSError):
            run.update_run(seconds=clock.seconds, ended=_now())
    results = _write(run)
    if not any(result.state == "complete" for result in results):
        reasons = sorted({result.reason for result in results if result.reason})
        raise NothingSucceededError(
            f"no trial was completed in {run.path}" + (f"; the first reason: {reasons[0]}" if reasons else "")
        )
    progress.done(results)
    if synthesis is not None:
        progress.log(synthesis.note())
    return run


def _run_trials(
    session: Session,
    prepared: Prepared,
    journal: StudyJournal,
    sampler: str,
    scheduler: str,
    repeats_asked: int | None,
) -> float:
    """Run the search proper; returns the seconds that a worker took to start, at least WORKER_START_S."""
    run, goals, clock, place = session.run, session.goals, session.clock, session.place
    began, start_s = dict[int, float](), list[float]()

    def on_event(event: SearchEvent) -> None:
        if isinstance(event, TrialStarted):
            began[event.trial] = time.monotonic()
        if isinstance(event, TrialFinished):
            if not start_s and event.result.state == "complete":
                since = began.get(event.result.trial, time.monotonic())
                start_s.append(time.monotonic() - since - event.result.seconds)
            run.update_run(seconds=clock.seconds)
        session.progress.event(event)

    training = prepared.assets.training
    warm = kept_warm_start(run, training)
    if any(warmth.fidelity is None for warmth in warm):
        session.progress.log(
            "warm start: that run had another recipe or other starting weights; only its students' costs are used"
        )
    images = prepared.assets.steps_per_epoch * training.recipe.batch_size
    session.progress.searching(prepared.reference, training.epochs, images)
    run_search(
        session.inputs.space,
        MakeTrialWorker(prepared.assets, session.inputs.space, goals.constraints),
        run,
        clock,
        sampler=sampler,
        scheduler=scheduler,
        rung_scores=all_rung_scores(run.path),
        workers=place.workers,
        seed=training.seed,
        resources_per_trial=place.per_trial,
        on_event=on_event,
        estimate=prepared.trial_seconds,
        objectives=goals.objectives,
        constraints=goals.constraints,
        reference=prepared.reference,
        enqueued=run.read_run().get("enqueued", ()),
        warm=warm,
        scouted=prepared.scouted,
        journal=journal,
        trial_epochs=training.epochs,
        reserve=RepeatReserve(
            clock.budget,
            repeats_for(clock.budget, repeats_asked),
            place.workers,
            asked=repeats_asked is not None,
            objectives=goals.objectives,
        ),
    )
    return max([WORKER_START_S, *start_s])


def _measure_again(session: Session) -> None:
    """Time all students and the teacher, now that nothing else runs: only then is it known who is on the front."""
    run, goals, inputs, progress = session.run, session.goals, session.inputs, session.progress
    progress.phase("timing the students and the teacher again, nothing else running")
    with scratch_folder() as scratch:
        teacher = scratch / "teacher.onnx"
        write_onnx(inputs.teacher.model, inputs.teacher_size, teacher, inputs.device.batch)
        remeasure(run, goals.devices, goals.objectives, progress.share, progress.log, teacher)
    progress.measured_again(run.results())


def _write(run: RunFolder) -> list[TrialResult]:
    """Tables and report, from what is on disk; of several devices each has its own front's table as well."""
    results, recorded = run.results(), run.read_run()
    objectives = objectives_of_run(recorded)
    members = front(results, objectives)
    sure = certainty(results, members, objectives.accuracy.name)
    run.write_tables(results, {result.trial for result in members}, sure, objectives.costs[0].name)
    devices = devices_of_run(recorded)
    for device in devices if len(devices) > 1 else ():
        there = on_device(recorded, device)
        members = front(results, there)
        sure = certainty(results, members, there.accuracy.name)
        run.write_device_front(device, results, {result.trial for result in members}, sure, there.costs[0].name)
    write_report(run, run.report_file)
    return results


def _description(
    budget: Budget,
    inputs: Inputs,
    goals: Goals,
    run: RunFolder,
    seed: int,
    sampler: str,
    scheduler: str,
) -> dict[str, Any]:
    """What `run.json` says about the inputs and the machine."""
    facts = environment()
    return {
        "name": run.path.name,
        "data": "embedded demo (synthetic boards)" if inputs.demo else str(inputs.dataset.yaml_path),
        "data_hash": inputs.data_hash,
        "names": list(inputs.dataset.names),
        "images": {split: len(content) for split, content in inputs.dataset.splits.items()},
        "problems": len(inputs.dataset.problems),
        "device": inputs.device.model_dump(),
        "further_devices": [device.model_dump() for device in goals.devices[1:]],
        "space": inputs.space.name,
        "space_text": inputs.space.text,
        "budget": str(budget),
        "sampler": sampler,
        "scheduler": scheduler,
        "seed": seed,
        "objectives": goals.objectives.names,
        "versions": facts.pop("packages", {}),
        "machine": facts,
    }


def _teacher_facts(inputs: Inputs) -> dict[str, Any]:
    teacher = inputs.teacher
    return {"name": teacher.name, "sha256": teacher.sha256, "params_m": teacher.parameters_m}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
