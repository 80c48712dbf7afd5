"""Muon's steps: orthogonal, the same in any layout, for dense weights alone; AdamW has all the rest."""

import pytest
import torch
from torch import nn

from nasdistill.config import CLASSIC, GPU_BATCH_SIZE, SHORT, Recipe
from nasdistill.distill.optimizers import (
    ITERATIONS,
    OPTIMIZERS,
    QUINTIC,
    SMALLEST_SIDE,
    UPDATE_RMS,
    Muon,
    dense_weights,
    orthogonal_updates,
    orthogonalised,
    parameter_groups,
    set_learning_rate,
)
from nasdistill.students.families import build_student

SHAPES = [(8, 8), (16, 144), (64, 16), (48, 64)]


def plain_newton_schulz(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration as it is published, in float64."""
    a, b, c = QUINTIC
    x = matrix.double() / matrix.double().norm()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", SHAPES)
def test_the_iteration_in_the_gram_matrix_is_the_published_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    for matrix, found in zip(matrices, orthogonalised(matrices), strict=True):
        torch.testing.assert_close(found.double(), plain_newton_schulz(matrix), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_all_directions_move_about_equally_far_and_keep_their_sense(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    uneven = u @ torch.diag(torch.logspace(0, -2, min(shape))) @ vh  # one direction a hundred times the last one
    found = orthogonalised(uneven[None])[0]
    along = (u.T @ found @ vh.T).diagonal()
    assert along.min() > 0.5 and along.max() < 1.3


def test_a_zero_gradient_stays_zero() -> None:
    """A supernet's member leaves the rows of wider ones without a gradient."""
    gradient = torch.randn(16, 24)
    gradient[8:] = 0.0
    found = orthogonalised(torch.stack([gradient, torch.zeros(16, 24)]))
    assert torch.isfinite(found).all()
    assert not found[0, 8:].any() and not found[1].any()
    assert found[0, :8].square().mean() > 0.01


def test_a_layout_in_memory_changes_nothing() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(16, 8, 3, 3), torch.randn(32, 16), torch.randn(16, 8, 3, 3)]
    updates = orthogonal_updates(gradients)
    again = orthogonal_updates([g.to(memory_format=torch.channels_last) if g.ndim == 4 else g for g in gradients])
    for gradient, update, other in zip(gradients, updates, again, strict=True):
        assert update.shape == gradient.shape
        torch.testing.assert_close(update, other)
        assert 0.6 < update.square().mean().sqrt() < 1.2
        assert (update * gradient).sum() > 0


def test_a_step_is_of_adamws_size_and_at_the_set_rate() -> None:
    torch.manual_seed(0)
    weight, idle = nn.Parameter(torch.randn(32, 16, 3, 3)), nn.Parameter(torch.randn(16, 16))
    optimizer = Muon([weight, idle], lr=1.0, weight_decay=0.0)
    set_learning_rate([optimizer], 0.01)
    before, unmoved = weight.detach().clone(), idle.detach().clone()
    weight.grad = torch.randn_like(weight) * 1e-6  # its length says nothing
    optimizer.step()
    moved = (weight.detach() - before).square().mean().sqrt()
    assert moved.item() == pytest.approx(0.01 * UPDATE_RMS, rel=0.4)
    assert torch.equal(idle.detach(), unmoved) and not optimizer.state[idle]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("family", ["yolov5", "mobilenetv3"])
def test_every_trainable_parameter_is_in_one_group(name: str, family: str) -> None:
    arch = {"depth": 0.33, "width": 0.125} if family == "yolov5" else {"variant": "small_050", "neck": 32}
    student = build_student(family, arch, ("a", "b"))
    student.head.dfl.requires_grad_(False)
    optimizers = OPTIMIZERS[name]((student.model,), 1e-3)
    grouped = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    trainable = [id(p) for p in student.model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)


def test_muon_has_dense_weights_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),  # four rows: too few directions
        nn.Conv2d(16, 32, 3),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.BatchNorm2d(32),
        nn.Linear(32, SMALLEST_SIDE),
        nn.Conv2d(16, 32, 3).requires_grad_(False),
    )
    assert [id(weight) for weight in dense_weights([model, model])] == [id(model[1].weight), id(model[4].weight)]
    decayed, plain = parameter_groups([model], without=dense_weights([model]))
    assert decayed["weight_decay"] > 0 and plain["weight_decay"] == 0
    assert [p.ndim for p in decayed["params"]] == [4, 4] and {p.ndim for p in plain["params"]} == {1}


def test_a_gpu_gets_batches_that_keep_it_busy() -> None:
    assert SHORT.batch_size < SHORT.on_gpu().batch_size == GPU_BATCH_SIZE
    assert CLASSIC.on_gpu() == CLASSIC
    larger = SHORT.model_copy(update={"batch_size": 64})
    assert larger.on_gpu() == larger


def test_a_recipe_recorded_before_there_was_a_choice_means_adamw() -> None:
    recorded = CLASSIC.model_dump(exclude={"optimizer"})
    assert Recipe.model_validate(recorded).optimizer == "adamw"


def test_a_student_cut_from_the_teacher_is_taught_more_slowly() -> None:
    assert SHORT.from_teacher(0.5).stage2_learning_rate == pytest.approx(0.01)
    assert SHORT.from_teacher(0.9).stage1_learning_rate == pytest.approx(0.005)
    assert SHORT.from_teacher(0.25) == SHORT.from_teacher(0.1) == SHORT
    assert SHORT.from_teacher(0.375).stage2_learning_rate == pytest.approx(0.013)
    before = SHORT.model_copy(update={"narrow_rate_share": None})  # as a run of an earlier version has recorded it
    assert before.from_teacher(0.1).stage2_learning_rate == pytest.approx(0.01)
    assert CLASSIC.from_teacher(0.1) == CLASSIC
