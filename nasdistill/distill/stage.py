"""One stage of training: what is free, how long, how fast."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nasdistill.config import OptimizerName, Recipe
from nasdistill.distill.compute import Compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import DEFAULT, DistillationLoss, LossChoice, LossWeights
from nasdistill.distill.optimizers import OPTIMIZERS, set_learning_rate, step_all
from nasdistill.errors import DeadlineReachedError, TrialError
from nasdistill.students.dynamic_conv import annealer
from nasdistill.students.student import Student

FINAL_LR_SHARE = 0.05


@dataclass(frozen=True)
class Stage:
    """Settings of one stage.

    The last `closing_steps` draw light views alone. `first_step` and `all_steps` place it within the trial, for the
    schedules. `learning_rate` is the peak of a short linear warm-up and a cosine fall to FINAL_LR_SHARE of it.
    """

    name: str
    steps: int
    learning_rate: float
    weights: LossWeights
    freeze_backbone: bool
    first_step: int
    all_steps: int
    batch_size: int = 16
    losses: LossChoice = DEFAULT
    closing_steps: int = 0
    optimizer: OptimizerName = "adamw"

    def progress(self, step: int) -> float:
        """How far the whole trial is at a step of this stage, 0..1."""
        return (self.first_step + step) / max(1, self.all_steps - 1)


def timing_stage(steps: int, weights: LossWeights, recipe: Recipe, losses: LossChoice = DEFAULT) -> Stage:
    """A stage with everything free that hardly moves a weight: for timing its steps."""
    return Stage(
        "timing",
        steps,
        learning_rate=1e-6,
        weights=weights,
        freeze_backbone=False,
        first_step=0,
        all_steps=steps,
        batch_size=recipe.batch_size,
        optimizer=recipe.optimizer,
        losses=losses,
    )


@dataclass(frozen=True)
class StageRun:
    """What a stage did: the mean of each loss part over its last tenth, and its seconds."""

    losses: dict[str, float]
    seconds: float


class StageTraining:
    """One stage under way: `run_to` trains `student` and `connectors` in place, up to a step, again and again.

    Args:
        temperature: from progress through the whole trial (0..1) to the temperature.
        should_stop: asked before every step.
        teacher_share: from the same progress to the share of their weights that the distillation losses have.
    """

    def __init__(
        self,
        student: Student,
        connectors: Connectors,
        feed: Feed,
        stage: Stage,
        temperature: Callable[[float], float],
        compute: Compute,
        seed: int,
        should_stop: Callable[[], bool] = lambda: False,
        teacher_share: Callable[[float], float] = lambda progress: 1.0,
    ) -> None:
        self.stage, self.student, self.connectors = stage, student, connectors
        self.step = 0
        """Steps done."""
        self._feed, self._compute, self._should_stop = feed, compute, should_stop
        self._temperature, self._teacher_share = temperature, teacher_share
        set_trainable(student, stage.freeze_backbone)
        self._criterion = DistillationLoss(student, connectors, stage.losses)
        models = (student.model, connectors)
        self._parameters = [p for model in models for p in model.parameters() if p.requires_grad]
        self.optimizers = OPTIMIZERS[stage.optimizer](models, stage.learning_rate, compute.device.type == "cuda")
        self.scaler = compute.scaler()
        self._strides = student.strides  # read once: they lie on the GPU, which each look would wait for
        self._anneal = annealer(student.model)
        self._indices = feed.indices(stage.steps, stage.batch_size, seed, stage.closing_steps)
        self._recent: list[dict[str, float]] = []
        self._seconds = 0.0

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self._compute.device

    def go_on_from(self, step: int) -> None:
        """Skip the batches of the first `step` steps, which an earlier process made; weights are the caller's to load."""
        for _ in range(step - self.step):
            next(self._indices)
        self.step = step
        if step:  # the temperature of dynamic convolutions is none of their weights
            self._anneal(self.stage.progress(step - 1))

    def run(self) -> StageRun:
        """The whole stage; raises what `run_to` does."""
        return self.run_to(self.stage.steps)

    def run_to(self, step: int) -> StageRun:
        """Train until `step` steps are done, at most those of the stage; what the stage has done so far is returned.

        Raises:
            DeadlineReachedError: `should_stop` said so.
            TrialError: the loss, or a weight at the end, is not finite.
        """
        started = time.perf_counter()
        while self.step < min(step, self.stage.steps):
            if self._should_stop():
                raise DeadlineReachedError(f"stopped in {self.stage.name} at step {self.step} of {self.stage.steps}")
            parts = self._one_step(next(self._indices))
            if self.step >= int(self.stage.steps * 0.9):
                self._recent.append({name: part.item() for name, part in parts.items()})
            self.step += 1
        broken = first_not_finite(self.student.model)
        if broken:  # the last update, or statistics that training mode does not read
            raise TrialError(f"{self.stage.name} left values that are not finite in {broken}")
        self._seconds += time.perf_counter() - started
        return StageRun(self._losses(), self._seconds)

    def _one_step(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        stage, step = self.stage, self.step
        set_learning_rate(self.optimizers, stage.learning_rate * learning_rate_share(step, stage.steps))
        batch = self._feed.batch(indices, self._compute.device, self._strides)
        progress = stage.progress(step)
        self._anneal(progress)
        with self._compute.context():
            output = self.student.model(batch.images)
        parts = self._criterion(
            output,
            batch.targets,
            batch.labels,
            stage.weights,
            self._temperature(progress),
            self._teacher_share(progress),
        )
        if not torch.isfinite(parts["total"]):
            raise TrialError(f"the loss became {parts['total'].item()} in {stage.name} at step {step}")
        if (
            not step_all(parts["total"], self.optimizers, self._parameters, self.scaler)
            and not self.scaler.is_enabled()
        ):
            raise TrialError(f"the gradient is not finite in {stage.name} at step {step}")
        return parts

    def _losses(self) -> dict[str, float]:
        losses = {}
        for name in self._recent[0] if self._recent else ():  # the teacher may fall silent on the way
            said = [row[name] for row in self._recent if name in row]
            losses[name] = sum(said) / len(said)
        return losses


def set_trainable(student: Student, freeze_backbone: bool) -> None:
    """Put `student` in training mode; a frozen backbone keeps its weights and its BatchNorm statistics."""
    student.model.train()
    student.model.requires_grad_(True)
    student.head.dfl.requires_grad_(False)
    if freeze_backbone:
        for layer in student.backbone():
            layer.requires_grad_(False)
            layer.eval()


def first_not_finite(model: nn.Module) -> str | None:
    """The name of a parameter or buffer that holds a NaN or an infinity, None when there is none.

    One norm of them all tells: a GPU is waited for once, not once a tensor.
    """
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if torch.isfinite(nn.utils.get_total_norm(tensors.values(), norm_type=math.inf)):
        return None
    return next(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up over a twentieth, then a cosine fall."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return FINAL_LR_SHARE + (1.0 - FINAL_LR_SHARE) * (1.0 + math.cos(math.pi * progress)) / 2.0
