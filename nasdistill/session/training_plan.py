"""How long a training outside the search is, on how many threads, and from how many views."""

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from nasdistill.compress.prune import prune, pruning_of
from nasdistill.config import MOST_EPOCHS, MOST_VIEWS_PER_IMAGE, TrainingSettings
from nasdistill.distill.compute import release_gpu_memory
from nasdistill.errors import InputError
from nasdistill.prepare.length import TRIAL_OVERHEAD_S, step_seconds
from nasdistill.prepare.pools import pool_size, view_seconds
from nasdistill.records import Record, TrialConfig
from nasdistill.search.budget import Budget
from nasdistill.session.filled import POOL_SHARE, fill_pools
from nasdistill.session.preparation import FINISH_RESERVE_S
from nasdistill.session.session import Session
from nasdistill.store.atomic import write_text
from nasdistill.store.provenance import usable_cores
from nasdistill.students.student import Student
from nasdistill.trial_rungs import export_and_score
from nasdistill.workbench import Assets, Workbench

SCORED = 10
"""A training is scored, and kept for a restart, after each so-manieth part of it."""
LOOKS = 8
"""A pool is so large that a training looks at each view about so often; a search's, which is for trials of minutes, is
overfitted beyond (docs/decisions.md)."""


class Plan(Record):
    """What a training that is under way was started with: with the same budget it goes on, with another it starts anew."""

    budget: str
    threads: int
    training: TrainingSettings


def planned(config: TrialConfig, assets: Assets, session: Session, folder: Path) -> Assets:
    """The run's assets with the length, threads and views of a training of the session's budget, the latter drawn where
    they are missing: as it began, where one of this budget is under way in `folder`, else as measured now and kept there.

    Raises:
        InputError: not even an epoch fits into the budget.
    """
    clock, progress = session.clock, session.progress
    file, own = folder / "plan.json", assets.training.model_copy(update={"epoch_parts": 1})
    assets = replace(assets, training=own)
    before = _under_way(file, str(clock.budget), own)
    if before is not None:
        progress.log(f"goes on with a training of {before.training.epochs} epochs")
        assets = _with_views(assets, before.training, session)
        return replace(assets, threads=before.threads, training=before.training)
    progress.phase("timing a training step")
    seconds, threads = min(
        (_step_seconds(config, replace(assets, threads=threads)), threads) for threads in {1, usable_cores()}
    )
    epoch_s = seconds * assets.steps_per_epoch
    if clock.budget.kind == "epochs":
        epochs = min(int(clock.budget.amount), MOST_EPOCHS)
        assets = _with_views(assets, _larger(own, session, epochs * epoch_s, seconds), session)
    else:
        if clock.left < epoch_s:  # before anything slow
            raise _too_short(clock.budget, epoch_s)
        progress.phase("timing how long scoring takes")
        scoring = max(TRIAL_OVERHEAD_S, _scoring_seconds(config, replace(assets, threads=threads)))
        progress.log(f"{scoring:.0f} s a scoring")
        kept = FINISH_RESERVE_S + (SCORED + 1) * scoring
        assets = _with_views(assets, _larger(own, session, clock.left - kept, seconds), session)
        epochs = min(int((clock.left - kept) / epoch_s), MOST_EPOCHS)
    if epochs < 1:
        raise _too_short(clock.budget, epoch_s)
    rungs = sorted({epochs * part // SCORED for part in range(1, SCORED)} - {0, epochs})
    training = assets.training.model_copy(update={"epochs": epochs, "rungs": tuple(rungs)})
    views = pool_size(session.inputs, training)
    progress.log(f"{epochs} epochs of {views} views on {threads} thread(s), {seconds:.3f} s a step")
    plan = Plan(budget=str(clock.budget), threads=threads, training=training)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, plan.model_dump_json(indent=1) + "\n")
    release_gpu_memory()
    return replace(assets, threads=threads, training=training)


def _under_way(file: Path, budget: str, own: TrainingSettings) -> Plan | None:
    """The plan in `file`, where it is one of this budget and of the run's settings."""
    try:
        plan = Plan.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None
    differing = {name: getattr(own, name) for name in ("epochs", "rungs", "views_per_image", "max_views", "cache")}
    return plan if plan.budget == budget and plan.training.model_copy(update=differing) == own else None


def _larger(training: TrainingSettings, session: Session, seconds: float, step_s: float) -> TrainingSettings:
    """The settings with as many views as a training of `seconds` wants, where that is more; at most what POOL_SHARE of it
    pays for. Whole views an image, where there is one for each."""
    inputs = session.inputs
    has, images = pool_size(inputs, training), len(inputs.dataset.splits["train"])
    wanted = seconds / step_s * training.recipe.batch_size / LOOKS
    if wanted <= has:
        return training
    session.progress.phase("timing the teacher")
    affordable = has + POOL_SHARE * seconds * session.place.workers / view_seconds(inputs, training)
    views = math.floor(min(wanted, affordable))
    per_image = min(views // images, MOST_VIEWS_PER_IMAGE)
    count = per_image * images if per_image else views
    if count <= has:
        return training
    kind = "auto" if training.cache == "full" else training.cache  # there may not be room for so many
    return training.model_copy(update={"views_per_image": max(1, per_image), "max_views": count, "cache": kind})


def _with_views(assets: Assets, training: TrainingSettings, session: Session) -> Assets:
    """The assets with the views of `training`, where these are others than the run's; drawn now if they are not there."""
    of_run = assets.training
    if (training.views_per_image, training.max_views) == (of_run.views_per_image, of_run.max_views):
        return assets
    training, filled = fill_pools(session, training)
    drawn = {pool.image_size: pool.folders for pool in filled.trained}
    return replace(assets, training=training, pools=drawn, start_pools=assets.pools)


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
