"""The pools that students train on, with the teacher's targets for them: how large they may be, and filling them."""

from dataclasses import dataclass

from nasdistill.config import TrainingSettings
from nasdistill.prepare import pools
from nasdistill.prepare.needs import cache_bytes, choose_cache
from nasdistill.session.session import Session

POOL_SHARE = 0.15
"""Of a time budget, or of a training: what drawing views and asking the teacher may cost."""


@dataclass(frozen=True)
class Filled:
    """Pools of views whose targets are on disk: the teacher's `own`, and those that students train on, by size."""

    own: pools.PoolPlan
    trained: list[pools.PoolPlan]
    teacher_passes: int

    @property
    def largest(self) -> pools.PoolPlan:
        """That of the students' largest input size."""
        return self.trained[-1]

    @property
    def train_images(self) -> int:
        """Images that the views were drawn of."""
        return len(self.largest.train)


def affordable(session: Session, training: TrainingSettings) -> TrainingSettings:
    """With as many views as a share of the time budget pays for."""
    session.progress.phase("timing the teacher")
    core_seconds = POOL_SHARE * session.clock.budget.amount * session.place.workers
    views = pools.affordable_views(session.inputs, training, core_seconds)
    return training.model_copy(update={"max_views": views})


def fill_pools(session: Session, training: TrainingSettings) -> tuple[TrainingSettings, Filled]:
    """Views and targets, made where they are missing; the settings with the form of cache that was chosen."""
    inputs, progress, run_tasks = session.inputs, session.progress, session.place.run_tasks
    teacher, names, order = inputs.teacher, inputs.dataset.names, inputs.class_order
    count, own_size, workers = pools.pool_size(inputs, training), inputs.teacher_size, session.place.workers
    kind, form = choose_cache(
        inputs.space,
        training.cache,
        teacher,
        inputs.image_sizes,
        own_size,
        count,
        session.cache / "targets",
        len(names),
    )
    training = training.model_copy(update={"cache": kind})  # on resuming the disk may look different
    progress.log(_cache_line(kind, cache_bytes(form, teacher, inputs.image_sizes, own_size, len(names)) * count))
    plans = pools.plan_pools(inputs, training, session.cache, form, online=kind == "online")
    own = next(plan for plan in plans if plan.image_size == own_size)
    trained = [plan for plan in plans if plan.image_size in inputs.image_sizes]
    progress.tasks("augmented views", pools.view_tasks(plans, names, training.seed, workers), run_tasks)
    fill = pools.target_tasks(trained, own, teacher, order, training, workers)
    passes = progress.tasks("teacher targets", fill, run_tasks)
    pools.seal(trained, teacher)
    return training, Filled(own, trained, sum(passes))


def _cache_line(kind: str, size: int) -> str:
    if kind == "online":
        return "teacher targets: none are kept, the teacher looks at every batch"
    return f"teacher targets: {kind}, {size / 1e6:.1f} MB"
