"""A search from request to report: check, prepare, run, measure again, write. The parts know nothing of one another."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nasdistill.config import TrainingSettings, load_recipe
from nasdistill.errors import InputError, InterruptedSearchError, NothingSucceededError
from nasdistill.pareto.front import front
from nasdistill.pareto.hypervolume import Reference
from nasdistill.prepare import families, length, pools, reference
from nasdistill.prepare.inputs import Inputs, cache_folder, load_inputs
from nasdistill.progress import Progress
from nasdistill.records import Scalar, TrialResult
from nasdistill.remeasure import remeasure
from nasdistill.report.html import write_report
from nasdistill.search.budget import Budget, BudgetClock
from nasdistill.search.cluster import run_tasks, start_ray
from nasdistill.search.events import SearchEvent, TrialFinished
from nasdistill.search.runner import STOP_FILE_NAME, run_search
from nasdistill.search.samplers import SAMPLERS
from nasdistill.store.provenance import environment
from nasdistill.store.run_folder import RunFolder, default_run_path
from nasdistill.workbench import Assets
from nasdistill.worker import MakeTrialWorker

WARM_SHARE = 0.2  # of a time budget: what warming the families may cost
WARM_SECONDS_PER_LINEAGE = 60.0  # where the budget is not one of time
FINISH_RESERVE_S = 5.0  # left of a time budget for measuring again and writing
# What a resumed run takes from its run.json, unless the command line says otherwise (and then it must agree)
KEPT_SETTINGS = (
    "data",
    "teacher_file",
    "teacher_yaml",
    "space_file",
    "device_file",
    "recipe",
    "epochs",
    "precision",
    "seed",
)


@dataclass(frozen=True)
class SearchRequest:
    """What the command line asks for. None means: the default, or what the resumed run was started with."""

    budget: Budget
    data: str | None = None
    teacher_file: str | None = None
    teacher_yaml: str | None = None
    trust_teacher: bool = False
    space_file: str | None = None
    device_file: str | None = None
    sampler: str = "tpe"
    workers: int | None = None
    seed: int | None = None
    epochs: int | None = None
    recipe: str | None = None
    precision: str | None = None
    out: Path | None = None
    resume: bool = False
    ray_address: str | None = None
    gpus_per_trial: float | None = None


@dataclass
class _Session:
    """What the steps of one search hand on to one another."""

    request: SearchRequest
    run: RunFolder
    clock: BudgetClock
    progress: Progress
    workers: int
    cache: Path
    settings: dict[str, Any]
    seconds_before: float
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds of the run so far, earlier parts included."""
        return round(self.seconds_before + time.monotonic() - self.began, 1)


def search(request: SearchRequest, progress: Progress) -> RunFolder:
    """Run a search; returns its folder, complete with tables and report.

    Raises:
        InputError: a wrong input, before anything is spent.
        InterruptedSearchError: Ctrl-C; everything finished is kept.
        NothingSucceededError: no trial was completed.
    """
    budget = request.budget
    if request.sampler not in SAMPLERS:
        raise InputError(f"unknown sampler '{request.sampler}'; allowed: {', '.join(SAMPLERS)}")
    if request.resume:
        run = RunFolder.open(request.out or _latest_run())
        settings = _settings(request, run.read_run().get("settings", {}))
    else:
        settings = _settings(request, {})
        _refuse_taken(request.out)
        run = RunFolder(request.out or default_run_path())
    used = float(run.read_run().get("seconds", 0.0)) if request.resume else 0.0
    clock = BudgetClock.resumed(budget, run.results() if request.resume else [], used)
    progress.begin(clock)
    workers = request.workers or _default_workers()
    session = _Session(request, run, clock, progress, workers, cache_folder(), settings, used)
    inputs = load_inputs(
        data=_path(settings["data"]),
        teacher=_path(settings["teacher_file"]),
        teacher_yaml=_path(settings["teacher_yaml"]),
        trust_teacher=request.trust_teacher,
        space=settings["space_file"],
        device=settings["device_file"] or "local",
        cache=session.cache,
        on_progress=progress.phase,
    )
    for problem in inputs.dataset.problems[:5]:
        progress.log(f"skipped: {problem}")
    if len(inputs.dataset.problems) > 5:
        progress.log(f"skipped: {len(inputs.dataset.problems) - 5} more problems in the data")
    training = TrainingSettings(
        recipe=load_recipe(settings["recipe"] or "short"),
        precision=settings["precision"] or "auto",
        seed=settings["seed"] or 0,
        **({"epochs": settings["epochs"]} if settings["epochs"] else {}),
    )
    if not request.resume:
        run = session.run = RunFolder.create(run.path)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    run.update_run(**_description(session, inputs, training, started if not request.resume else None))
    progress.log(f"results go to {run.path}")
    try:
        with start_ray(workers, request.ray_address):
            assets, step_seconds = _prepare(session, inputs, training)
            _search(session, inputs, assets, step_seconds)
    except InterruptedSearchError:
        _write_tables(session)
        raise
    finally:
        run.update_run(seconds=session.seconds, ended=datetime.now(UTC).isoformat(timespec="seconds"))
    _finish(session, inputs)
    return run


