"""Gradients for Taylor importance: those of the loss, and nothing else is touched."""

from pathlib import Path

import pytest
import torch
from small import CPU, small_feed, small_teacher, tiny_student

from nasdistill.compress.prune import Pruning, prune
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import DistillationLoss, LossWeights
from nasdistill.distill.sensitivity import loss_gradients
from nasdistill.distill.stage import set_trainable

WEIGHTS = LossWeights(feature=1.0, cls=1.0, box=1.0, label=1.0)


@pytest.fixture(scope="module")
def feed(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return small_feed(demo_yaml, tmp_path_factory.mktemp("sensitivity"), small_teacher())


def test_they_are_the_gradients_of_the_loss_and_the_student_stays_as_it_is(feed: Feed) -> None:
    student = tiny_student()
    connectors = Connectors(student.pyramid_channels, (32, 64, 128))
    set_trainable(student, freeze_backbone=True)
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    gradients = loss_gradients(student, connectors, feed, WEIGHTS, 2.0, CPU, batches=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.model.state_dict().items())
    assert all(p.grad is None for p in (*student.model.parameters(), *connectors.parameters()))
    assert not student.model.model[0].conv.weight.requires_grad  # stage 1 froze it; its gradient is known all the same

    set_trainable(student, freeze_backbone=False)
    batch = feed.batch(next(feed.indices(1, 16, seed=0)), CPU.device)
    criterion = DistillationLoss(student, connectors)
    criterion(student.model(batch.images), batch.targets, batch.labels, WEIGHTS, 2.0)["total"].backward()
    for name, parameter in student.model.named_parameters():
        if parameter.grad is not None:
            # of the whole tensor: single values are sums that nearly cancel, in an order that threads decide
            assert (gradients[name] - parameter.grad).norm() <= 1e-3 * parameter.grad.norm() + 1e-6, name


def test_a_student_is_pruned_by_them(feed: Feed) -> None:
    student = tiny_student()
    connectors = Connectors(student.pyramid_channels, (32, 64, 128))
    gradients = loss_gradients(student, connectors, feed, WEIGHTS, 2.0, CPU, batches=2)
    by_loss = prune(student, Pruning(ratio=0.4, importance="taylor"), gradients).student.model.state_dict()
    by_norm = prune(student, Pruning(ratio=0.4)).student.model.state_dict()
    assert all(by_loss[name].shape == by_norm[name].shape for name in by_norm)
    assert any(not torch.equal(by_loss[name], by_norm[name]) for name in by_norm if name.endswith("conv.weight"))
