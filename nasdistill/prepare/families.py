"""The weights that trials start from: one supernet a lineage, cut from the teacher or warmed, cached by hash."""

import functools
import hashlib
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from ultralytics.nn.tasks import DetectionModel

from nasdistill.config import TrainingSettings
from nasdistill.data.views import open_views
from nasdistill.distill.compute import choose_compute, keep_freed_memory
from nasdistill.distill.feed import Feed
from nasdistill.distill.stage import first_not_finite
from nasdistill.distill.warm import warm_supernet
from nasdistill.errors import NasdistillError
from nasdistill.prepare.pools import PoolPlan
from nasdistill.prepare.starts import PretrainedFile
from nasdistill.store.atomic import replacing
from nasdistill.students.families import Lineage, build_student
from nasdistill.students.importance import sorted_by_importance
from nasdistill.students.pretrained import fit_weights, read_weights
from nasdistill.students.refit import ask, rows_kept, views_to_ask
from nasdistill.students.slicing import plan_slices, related, transplant
from nasdistill.students.student import Student
from nasdistill.tasks import Report, Task
from nasdistill.teacher.teacher import Teacher
from nasdistill.workbench import FROM_TEACHER, SupernetFile

WARM_VERSION = 10
LEARNING_RATE = 1.6e-2
MOST_MEMBERS = 6
MIN_RELATED = 0.9
# Trials of a family that is cut from the teacher for one of a family that is not: 56 of 86 beside two others in five runs
SLICED_TRIALS = 4.0


@dataclass(frozen=True)
class WarmPlan:
    """One lineage to be warmed for `seconds` at most; `sliced` says that the teacher's own weights fit it.

    It starts from random weights, then `pretrained` where there is a file, then the teacher's where they fit. What is cut
    from the teacher, or takes a pretrained backbone as it is, is not warmed: its trials are no better for it
    (docs/decisions.md), and 0 seconds are planned.
    """

    lineage: Lineage
    seconds: float
    path: Path
    sliced: bool
    threads: int = 1
    pretrained: PretrainedFile | None = None
    answers: Mapping[int, Path] = field(default_factory=dict)
    """What the teacher says to views of each input size, where students are cut from it (`students/refit.py`)."""

    @property
    def supernet(self) -> SupernetFile:
        """What a worker needs to open it."""
        own = [name for name, done in (("pretrained", self.pretrained), ("warmed", self.seconds)) if done]
        origin = FROM_TEACHER if self.sliced else "+".join(own) or "random"
        return SupernetFile(self.path, dict(self.lineage.largest), origin, self.answers)


@dataclass(frozen=True)
class Warmed:
    """What warming a lineage cost: steps and seconds."""

    steps: int
    seconds: float


