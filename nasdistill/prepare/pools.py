"""Pools of views and the teacher's targets for them: which there are, where they lie, and the work that fills them.

Each function that does work takes plain, picklable arguments, so that it can run in any process.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nasdistill.config import TrainingSettings
from nasdistill.data.augment import ViewPolicy
from nasdistill.data.dataset import Split
from nasdistill.data.images import letterbox, read_image
from nasdistill.data.views import VERSION as VIEWS_VERSION
from nasdistill.data.views import build_views, is_complete, letterboxed_split, open_views, view_key
from nasdistill.distill.compute import choose_compute, release_gpu_memory
from nasdistill.prepare.inputs import Inputs
from nasdistill.records import Precision
from nasdistill.tasks import Report, Task
from nasdistill.teacher import targets
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.targets import PLAIN
from nasdistill.teacher.teacher import Teacher
from nasdistill.workbench import OnlineSource, SizedPool

MOST_VALIDATION_IMAGES = 1000
POLICIES: dict[str, ViewPolicy] = {
    # for trials of minutes plain views teach more than mosaics; the measurements are in docs/decisions.md
    "plain": ViewPolicy(p_mosaic=0.0, p_mixup=0.0, p_cutmix=0.0, p_erase=0.0, scale=0.1, translate=0.1),
    # for long training
    "heavy": ViewPolicy(p_mosaic=0.5, p_mixup=0.5, p_cutmix=0.5, p_erase=0.5, scale=0.25, translate=0.1),
}
SMALLEST_POOL = 64
TIMED_BATCH = 8
DRAWING_S = 0.01  # one view at 256 px, on one core


@dataclass(frozen=True)
class PoolPlan:
    """The pool of one input size: its folders, the training and validation images it uses, its keys."""

    image_size: int
    folders: SizedPool
    train: Split
    validation: Split
    count: int
    target_key: str
    policy: ViewPolicy
    form: TargetForm
    maps_key: str = ""
    """Of the teacher's neck maps, which all input sizes share."""


def plan_pools(
    inputs: Inputs, training: TrainingSettings, cache: Path, form: TargetForm = PLAIN, online: bool = False
) -> list[PoolPlan]:
    """One plan for each input size of the students, and one for the teacher's where it is another.

    `form` says what is kept of the teacher's targets; nothing is when it is asked `online`.

    Folders are named by the hash of all that their content depends on. View i of every size shows the same scene.
    """
    train = thinned(inputs.dataset.splits["train"], training.max_views)
    validation = thinned(inputs.dataset.splits["val"], MOST_VALIDATION_IMAGES)
    count = pool_size(inputs, training)
    policy, own = POLICIES[training.views], inputs.teacher_size
    precision = str(choose_compute(training.precision).autocast)
    own_key = view_key(inputs.data_hash, own, count, policy, training.seed)
    maps_key = hash_of([own_key, inputs.teacher.sha256, precision, targets.VERSION]) if form.maps else ""
    maps = cache / "maps" / maps_key[:20] if form.maps and not online else None
    source = OnlineSource(inputs.teacher, inputs.class_order, cache / "views" / own_key[:20], form) if online else None
    plans = []
    for size in sorted({*inputs.image_sizes, inputs.teacher_size}):
        key = view_key(inputs.data_hash, size, count, policy, training.seed)
        checked = f"val-{len(validation.image_paths)}"
        validation_key = hash_of([VIEWS_VERSION, inputs.data_hash, size, checked])
        # class order before size: other data may have the same boxes under other names
        facts = [key, inputs.teacher.sha256, inputs.class_order, own, precision, asdict(form), targets.VERSION]
        target_key = hash_of(facts)
        folders = SizedPool(
            cache / "views" / key[:20],
            cache / "targets" / target_key[:20],
            cache / "views" / validation_key[:20],
            maps,
            source,
        )
        plans.append(PoolPlan(size, folders, train, validation, count, target_key, policy, form, maps_key))
    return plans


