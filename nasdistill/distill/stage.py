"""One stage of training: what is free, how long, how fast."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from nasdistill.distill.compute import Compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import DistillationLoss, LossChoice, LossWeights
from nasdistill.errors import DeadlineReachedError, TrialError
from nasdistill.students.dynamic_conv import annealer
from nasdistill.students.student import Student

GRADIENT_CLIP = 10.0
WEIGHT_DECAY = 5e-4
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
    losses: LossChoice = field(default_factory=LossChoice)
    closing_steps: int = 0


@dataclass(frozen=True)
class StageRun:
    """What a stage did: the mean of each loss part over its last tenth, and its seconds."""

    losses: dict[str, float]
    seconds: float


def run_stage(
    student: Student,
    connectors: Connectors,
    feed: Feed,
    stage: Stage,
    temperature: Callable[[float], float],
    compute: Compute,
    seed: int,
    should_stop: Callable[[], bool] = lambda: False,
    teacher_share: Callable[[float], float] = lambda progress: 1.0,
) -> StageRun:
    """Train `student` and `connectors` in place.

    Args:
        temperature: from progress through the whole trial (0..1) to the temperature.
        should_stop: asked before every step.
        teacher_share: from the same progress to the share of their weights that the distillation losses have.

    Raises:
        DeadlineReachedError: `should_stop` said so.
        TrialError: the loss, or a weight at the end, is not finite.
    """
    model = student.model
    set_trainable(student, stage.freeze_backbone)
    criterion = DistillationLoss(student, connectors, stage.losses)
    parameters = [p for p in (*model.parameters(), *connectors.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups((model, connectors)), lr=stage.learning_rate, foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(step, stage.steps))
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.autocast is torch.float16)
    anneal = annealer(model)
    recent: list[dict[str, float]] = []
    started = time.perf_counter()
    for step, indices in enumerate(feed.indices(stage.steps, stage.batch_size, seed, stage.closing_steps)):
        if should_stop():
            raise DeadlineReachedError(f"stopped in {stage.name} at step {step} of {stage.steps}")
        batch = feed.batch(indices, compute.device, student.strides)
        progress = (stage.first_step + step) / max(1, stage.all_steps - 1)
        anneal(progress)
        with compute.context():
            output = model(batch.images)
        parts = criterion(
            output, batch.targets, batch.labels, stage.weights, temperature(progress), teacher_share(progress)
        )
        if not torch.isfinite(parts["total"]):
            raise TrialError(f"the loss became {parts['total'].item()} in {stage.name} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(parts["total"]).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        if step >= int(stage.steps * 0.9):
            recent.append({name: part.item() for name, part in parts.items()})
    broken = [name for name, tensor in model.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:  # the last update, or statistics that training mode does not read
        raise TrialError(f"{stage.name} left values that are not finite in {broken[0]}")
    losses = {}
    for name in recent[0] if recent else ():  # the teacher may fall silent on the way
        said = [row[name] for row in recent if name in row]
        losses[name] = sum(said) / len(said)
    return StageRun(losses, time.perf_counter() - started)


def set_trainable(student: Student, freeze_backbone: bool) -> None:
    """Put `student` in training mode; a frozen backbone keeps its weights and its BatchNorm statistics."""
    student.model.train()
    student.model.requires_grad_(True)
    student.head.dfl.requires_grad_(False)
    if freeze_backbone:
        for layer in student.backbone():
            layer.requires_grad_(False)
            layer.eval()


def parameter_groups(modules: Iterable[nn.Module]) -> list[dict[str, object]]:
    """Trainable parameters in two groups: weights that decay, and biases and BatchNorm parameters that do not."""
    decayed, plain = [], []
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else plain).append(parameter)
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]


def learning_rate_share(step: int, steps: int) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up over a twentieth, then a cosine fall."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return FINAL_LR_SHARE + (1.0 - FINAL_LR_SHARE) * (1.0 + math.cos(math.pi * progress)) / 2.0
