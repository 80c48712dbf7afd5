"""How the distillation loss changes with every weight: what Taylor importance needs to know before pruning."""

import copy

import torch
from torch import Tensor

from nasdistill.distill.compute import Compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import DEFAULT, DistillationLoss, LossChoice, LossWeights
from nasdistill.distill.stage import set_trainable
from nasdistill.students.student import Student

BATCHES, BATCH_SIZE = 4, 16


def loss_gradients(
    student: Student,
    connectors: Connectors,
    feed: Feed,
    weights: LossWeights,
    temperature: float,
    compute: Compute,
    batches: int = BATCHES,
    losses: LossChoice = DEFAULT,
    teacher_share: float = 1.0,
) -> dict[str, Tensor]:
    """Gradients of the loss against the cached targets by parameter name, averaged over a few batches.

    `losses` and `teacher_share` are those of the stage that follows. `student` and `connectors` are not changed. A batch
    whose loss is not finite is left out.
    """
    compute = compute.without_float16()
    twin = Student(copy.deepcopy(student.model), student.family, student.backbone_layers)
    compute.place(twin.model)
    set_trainable(twin, freeze_backbone=False)
    connectors = copy.deepcopy(connectors)
    compute.place(connectors)
    criterion = DistillationLoss(twin, connectors, losses)
    twin.model.zero_grad(set_to_none=True)
    counted = 0
    for indices in feed.indices(batches, BATCH_SIZE, seed=0):
        batch = feed.batch(indices, compute.device, twin.strides)
        with compute.context():
            output = twin.model(batch.images)
        parts = criterion(output, batch.targets, batch.labels, weights, temperature, teacher_share)
        total = parts["total"]
        if torch.isfinite(total):
            total.backward()
            counted += 1
    gradients = {name: parameter.grad for name, parameter in twin.model.named_parameters()}
    return {name: gradient / max(1, counted) for name, gradient in gradients.items() if gradient is not None}