def plan_warming(
    lineages: Sequence[Lineage],
    names: Sequence[str],
    teacher: Teacher,
    plans: Sequence[PoolPlan],
    training: TrainingSettings,
    core_seconds: float,
    workers: int,
    cache: Path,
    pretrained: Mapping[str, PretrainedFile] | None = None,
) -> list[WarmPlan]:
    """Divide `core_seconds` between the lineages by the trials that they are likely to get; `pretrained` is by lineage.

    The part of those that are not warmed is left to the trials. The cache's key holds all that a supernet depends on.
    """
    pretrained = pretrained or {}
    sliced = {lineage.name: _fits_teacher(lineage, names, teacher) for lineage in lineages}
    likely = trial_shares(lineages, [name for name, fits in sliced.items() if fits])
    files = {name for name, start in pretrained.items() if start.whole}
    whole = {line.name for line in lineages if line.name in files and _has_one_backbone(line, names)}
    parts = {name: share for name, share in likely.items() if not sliced[name] and name not in whole}
    seconds = dict.fromkeys(likely, 0.0) | _shared_out(parts, core_seconds * sum(parts.values()), workers)
    found = []
    for lineage in lineages:
        key = json.dumps(
            [WARM_VERSION, lineage.name, [dict(arch) for arch in lineage.archs], seconds[lineage.name], training.seed]
            + [plan.target_key for plan in plans]
            + [pretrained[lineage.name].sha256 if lineage.name in pretrained else ""],
            sort_keys=True,
        )
        path = cache / "supernets" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.safetensors"
        # with fewer lineages to warm than workers the cores would idle: a lineage then gets several threads
        threads = max(1, workers // len(parts)) if lineage.name in parts else 1
        start = pretrained.get(lineage.name)
        sizes = [plan.image_size for plan in plans] if sliced[lineage.name] else []
        answers = {size: path.with_name(f"{path.stem}-{size}.safetensors") for size in sizes}
        found.append(WarmPlan(lineage, seconds[lineage.name], path, sliced[lineage.name], threads, start, answers))
    return sorted(found, key=lambda plan: -plan.seconds)  # the longest first: they decide when warming ends


def trial_shares(lineages: Sequence[Lineage], sliced: Collection[str] = ()) -> dict[str, float]:
    """The share of a run's trials that each lineage is likely to get: families evenly, then architectures evenly.

    That is how samplers start. What they learn later is not known when the families are warmed, but that they learn to
    prefer the lineages in `sliced`, which are cut from the teacher, is.
    """
    families = {line.family for line in lineages}
    archs = {family: sum(len(line.archs) for line in lineages if line.family == family) for family in families}
    parts = {
        line.name: len(line.archs) / archs[line.family] * (SLICED_TRIALS if line.name in sliced else 1.0)
        for line in lineages
    }
    return {name: part / sum(parts.values()) for name, part in parts.items()}


def _shared_out(parts: Mapping[str, float], core_seconds: float, workers: int) -> dict[str, float]:
    """Seconds for each lineage: spread over the workers by size, then each worker's time is filled by its lineages."""
    bins: list[dict[str, float]] = [{} for _ in range(min(workers, len(parts)))]
    for name, part in sorted(parts.items(), key=lambda item: -item[1]):
        min(bins, key=lambda content: sum(content.values()))[name] = part
    each = core_seconds / workers
    return {name: round(each * part / sum(content.values()), 1) for content in bins for name, part in content.items()}


def warm_tasks(
    warm_plans: Sequence[WarmPlan],
    names: Sequence[str],
    teacher: Teacher,
    class_order: Sequence[int],
    pools: Sequence[PoolPlan],
    training: TrainingSettings,
    stop_file: Path,
) -> Sequence[Task[Warmed]]:
    """Work that warms the lineages that are not in the cache yet."""
    return [
        functools.partial(
            _warm,
            plan,
            tuple(names),
            teacher if plan.sliced else None,
            tuple(class_order),
            teacher.neck_channels,
            tuple(pools),
            training,
            stop_file,
        )
        for plan in warm_plans
        if not plan.path.exists()
    ]


def supernets(warm_plans: Sequence[WarmPlan]) -> Mapping[str, SupernetFile]:
    """The warmed supernets by lineage."""
    return {plan.lineage.name: plan.supernet for plan in warm_plans}


def _warm(
    plan: WarmPlan,
    names: tuple[str, ...],
    teacher: Teacher | None,
    class_order: tuple[int, ...],
    teacher_channels: tuple[int, ...],
    pools: tuple[PoolPlan, ...],
    training: TrainingSettings,
    stop_file: Path,
    report: Report,
) -> Warmed:
    started = time.perf_counter()
    torch.set_num_threads(min(plan.threads, os.cpu_count() or 1))  # a cluster's workers are not all on this node
    keep_freed_memory()
    torch.manual_seed(training.seed)
    supernet = build_student(plan.lineage.family, plan.lineage.largest, names, training.seed)
    if plan.pretrained is not None:
        fit_weights(read_weights(plan.pretrained.path), supernet)
    if teacher is not None:
        whole = in_data_order(sorted_by_importance(teacher.model), class_order)
        transplant(whole, supernet.model)
        _keep_answers(plan, whole, supernet, pools, training)
    steps = _train(plan, supernet, names, teacher_channels, pools, training, stop_file, report) if plan.seconds else 0
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in supernet.model.state_dict().items()}
    with replacing(plan.path) as temporary:
        save_file(tensors, temporary, metadata={"lineage": plan.lineage.name, "steps": str(steps)})
    return Warmed(steps, time.perf_counter() - started)


