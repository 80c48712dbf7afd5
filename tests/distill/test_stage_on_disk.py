"""A stage on disk: what is read again lies in memory as it did."""

from pathlib import Path

import pytest
import torch
from small import CPU, small_feed, small_teacher, tiny_student

from nasdistill.config import OptimizerName
from nasdistill.distill.checkpoint import restore_training, save_training
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import LossWeights
from nasdistill.distill.stage import Stage, StageTraining


@pytest.fixture(scope="module")
def feed(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Feed:
    return small_feed(demo_yaml, tmp_path_factory.mktemp("checkpoint"), small_teacher())


def opened(feed: Feed, optimizer: OptimizerName) -> StageTraining:
    torch.manual_seed(0)
    student = tiny_student()
    connectors = Connectors(student.pyramid_channels, (32, 64, 128))
    CPU.place(student.model)
    CPU.place(connectors)
    weights = LossWeights(label=1.0)
    stage = Stage("stage 2", 6, 2e-3, weights, False, 0, 6, batch_size=4, optimizer=optimizer)
    return StageTraining(student, connectors, feed, stage, lambda progress: 2.0, CPU, seed=3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_lie_as_their_parameters_do(feed: Feed, tmp_path: Path, optimizer: OptimizerName) -> None:
    """Fused kernels refuse anything else, and only a GPU has them."""
    training, file = opened(feed, optimizer), tmp_path / "rung.safetensors"
    training.run_to(2)
    save_training(file, training, {})
    drawn = torch.rand(3)
    again = opened(feed, optimizer)
    restore_training(file, again)
    assert torch.equal(torch.rand(3), drawn), "random numbers go on where they were"
    strides = [
        (parameter.stride(), moment.stride())
        for one in again.optimizers
        for parameter, moments in one.state.items()
        for moment in moments.values()
        if moment.shape == parameter.shape
    ]
    assert len(strides) > 50 and all(of_parameter == of_moment for of_parameter, of_moment in strides)
    training.run()
    again.run()
    weights, others = training.student.model.state_dict(), again.student.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_a_stage_goes_on_where_another_type_needs_a_scaler(feed: Feed, tmp_path: Path) -> None:
    """Saved by a worker with bfloat16, restored by one with float16: on a GPU of another kind, say."""
    training, file = opened(feed, "adamw"), tmp_path / "rung.safetensors"
    training.run_to(1)
    save_training(file, training, {})
    other = opened(feed, "adamw")
    other.scaler = torch.amp.GradScaler("cpu", enabled=True)
    restore_training(file, other)
    assert other.step == 1
