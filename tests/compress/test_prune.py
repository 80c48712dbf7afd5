"""Pruning: fewer parameters, the same outputs in shape, shapes known beforehand, and the source as it was."""

import copy
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import ARCHS, CPU, NAMES, images_of, opinionated, randomise_norms, raw_heads, tiny_student
from torch import nn

from nasdistill.compress.prune import CHANNEL_MULTIPLE, _time_limit, prune
from nasdistill.distill.compute import Compute
from nasdistill.distill.stage import set_trainable
from nasdistill.errors import TrialError
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.detector import OnnxDetector
from nasdistill.students.families import build_student
from nasdistill.students.student import Student, parameters_m


def shapes(student: Student) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in student.model.state_dict().items()}


@pytest.mark.parametrize("family", ARCHS)
def test_no_ratio_keeps_everything_in_a_copy(family: str) -> None:
    student = tiny_student(family)
    pruned = prune(student, 0.0)
    assert pruned.achieved == 0.0
    theirs = pruned.student.model.state_dict()
    for name, tensor in student.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]) and tensor.data_ptr() != theirs[name].data_ptr()


@pytest.mark.parametrize("family", ARCHS)
def test_the_more_is_asked_the_less_is_left_and_the_head_still_fits(family: str) -> None:
    student = tiny_student(family)
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    sizes = [parameters_m(student.model)]
    for ratio in (0.3, 0.5):
        pruned = prune(student, ratio)
        sizes.append(parameters_m(pruned.student.model))
        assert 0.0 < pruned.achieved < 1.0
        expected, got = raw_heads(student.model, images_of()), raw_heads(pruned.student.model, images_of())
        assert all(got[name].shape == expected[name].shape for name in expected)
        assert pruned.student.strides == student.strides
        assert pruned.student.pyramid_channels != student.pyramid_channels or family == "efficientnet_lite0"
        assert pruned.student.family == family
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.6 * sizes[0]
    after = student.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", ARCHS)
def test_shapes_depend_on_the_ratio_and_on_nothing_else(family: str) -> None:
    """A student is timed before training and pruned after stage 1: trained, frozen, its layers made for bfloat16."""
    fresh = prune(tiny_student(family), 0.35)
    trained = tiny_student(family, seed=5)
    randomise_norms(trained.model)
    set_trainable(trained, freeze_backbone=True)
    Compute(CPU.device, torch.bfloat16).place(trained.model)
    later = prune(trained, 0.35)
    assert shapes(fresh.student) == shapes(later.student)
    assert fresh.achieved == later.achieved


def test_a_copy_keeps_what_is_frozen_and_the_mode() -> None:
    student = tiny_student()
    set_trainable(student, freeze_backbone=True)
    frozen = {name for name, parameter in student.model.named_parameters() if not parameter.requires_grad}
    pruned = prune(student, 0.3).student
    assert {name for name, parameter in pruned.model.named_parameters() if not parameter.requires_grad} == frozen
    assert {name for name, parameter in student.model.named_parameters() if not parameter.requires_grad} == frozen
    assert pruned.model.training and student.model.training
    assert all(parameter.grad is None for parameter in pruned.model.parameters())


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(ratio=st.floats(0.0, 0.95), width=st.sampled_from([0.0625, 0.125, 0.1875]))
def test_nothing_is_ever_added_and_the_student_still_runs(ratio: float, width: float) -> None:
    student = build_student("yolov5", {"depth": 0.33, "width": width}, NAMES)
    pruned = prune(student, ratio)
    theirs, ours = shapes(pruned.student), shapes(student)
    assert theirs.keys() == ours.keys()
    assert all(small <= large for name in ours for small, large in zip(theirs[name], ours[name], strict=True))
    assert all(min(shape, default=1) > 0 for shape in theirs.values())
    assert 0.0 <= pruned.achieved < 1.0
    heads = raw_heads(pruned.student.model, images_of(count=1))
    assert all(torch.isfinite(tensor).all() for tensor in heads.values())


def test_channels_come_in_multiples_that_the_hardware_likes() -> None:
    student = build_student("yolov5", {"depth": 0.33, "width": 0.25}, NAMES)
    for layer in prune(student, 0.35).student.model.modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels not in (1, len(NAMES), 64):
            assert layer.out_channels % CHANNEL_MULTIPLE == 0


def test_the_weakest_channels_go_first() -> None:
    """With all but its first half silenced, a layer keeps the first half; what computes the output stays alike."""
    student = tiny_student()
    first = student.model.model[0]
    keep = torch.arange(first.conv.out_channels) % 2 == 1
    first.conv.weight.data[~keep] *= 1e-4
    first.bn.weight.data[~keep] *= 1e-4
    reader = student.model.model[1].conv
    reader.weight.data[:, ~keep] *= 1e-4
    left = prune(student, 0.45).student.model.model[0].conv.weight
    kept_rows = {tuple(row.flatten().tolist()) for row in first.conv.weight.detach()[keep]}
    assert len(left) < first.conv.out_channels
    assert {tuple(row.flatten().tolist()) for row in left.detach()} <= kept_rows


@pytest.mark.parametrize("family", ARCHS)
def test_the_pruned_export_says_what_torch_says(family: str, tmp_path: Path) -> None:
    student = tiny_student(family)
    opinionated(student.model)
    pruned = prune(student, 0.3).student
    write_onnx(pruned.model, 64, tmp_path / "pruned.onnx")
    images = images_of(2)
    with torch.no_grad():
        expected = copy.deepcopy(pruned.model).eval()(images)[0].numpy()
    got = OnnxDetector(tmp_path / "pruned.onnx").raw(images.numpy())
    assert got.shape == expected.shape
    assert np.abs(got[:, 4:] - expected[:, 4:]).max() < 1e-3
    assert np.abs(got[:, :4] - expected[:, :4]).max() < 1e-3 * 64


def test_a_graph_that_hangs_is_given_up() -> None:
    started = time.monotonic()
    with pytest.raises(TrialError, match="did not end within 1 s"), _time_limit(1):
        time.sleep(10)
    assert time.monotonic() - started < 5