def _keep_answers(
    plan: WarmPlan, teacher: DetectionModel, supernet: Student, pools: Sequence[PoolPlan], training: TrainingSettings
) -> None:
    """What the teacher's convolutions say to some views of each size, in the channels that the supernet has."""
    compute, rows = choose_compute(training.precision), rows_kept(plan_slices(teacher, supernet.model), supernet.model)
    compute.place(teacher)
    for pool in pools:
        views = open_views(pool.folders.views)
        images = Feed(views, None).images(views_to_ask(len(views), pool.image_size), compute.device)
        with replacing(plan.answers[pool.image_size]) as temporary:
            save_file(ask(teacher, images, rows, training.seed).tensors(), temporary)


def _train(
    plan: WarmPlan,
    supernet: Student,
    names: tuple[str, ...],
    teacher_channels: tuple[int, ...],
    pools: tuple[PoolPlan, ...],
    training: TrainingSettings,
    stop_file: Path,
    report: Report,
) -> int:
    """Warm the supernet in place; the steps that it took."""
    compute = choose_compute(training.precision)
    smaller = plan.lineage.archs[:-1]
    spread = (
        sorted({round(i * (len(smaller) - 1) / max(1, MOST_MEMBERS - 1)) for i in range(MOST_MEMBERS)})
        if smaller
        else []
    )
    members = [build_student(plan.lineage.family, smaller[index], names) for index in spread]
    feeds = [p.folders.feed(compute) for p in pools]
    steps = warm_supernet(
        supernet,
        members,
        teacher_channels,
        feeds,
        steps=1_000_000,
        learning_rate=LEARNING_RATE,
        compute=compute,
        seed=training.seed,
        on_progress=lambda share: report(f"{share:.3f}"),
        should_stop=stop_file.exists,
        seconds=plan.seconds,
    )
    broken = first_not_finite(supernet.model)
    if broken:  # it would stay in the cache
        raise NasdistillError(f"warming {plan.lineage.name} left values that are not finite in {broken}")
    return steps


def in_data_order(model: DetectionModel, class_order: Sequence[int]) -> DetectionModel:
    """Give a teacher's copy the data's classes alone, in the data's order, in all branches. Changes `model`."""
    layers: Any = model.model
    head = layers[-1]
    for name in ("cv3", "one2one_cv3"):  # an NMS-free head has both
        for branch in getattr(head, name, None) or ():
            final = branch[-1]
            final.weight = torch.nn.Parameter(final.weight[list(class_order)].detach().clone())
            final.bias = torch.nn.Parameter(final.bias[list(class_order)].detach().clone())
            final.out_channels = len(class_order)
    head.nc = len(class_order)
    head.no = head.nc + 4 * head.reg_max
    return model


def _has_one_backbone(lineage: Lineage, names: Sequence[str]) -> bool:
    """Whether the lineage's students differ in nothing but what follows the backbone."""
    students = [build_student(lineage.family, arch, names) for arch in (lineage.archs[0], lineage.largest)]
    shapes = [[p.shape for layer in student.backbone() for p in layer.parameters()] for student in students]
    return shapes[0] == shapes[1]


def _fits_teacher(lineage: Lineage, names: Sequence[str], teacher: Teacher) -> bool:
    """Whether the lineage is the teacher's own family: whatever the widths, nearly all layers are the same ones."""
    student = build_student(lineage.family, lineage.largest, names)
    same_outputs = teacher.reg_max == student.head.reg_max
    return same_outputs and related(teacher.model, student.model) >= MIN_RELATED
