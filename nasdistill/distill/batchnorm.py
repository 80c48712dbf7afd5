"""BatchNorm statistics that belong to the weights as they are now."""

import torch
from torch import nn

from nasdistill.distill.compute import Compute
from nasdistill.distill.feed import Feed
from nasdistill.students.student import Student

BATCHES, BATCH_SIZE = 8, 16


@torch.no_grad()
def recalibrate(student: Student, feed: Feed, compute: Compute, light: bool = False) -> None:
    """Average the BatchNorm statistics of `student` anew over a few batches. Changes `student`.

    Running averages with momentum 0.03 lag behind weights that change within a few dozen steps, and belong to another
    network after slicing or pruning: a short trial's score then says more about them than about the student. `light`: over
    views without heavy augmentation, closer to what the detector will meet, where the pool has any.
    """
    compute.place(student.model)
    norms = [module for module in student.model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    student.model.eval()  # without stochastic depth: what is exported has none
    student.head.training = True  # its answers are of no use here, and need not be decoded
    for norm in norms:
        norm.train()
    for batch, indices in enumerate(feed.indices(BATCHES, BATCH_SIZE, seed=0, closing_steps=BATCHES if light else 0)):
        for norm in norms:
            # a plain average over the batches, since each runs once in a pass; torch's own (None) has a GPU waited for
            norm.momentum = 1 / (batch + 1)
        with compute.context():
            student.model(feed.images(indices, compute.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
