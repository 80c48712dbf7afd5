"""What the command line asks for, and what a resumed run brings along."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from nasdistill.config import TrainingSettings, load_recipe
from nasdistill.errors import InputError
from nasdistill.records import CacheKind, Precision
from nasdistill.search.budget import Budget, parse_budget
from nasdistill.search.pareto_asha import DEFAULT_SCHEDULER, check_scheduler
from nasdistill.search.samplers import DEFAULT_SAMPLER, check_sampler
from nasdistill.session.data_free import NO_DATA
from nasdistill.session.goals import goals_of
from nasdistill.space.search_space import SearchSpace
from nasdistill.store.run_folder import RunFolder, default_run_path

# What a resumed run takes from its run.json; on the command line it must be left out, or agree.
KEPT = (
    "data",
    "teacher",
    "teacher_yaml",
    "space",
    "device",
    "objectives",
    "recipe",
    "epochs",
    "precision",
    "seed",
    "cache",
    "constraint",
    "scheduler",
)

# Paths among them, which may be other ones where the files have moved: what they hold is compared when it is read.
MOVABLE = ("data", "teacher", "teacher_yaml")


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """A search as asked for. None means: the default, or what the resumed run was started with."""

    budget: Budget | None = None
    """The total, earlier parts of a resumed run included."""
    data: str | None = None
    teacher: str | None = None
    teacher_yaml: str | None = None
    trust_teacher: bool = False
    space: str | None = None
    device: list[str] | None = None
    """Where students are timed, the main device first."""
    objectives: list[str] | None = None
    """Names of an accuracy and one or two costs."""
    sampler: str | None = None
    scheduler: str | None = None
    workers: int | None = None
    seed: int | None = None
    epochs: int | None = None
    recipe: str | None = None
    precision: str | None = None
    cache: str | None = None
    out: Path | None = None
    resume: bool = False
    enqueue: Path | None = None
    warm_start: Path | None = None
    constraint: list[str] | None = None
    storage: str | None = None
    repeats: int | None = None
    ray_address: str | None = None
    gpus_per_trial: float | None = None


def check(request: SearchRequest) -> tuple[RunFolder, dict[str, Any]]:
    """The run folder (not made yet for a new run) and the resolved settings; quick, before anything is read.

    Raises:
        InputError: an unknown name, a folder that is taken, or settings that differ from the resumed run's.
    """
    check_sampler(request.sampler or DEFAULT_SAMPLER)
    for path in (
        request.data,
        request.teacher,
        request.teacher_yaml,
        None if request.out is None else str(request.out),
    ):
        if path is not None and not _is_text(path):
            raise InputError(f"{path!r}: the path cannot be written down, since it is no UTF-8; rename it")
    if request.budget is None and not request.resume:
        raise InputError("--budget is missing: time (90s, 30m, 2h), trials (40trials) or training work (200epochs)")
    check_scheduler(request.scheduler or DEFAULT_SCHEDULER)
    if request.precision is not None and request.precision not in get_args(Precision):
        raise InputError(f"unknown precision '{request.precision}'; allowed: {', '.join(get_args(Precision))}")
    if request.cache is not None and request.cache not in get_args(CacheKind):
        raise InputError(f"unknown cache '{request.cache}'; allowed: {', '.join(get_args(CacheKind))}")
    load_recipe(request.recipe or "short")
    share = request.gpus_per_trial
    if share is not None and share > 1 and share != int(share):
        raise InputError(f"--gpus-per-trial {share:g}: Ray gives a part of one GPU, or whole ones")
    if request.resume and (request.enqueue or request.warm_start):
        option = "--enqueue" if request.enqueue else "--warm-start"
        raise InputError(f"{option} is for a new run; a resumed one goes on with what it was started with")
    if request.enqueue is not None and not request.enqueue.is_file():
        raise InputError(f"--enqueue {request.enqueue}: no such file")
    if request.warm_start is not None:
        RunFolder.open(request.warm_start)
    if request.resume:
        run = RunFolder.open(request.out or _latest_run())
        kept = _agreeing(request, run)
        goals_of(kept, run.read_run())
        budget_of(request, run.read_run())
        return run, kept
    settings = {name: getattr(request, name) for name in KEPT}
    goals_of(settings)
    if request.out is not None and request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        RunFolder.create(request.out)  # says which kind of taken it is
    return RunFolder(request.out or default_run_path()), settings


def budget_of(request: SearchRequest, run: Mapping[str, Any]) -> Budget:
    """What was asked for, else what the resumed run was started with. Raises InputError when neither says anything.

    Epochs are whole ones, as a person counts them: where the run was begun with a budget of time and its trials' epochs
    are a part of the images, so many more of them.
    """
    if request.budget is None and "budget" not in run:
        raise InputError("--budget is missing: the run had not begun, and has none of its own")
    budget = request.budget or parse_budget(str(run["budget"]))
    parts = run.get("training", {}).get("epoch_parts", 1)
    return replace(budget, amount=budget.amount * parts, parts=parts) if budget.kind == "epochs" else budget


def training_of(settings: Mapping[str, Any], run: Mapping[str, Any], space: SearchSpace) -> TrainingSettings:
    """What all trials share: as a resumed run recorded it, else from the settings, then from the search space's file."""
    if "training" in run:
        return TrainingSettings.model_validate(run["training"])
    given = {name: settings[name] for name in ("epochs", "precision", "seed", "cache") if settings[name] is not None}
    if space.views is not None:
        given["views"] = space.views
    return TrainingSettings(recipe=load_recipe(settings["recipe"] or space.recipe or "short"), **given)


def _agreeing(request: SearchRequest, run: RunFolder) -> dict[str, Any]:
    """The resumed run's own settings.

    Raises:
        InputError: the command line asks for something else.
    """
    kept = run.read_run().get("settings")
    if not isinstance(kept, dict):
        raise InputError(f"{run.run_file}: has no settings to resume with")
    if isinstance(kept.get("device"), str):  # from when a run had one device
        kept["device"] = [kept["device"]]
    for name in KEPT:
        asked = getattr(request, name)
        if name in MOVABLE and asked not in (None, NO_DATA) and kept.get(name) not in (None, NO_DATA):
            kept[name] = asked
        elif asked is not None and asked != kept.get(name):
            option = "--" + name.replace("_", "-")
            before = _shown(kept.get(name)) if kept.get(name) is not None else "its default"
            raise InputError(
                f"{option} {_shown(asked)}: {run.path} was started with {before}; leave it out, or start a new run"
            )
    return {name: kept.get(name) for name in KEPT}


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _latest_run() -> Path:
    runs = sorted(Path("results").glob("*/run.json"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise InputError("--resume: there is no run in results/; name its folder with --out")
    return runs[-1].parent
