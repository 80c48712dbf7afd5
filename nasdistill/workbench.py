"""What a worker process keeps open between trials: pools of views, targets, supernets, the profiler.

`Assets` says where things are and is sent to the worker; `Workbench` opens each of them once, when first needed.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from nasdistill.config import TrainingSettings
from nasdistill.data.views import Views, open_views
from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import Profiler, open_profiler
from nasdistill.distill.compute import Compute, choose_compute, keep_freed_memory
from nasdistill.distill.feed import Feed
from nasdistill.distill.inherit import adapt
from nasdistill.records import Scalar, TrialConfig
from nasdistill.students.families import build_student, lineage
from nasdistill.students.refit import Answers
from nasdistill.students.slicing import SlicePlan, load_slice
from nasdistill.students.student import Student
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.online import OnlineTargets
from nasdistill.teacher.targets import open_targets
from nasdistill.teacher.teacher import Teacher

FROM_TEACHER = "teacher-slices"
"""How `param.init` begins where a student is cut from the teacher."""


@dataclass(frozen=True)
class OnlineSource:
    """A teacher that is asked in every step, and the views of its own size. Picklable."""

    teacher: Teacher
    class_order: tuple[int, ...]
    views: Path
    form: TargetForm

    def targets(self, size: int, compute: Compute) -> OnlineTargets:
        """Its answers for students of input `size`."""
        compute.place(self.teacher.model)
        views, order = open_views(self.views), self.class_order
        return OnlineTargets(self.teacher, views, order, size, self.form, compute.autocast)


@dataclass(frozen=True)
class SizedPool:
    """Folders of one input size: training views, the teacher's targets for them, validation images."""

    views: Path
    targets: Path
    validation: Path
    maps: Path | None = None
    """The teacher's neck maps, where a loss compares them."""
    online: OnlineSource | None = None
    """The teacher itself, where nothing is kept of what it says."""

    def feed(self, compute: Compute) -> Feed:
        """The training views and targets, opened."""
        views = open_views(self.views)
        if self.online is None:
            return Feed(views, open_targets(self.targets, self.maps))
        return Feed(views, self.online.targets(views.size, compute))


@dataclass(frozen=True)
class SupernetFile:
    """A supernet: its weights, its architecture, and its `origin`.

    That is `teacher-slices`, `pretrained`, `pretrained+warmed`, `warmed` or `random`.
    """

    path: Path
    arch: Mapping[str, Scalar]
    origin: str
    answers: Mapping[int, Path] = field(default_factory=dict)
    """What the teacher's convolutions say, by input size: slices of the teacher are fitted to it."""


@dataclass(frozen=True)
class Assets:
    """All that the trials of a run share. Picklable; paths must be readable by the workers."""

    names: tuple[str, ...]
    pools: Mapping[int, SizedPool]
    supernets: Mapping[str, SupernetFile]
    teacher_channels: tuple[int, ...]
    images_per_epoch: int
    """Of a whole one, which `training.epoch_parts` divides."""
    device: DeviceProfile
    training: TrainingSettings
    threads: int = 1
    further_devices: tuple[DeviceProfile, ...] = ()
    """Where every student is timed as well."""
    needed: tuple[str, ...] = ()
    """Figures that the search compares: a student without one of them fails."""
    start_pools: Mapping[int, SizedPool] | None = None
    """Those that starting weights are fitted on, where students train on others."""

    @property
    def steps_per_epoch(self) -> int:
        """Training steps an epoch."""
        return max(1, round(self.images_per_epoch / self.training.epoch_parts / self.training.recipe.batch_size))


@dataclass(frozen=True)
class Start:
    """A student with the weights that it is cut from, the name of their origin (the trial's `param.init`), and the cut."""

    student: Student
    init: str
    plan: SlicePlan | None = None


class Workbench:
    """The assets of a run, opened."""

    def __init__(self, assets: Assets) -> None:
        torch.set_num_threads(assets.threads)
        keep_freed_memory()
        self.assets = assets
        self.compute: Compute = choose_compute(assets.training.precision)
        self.profiler: Profiler = open_profiler(assets.device)
        self.further: dict[str, Profiler] = {one.name: open_profiler(one) for one in assets.further_devices}
        self._supernets: dict[str, Student] = {}
        # caches of this object and not of its class: one that is dropped must let go of what it opened
        self.feed = functools.cache(self._feed)
        """Training views and targets of an input size."""
        self.validation = functools.cache(self._validation)
        """Letterboxed validation images of an input size, with labels."""
        self._answers = functools.cache(self._read_answers)

    @contextlib.contextmanager
    def repeating(self, seed: int) -> Iterator[None]:
        """Trials in this block are repeats. They train with another seed: batch order, connectors and whatever of a student
        is not inherited; and they are not scored on their way.

        Views, targets and supernets stay those of the run, and stay open.
        """
        before = self.assets
        self.assets = replace(before, training=before.training.model_copy(update={"seed": seed, "rungs": ()}))
        try:
            yield
        finally:
            self.assets = before

    def _feed(self, image_size: int) -> Feed:
        return self.assets.pools[image_size].feed(self.compute)

    def _validation(self, image_size: int) -> Views:
        return open_views(self.assets.pools[image_size].validation)

    def start(self, config: TrialConfig) -> Start:
        """A student as it is cut from its lineage's supernet; random where there is none."""
        student = build_student(config.family, config.arch, self.assets.names, self.assets.training.seed)
        name = lineage(config.family, config.arch)
        if name not in self.assets.supernets:
            return Start(student, "random")
        source = self.assets.supernets[name]
        if name not in self._supernets:
            supernet = build_student(config.family, source.arch, self.assets.names)
            supernet.model.load_state_dict(load_file(source.path))
            self._supernets[name] = supernet
        supernet = self._supernets[name]
        plan = load_slice(supernet.model.state_dict(), supernet.model, student.model)
        whole = plan.complete or source.origin == "random"
        return Start(student, source.origin if whole else f"{source.origin}+random", plan)

    def adapt(self, start: Start, config: TrialConfig) -> None:
        """Make one network of what was cut (`distill/inherit.py`). Changes the student."""
        if start.plan is not None:
            size, pools = config.image_size, self.assets.start_pools
            feed = self.feed(size) if pools is None else pools[size].feed(self.compute)
            answers = self._answers(lineage(config.family, config.arch), size)
            adapt(start.student, start.plan, feed, self.compute, answers)

    def _read_answers(self, name: str, image_size: int) -> Answers | None:
        path = self.assets.supernets[name].answers.get(image_size)
        return None if path is None else Answers.of_tensors(load_file(path))
