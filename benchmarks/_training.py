"""What the training benchmarks share: inputs, a pool of views with the teacher's targets, and the timing of steps."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nasdistill.config import MOST_EPOCHS, SHORT, Recipe, TrainingSettings
from nasdistill.data.views import open_views
from nasdistill.devices.profile import load_devices
from nasdistill.distill.compute import Compute, choose_compute, keep_freed_memory
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import DEFAULT, LossChoice, LossWeights
from nasdistill.distill.stage import StageTraining, timing_stage
from nasdistill.prepare.families import Warmed, WarmPlan, plan_warming, warm_tasks
from nasdistill.prepare.inputs import Inputs, load_inputs
from nasdistill.prepare.needs import most_levels
from nasdistill.prepare.pools import PoolPlan, plan_pools, seal, target_tasks, view_tasks
from nasdistill.records import Precision, Scalar, TrialConfig, TrialResult
from nasdistill.search.worker import at_the_end
from nasdistill.space.search_space import flat_params
from nasdistill.students.families import Lineage, build_student
from nasdistill.students.student import Student
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.targets import PLAIN
from nasdistill.trial import trial_in_rungs
from nasdistill.trial_rungs import TrialPlace
from nasdistill.workbench import Assets, OnlineSource, SupernetFile, Workbench

MOST_VIEWS = 100_000  # no limit: --views-per-image says how many
DISTILLED = LossWeights(feature=1.0, cls=1.0, box=1.0, label=1.0)


@dataclass(frozen=True)
class Setting:
    """Checked inputs and the pools, a plan for each of `image_sizes`, whose views and targets are on disk."""

    inputs: Inputs
    pools: tuple[PoolPlan, ...]
    training: TrainingSettings
    all_pools: tuple[PoolPlan, ...]
    """Those of the teacher's own size too."""
    target_passes: int
    """Forward passes of the teacher that filling the targets took (0: they were there)."""
    target_core_s: float
    """Core seconds that filling them took (of a GPU, see `spent`)."""

    @property
    def data_name(self) -> str:
        """The data set, without where it lies."""
        return "embedded demo" if self.inputs.demo else self.inputs.dataset.yaml_path.resolve().parent.name

    def feed(self, with_targets: bool = True, image_size: int | None = None) -> Feed:
        """The views of one size (the only one, unless named), with the teacher's targets or with labels alone."""
        pool = self.pools[0] if image_size is None else next(p for p in self.pools if p.image_size == image_size)
        if not with_targets:
            return Feed(open_views(pool.folders.views), None)
        return pool.folders.feed(choose_compute(self.training.precision))

    def online_feed(self, form: TargetForm) -> Feed:
        """The views of the only size, with the teacher itself in the place of the cache."""
        own = next(plan for plan in self.all_pools if plan.image_size == self.inputs.teacher_size)
        source = OnlineSource(self.inputs.teacher, self.inputs.class_order, own.folders.views, form)
        folders = dataclasses.replace(self.pools[0].folders, online=source)
        return folders.feed(choose_compute(self.training.precision))

    def student(self, family: str, arch: Mapping[str, Scalar]) -> Student:
        """A student with random weights, always the same ones."""
        return build_student(family, arch, self.inputs.dataset.names, seed=0)

    def assets(
        self, warmed: Mapping[str, SupernetFile], training: TrainingSettings, images_per_epoch: int | None = None
    ) -> Assets:
        """What a trial's workbench opens; without `warmed` supernets, students start from random weights."""
        return Assets(
            names=self.inputs.dataset.names,
            pools={pool.image_size: pool.folders for pool in self.pools},
            supernets=warmed,
            teacher_channels=self.inputs.teacher.neck_channels,
            images_per_epoch=images_per_epoch or len(self.pools[-1].train),
            device=self.inputs.device,
            training=training,
        )