def hash_of(facts: Sequence[object]) -> str:
    """sha256 (hex) of plain values: the name of what depends on them alone."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def pool_size(inputs: Inputs, training: TrainingSettings) -> int:
    """Views in a pool: the same number of every image, at most `max_views` in all."""
    images = min(len(inputs.dataset.splits["train"]), training.max_views)
    return images * max(1, min(training.views_per_image, training.max_views // images))


def affordable_views(inputs: Inputs, training: TrainingSettings, core_seconds: float) -> int:
    """How large a pool may be so that drawing it and asking the teacher costs about `core_seconds` for all input sizes.

    From one timed batch a size. Rounded down to a power of the square root of 2, so that the same budget on the same
    machine gives the same pool (and finds it in the cache) although timings vary.
    """
    wanted = min(training.max_views, training.views_per_image * len(inputs.dataset.splits["train"]))
    affordable = core_seconds / view_seconds(inputs, training)
    if affordable >= wanted:
        return wanted
    return max(SMALLEST_POOL, math.floor(2 ** (math.floor(2 * math.log2(max(affordable, 1.0))) / 2)))


def view_seconds(inputs: Inputs, training: TrainingSettings) -> float:
    """Core seconds that drawing a view at all input sizes and asking the teacher takes, from one timed batch.

    An image is read once for each size, however many views are drawn from it.
    """
    torch.set_num_threads(1)
    compute = choose_compute(training.precision)
    teacher = inputs.teacher
    compute.place(teacher.model)
    size = inputs.teacher_size
    images = torch.rand(TIMED_BATCH, 3, size, size, device=compute.device)
    seconds = []
    for _ in range(2):  # the first one allocates
        started = time.perf_counter()
        with compute.context():
            teacher(images, inputs.class_order).logits_bac.sum().item()  # a GPU is waited for
        seconds.append(time.perf_counter() - started)
    sizes = {*inputs.image_sizes, size}
    drawing = sum(DRAWING_S * (drawn / 256) ** 2 for drawn in sizes)
    sample, started = thinned(inputs.dataset.splits["train"], TIMED_BATCH), time.perf_counter()
    for path in sample.image_paths:
        letterbox(read_image(path), size)
    reading = (time.perf_counter() - started) / len(sample) * len(sizes) / max(1, training.views_per_image)
    teacher.model.cpu()
    del images
    release_gpu_memory()
    return seconds[-1] / TIMED_BATCH + drawing + reading


def thinned(split: Split, most: int) -> Split:
    """At most `most` images of a split, evenly spread over it (data sets are often sorted by class or scene)."""
    total = len(split.image_paths)
    if total <= most:
        return split
    kept = [index * total // most for index in range(most)]
    return Split(tuple(split.image_paths[i] for i in kept), tuple(split.boxes[i] for i in kept))


def view_tasks(plans: Sequence[PoolPlan], names: Sequence[str], seed: int, workers: int = 1) -> list[Task[None]]:
    """Work that is left to build the views and the validation images of all plans; none when the cache is complete.

    Where there are more `workers` than sizes, a size is drawn by several threads.
    """
    training, validation = (
        [plan for plan in plans if not is_complete(plan.folders.views)],
        [plan for plan in plans if not is_complete(plan.folders.validation)],
    )
    threads = max(1, workers // max(1, len(training)))
    tasks: list[Task[None]] = [
        functools.partial(_build_training_views, plan, tuple(names), seed, threads) for plan in training
    ]
    return tasks + [functools.partial(_build_validation_views, plan, tuple(names)) for plan in validation]


def _build_training_views(plan: PoolPlan, names: tuple[str, ...], seed: int, threads: int, report: Report) -> None:
    build_views(
        plan.train,
        names,
        plan.image_size,
        plan.count,
        plan.policy,
        seed,
        plan.folders.views,
        on_progress=lambda done, total: report(f"{done / total:.3f}"),
        workers=threads,
    )


def _build_validation_views(plan: PoolPlan, names: tuple[str, ...], report: Report) -> None:
    letterboxed_split(
        plan.validation,
        names,
        plan.image_size,
        plan.folders.validation,
        on_progress=lambda done, total: report(f"{done / total:.3f}"),
    )


def target_tasks(
    plans: Sequence[PoolPlan],
    teacher_plan: PoolPlan,
    teacher: Teacher,
    class_order: Sequence[int],
    training: TrainingSettings,
    workers: int,
) -> Sequence[Task[int]]:
    """Work that is left to fill the targets of `plans` from the teacher's own pool; none when the cache is complete."""
    if teacher_plan.folders.online is not None:
        return []
    missing = {
        plan.image_size: plan.folders.targets
        for plan in plans
        if not targets.is_complete(plan.folders.targets, plan.target_key)
    }
    maps, form = teacher_plan.folders.maps, teacher_plan.form
    if maps is not None and targets.is_complete(maps, teacher_plan.maps_key, maps=True):
        maps = None
    ranges: set[tuple[int, int]] = set()
    for size, folder in missing.items():
        ranges.update(targets.create_targets(folder, teacher, teacher_plan.count, size, len(class_order), form))
    if maps is not None:
        ranges.update(targets.create_maps(maps, teacher, teacher_plan.count, teacher_plan.image_size))
    shares = [share for worker in range(workers) if (share := sorted(ranges)[worker::workers])]
    return [
        functools.partial(_fill, missing, maps, teacher_plan, teacher, tuple(class_order), share, training.precision)
        for share in shares
    ]


def seal(plans: Sequence[PoolPlan], teacher: Teacher) -> None:
    """Mark the targets as complete, once all tasks are done."""
    for plan in plans:
        if plan.folders.online is not None:
            continue
        if not targets.is_sealed(plan.folders.targets):
            targets.seal_targets(plan.folders.targets, plan.target_key, teacher)
        if plan.folders.maps is not None and not targets.is_sealed(plan.folders.maps, maps=True):
            targets.seal_maps(plan.folders.maps, plan.maps_key, teacher)


def _fill(
    folders: Mapping[int, Path],
    maps: Path | None,
    teacher_plan: PoolPlan,
    teacher: Teacher,
    class_order: tuple[int, ...],
    ranges: Sequence[tuple[int, int]],
    precision: Precision,
    report: Report,
) -> int:
    """Fill view ranges; returns the number of teacher forward passes."""
    torch.set_num_threads(1)
    compute = choose_compute(precision)
    compute.place(teacher.model)
    total, done = sum(stop - start for start, stop in ranges), 0

    def count(views_done: int) -> None:
        nonlocal done
        done += views_done
        report(f"{done / total:.3f}")

    before = teacher.forward_passes
    targets.fill_targets(
        folders,
        teacher,
        open_views(teacher_plan.folders.views),
        class_order,
        ranges,
        compute.device,
        compute.autocast,
        on_progress=count,
        form=teacher_plan.form,
        maps=maps,
    )
    return teacher.forward_passes - before