def _prepare(session: _Session, inputs: Inputs, training: TrainingSettings) -> tuple[Assets, Mapping[str, float]]:
    """Views, targets, the teacher's figures, warmed families and the trials' length."""
    progress, workers, teacher = session.progress, session.workers, inputs.teacher
    teacher_size = teacher.image_size or max(inputs.image_sizes)
    plans = pools.plan_pools(inputs, training, session.cache, [teacher_size])
    trained = [plan for plan in plans if plan.image_size in inputs.image_sizes]
    teacher_plan = next(plan for plan in plans if plan.image_size == teacher_size)
    names, order = inputs.dataset.names, inputs.class_order

    progress.tasks("augmented views", pools.view_tasks(plans, names, training.seed, inputs.image_sizes), run_tasks)
    passes = progress.tasks(
        "teacher targets", pools.target_tasks(trained, teacher, order, training, workers), run_tasks
    )
    pools.seal(trained, teacher)
    known = session.run.read_run().get("teacher", {})
    if "map50" in known:
        figures = known
    else:
        task = reference.teacher_task(teacher, order, teacher_plan, inputs.device, session.run.path)
        figures = progress.tasks("scoring the teacher", [task], run_tasks)[0].as_json()
    progress.teacher(figures)
    warm = families.plan_warming(
        inputs.lineages, names, teacher, trained, training, _warm_seconds(session, inputs), session.cache
    )
    largest = trained[-1]
    images = len(largest.train)
    tasks = families.warm_tasks(
        warm, names, teacher, order, trained, training, images, session.run.path / STOP_FILE_NAME
    )
    warmed = progress.tasks("warming the families", tasks, run_tasks)
    calibration = length.calibration_tasks(inputs.lineages, names, teacher.channels, largest, training)
    timed = progress.tasks("timing a training step", calibration, run_tasks)
    step_seconds = {line.name: seconds for line, seconds in zip(inputs.lineages, timed, strict=True)}
    steps_per_epoch = max(1, round(images / training.recipe.batch_size))
    if session.settings["epochs"] is None and session.clock.budget.kind == "time":
        core_seconds = max(1.0, session.clock.left - FINISH_RESERVE_S) * workers
        training = training.model_copy(
            update={"epochs": length.epochs_for(core_seconds, step_seconds, steps_per_epoch)}
        )
    session.settings["epochs"] = training.epochs
    session.run.update_run(
        settings=session.settings,
        teacher=figures,
        reference={"latency_ms": figures["latency_ms"] * 1.1},
        training=training.model_dump(),
        preparation={
            "teacher_forward_passes": sum(passes),
            "warmed": {p.lineage.name: {"seconds": p.seconds, "from_teacher": p.sliced} for p in warm},
            "warm_steps": sum(done.steps for done in warmed),
            "step_seconds": {name: round(value, 4) for name, value in step_seconds.items()},
            "seconds": session.seconds,
        },
    )
    assets = Assets(
        names=names,
        pools={plan.image_size: plan.folders for plan in trained},
        supernets=families.supernets(warm),
        teacher_channels=teacher.channels[:3],
        images_per_epoch=images,
        device=inputs.device,
        training=training,
    )
    return assets, step_seconds