def length_of(steps: int, batch_size: int) -> tuple[int, int, int]:
    """Epochs and images an epoch of a training of about `steps` steps, and how many it really has.

    A step is an epoch, so that a training has any number of them; where that would be more epochs than settings allow,
    several steps are.
    """
    each = -(-steps // MOST_EPOCHS)
    return steps // each, each * batch_size, steps // each * each


def spent(compute: Compute) -> float:
    """A clock of what work costs, in seconds: of this process's cores, or of a GPU, which is waited for."""
    if compute.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """`--data` and `--teacher`: both or neither."""
    parser.add_argument("--data", type=Path, help="a data.yaml (default: the embedded demo)")
    parser.add_argument("--teacher", type=Path, help="the teacher's file (default: the embedded demo's)")


def open_setting(
    data: Path | None,
    teacher: Path | None,
    folder: Path,
    training: TrainingSettings,
    image_sizes: Sequence[int] | None = None,
    space: str | None = None,
    form: TargetForm | None = PLAIN,
    kept_space: str | None = None,
) -> Setting:
    """Read the inputs and fill the pools in `folder`; `image_sizes` replaces those of the search space, `form` says
    what is kept of the teacher's targets, at the levels that the space's students have (None: no targets are made, for
    labels alone). `kept_space` is the text of the search space that a run was started with: the shipped ones change.

    Raises:
        InputError: something is missing or wrong.
    """
    keep_freed_memory()  # as the workers of a search do
    if torch.cuda.is_available():  # as the preparation of a search does
        training = training.model_copy(update={"recipe": training.recipe.on_gpu()})
    inputs = load_inputs(data, teacher, None, False, space, load_devices(["local"]), folder, kept_space=kept_space)
    if image_sizes is not None:
        inputs = dataclasses.replace(inputs, image_sizes=tuple(image_sizes))
    kept = dataclasses.replace(form or PLAIN, levels=most_levels(inputs.space))
    plans = plan_pools(inputs, training, folder, kept)
    own = next(plan for plan in plans if plan.image_size == inputs.teacher_size)
    trained = [plan for plan in plans if plan.image_size in inputs.image_sizes]
    for task in view_tasks(plans, inputs.dataset.names, training.seed):
        task(_ignore)
    taught = trained if form is not None else []
    tasks = target_tasks(taught, own, inputs.teacher, inputs.class_order, training, workers=1)
    compute = choose_compute(training.precision)
    before = spent(compute)
    passes = sum(task(_ignore) for task in tasks)
    seconds = spent(compute) - before
    seal(taught, inputs.teacher)
    return Setting(inputs, tuple(trained), training, tuple(plans), passes, seconds)


@dataclass
class StepTimer:
    """Times single training steps of one student, as `StageTraining` makes them."""

    student: Student
    connectors: Connectors
    feed: Feed
    weights: LossWeights
    compute: Compute
    losses: LossChoice = field(default_factory=LossChoice)
    recipe: Recipe = SHORT
    """What it says of batches and the optimiser."""
    wall_s: list[float] = field(default_factory=list)
    spent_s: list[float] = field(default_factory=list)
    """By the clock of `spent`."""
    steps: int = 0
    """All steps made, those that were not kept included."""

    def __post_init__(self) -> None:
        self.compute.place(self.student.model)
        self.compute.place(self.connectors)

    def step(self, seed: int, keep: bool = True) -> None:
        """Run a stage of two steps and keep the time of the second: the first one sets the optimiser up.

        `keep=False` is a warm-up.
        """
        wall, cost = [], []

        def before_each_step() -> bool:
            cost.append(spent(self.compute))
            wall.append(time.perf_counter())
            return False

        stage = timing_stage(2, self.weights, self.recipe, self.losses)
        StageTraining(
            self.student,
            self.connectors,
            self.feed,
            stage,
            lambda progress: 2.0,
            self.compute,
            seed=seed,
            should_stop=before_each_step,
        ).run()
        before_each_step()
        self.steps += stage.steps
        if keep:
            self.wall_s.append(wall[2] - wall[1])
            self.spent_s.append(cost[2] - cost[1])


def make_timer(
    setting: Setting,
    student: Student,
    feed: Feed,
    weights: LossWeights,
    compute: Compute,
    losses: LossChoice = DEFAULT,
    recipe: Recipe | None = None,
) -> StepTimer:
    """A timer of a student whose connectors fit the setting's teacher."""
    torch.manual_seed(0)
    generators = losses.feature == "mgd"
    channels = setting.inputs.teacher.neck_channels
    connectors = Connectors(student.pyramid_channels, channels, generators=generators)
    return StepTimer(student, connectors, feed, weights, compute, losses, recipe or setting.training.recipe)


def distillation_timer(
    setting: Setting, family: str, arch: Mapping[str, Scalar], precision: Precision, image_size: int | None = None
) -> StepTimer:
    """A timer of a student's distillation steps from the cache, with every loss."""
    feed, compute = setting.feed(image_size=image_size), choose_compute(precision)
    return make_timer(setting, setting.student(family, arch), feed, DISTILLED, compute)


def warm_plans(
    setting: Setting, lineages: Sequence[Lineage], core_seconds: float, workers: int, folder: Path
) -> list[WarmPlan]:
    """How a search would divide `core_seconds` between the lineages, and what each of them starts from."""
    inputs = setting.inputs
    names, teacher, found = inputs.dataset.names, inputs.teacher, inputs.pretrained
    return plan_warming(lineages, names, teacher, setting.pools, setting.training, core_seconds, workers, folder, found)


def warm(setting: Setting, plan: WarmPlan, folder: Path) -> Warmed | None:
    """Warm one lineage as a search does; None when its supernet is in the cache already."""
    tasks = warm_tasks(
        [plan],
        setting.inputs.dataset.names,
        setting.inputs.teacher,
        setting.inputs.class_order,
        setting.pools,
        setting.training,
        folder / "stop",
    )
    return tasks[0](_ignore) if tasks else None


def run_one_trial(config: TrialConfig, assets: Assets, folder: Path) -> TrialResult:
    """Run one trial in this process, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return at_the_end(trial_in_rungs(config, Workbench(assets), TrialPlace(0, folder, flat_params(config)), _ignore))


def _ignore(text: str) -> None:
    """Nobody watches the preparation of a benchmark."""