def _search(session: _Session, inputs: Inputs, assets: Assets, step_seconds: Mapping[str, float]) -> None:
    """The trials themselves."""
    size, training = max(inputs.image_sizes), assets.training
    steps_per_epoch = max(1, round(assets.images_per_epoch / training.recipe.batch_size))

    def estimate(params: Mapping[str, Scalar]) -> float:
        return length.trial_seconds(params, step_seconds, size, steps_per_epoch, training.epochs)

    def on_event(event: SearchEvent) -> None:
        if isinstance(event, TrialFinished):
            session.run.update_run(seconds=session.seconds)  # a killed run knows what it has used
        session.progress.event(event)

    figures = session.run.read_run()["teacher"]
    session.progress.searching(
        session.run.results(), Reference(latency_ms=figures["latency_ms"] * 1.1), training.epochs
    )
    run_search(
        inputs.space,
        MakeTrialWorker(assets, inputs.space),
        session.run,
        session.clock,
        sampler=session.request.sampler,
        workers=session.workers,
        seed=training.seed,
        resources_per_trial=_resources(session),
        on_event=on_event,
        estimate=estimate,
    )


def _finish(session: _Session, inputs: Inputs) -> None:
    """Time every student again on the quiet machine, then write the tables and the report."""
    session.progress.phase("timing the students again, nothing else running")
    remeasure(session.run, inputs.device, session.progress.share)
    results = _write_tables(session)
    if not any(result.state == "complete" for result in results):
        reasons = sorted({result.reason for result in results if result.reason})
        raise NothingSucceededError(
            f"no trial was completed in {session.run.path}" + (f": {reasons[0]}" if reasons else "")
        )
    session.progress.done(results)


def _write_tables(session: _Session) -> list[TrialResult]:
    results = session.run.results()
    session.run.write_tables(results, {result.trial for result in front(results)})
    write_report(session.run, session.run.report_file)
    return results


def _description(session: _Session, inputs: Inputs, training: TrainingSettings, started: str | None) -> dict[str, Any]:
    """What `run.json` says before the first trial."""
    facts = environment()
    described: dict[str, Any] = {
        "name": session.run.path.name,
        "data": "embedded demo (synthetic boards)" if inputs.demo else str(session.settings["data"]),
        "data_hash": inputs.data_hash,
        "names": list(inputs.dataset.names),
        "images": {split: len(content) for split, content in inputs.dataset.splits.items()},
        "problems": len(inputs.dataset.problems),
        "device": inputs.device.model_dump(),
        "space": inputs.space.name,
        "space_text": inputs.space.text,
        "budget": str(session.request.budget),
        "sampler": session.request.sampler,
        "workers": session.workers,
        "seed": training.seed,
        "objective": {"accuracy": "map50_95", "cost": "latency_ms"},
        "settings": session.settings,
        "versions": facts.pop("packages", {}),
        "machine": facts,
    }
    if not session.request.resume:
        described["teacher"] = {"name": inputs.teacher.name, "sha256": inputs.teacher.sha256}
    elif session.run.read_run().get("data_hash") != inputs.data_hash:
        raise InputError(f"{session.run.path}: the data changed since this run was started; start a new one")
    return described if started is None else {**described, "started": started}


def _settings(request: SearchRequest, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The request's settings; a resumed run keeps its own, and a different one on the command line is refused."""
    settings = {}
    for name in KEPT_SETTINGS:
        asked, before = getattr(request, name), kept.get(name)
        if kept and asked is not None and asked != before:
            option = "--" + name.replace("_file", "").replace("_", "-")
            raise InputError(f"{option} {asked}: the run to resume was started with {before}; start a new one instead")
        settings[name] = before if kept else asked
    return settings


def _refuse_taken(out: Path | None) -> None:
    """Say now, not after the preparation, that the output folder is taken."""
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        RunFolder.create(out)


def _latest_run() -> Path:
    runs = sorted(Path("results").glob("*/run.json"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise InputError("--resume: there is no run in results/; name its folder with --out")
    return runs[-1].parent


def _warm_seconds(session: _Session, inputs: Inputs) -> float:
    """Core seconds for warming the families: a share of a time budget, so many for each lineage of another one."""
    if session.clock.budget.kind == "time":
        return round(WARM_SHARE * session.clock.budget.amount * session.workers, 1)
    return WARM_SECONDS_PER_LINEAGE * len(inputs.lineages)


def _resources(session: _Session) -> dict[str, float]:
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        return {"cpu": 1}
    return {"cpu": 1, "gpu": session.request.gpus_per_trial or min(1.0, gpus / session.workers)}


def _default_workers() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
