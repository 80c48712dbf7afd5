"""Pruning: fewer parameters, the same outputs in shape, shapes known beforehand, and the source as it was."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import ARCHS, CPU, NAMES, images_of, opinionated, randomise_norms, raw_heads, tiny_student
from torch import nn
from ultralytics.nn.modules.block import Attention
from zoo import raw_outputs, timm_student, yaml_student

from nasdistill.compress.prune import (
    CHANNEL_MULTIPLE,
    HIGHEST_RATIO,
    STAGES,
    Pruned,
    Pruning,
    channels_left,
    pruning_of,
    why_not_prunable,
)
from nasdistill.compress.prune import prune as prune_by
from nasdistill.distill.compute import Compute
from nasdistill.distill.stage import set_trainable
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.detector import OnnxDetector
from nasdistill.records import TrialConfig
from nasdistill.students.channels import strides_of, trace_channels
from nasdistill.students.families import build_student
from nasdistill.students.importance import places_of_groups
from nasdistill.students.student import Student, parameters_m

FAMILIES = ("yolov5", "yolov8", "yolo11", "yolo26", "mobilenetv3", "efficientnet_lite0")
TIMM = ("mobilevit_xxs", "ghostnet_050", "mobilenetv4_conv_small_050", "efficientnet_cc_b0_4e")


def small_student(family: str, seed: int = 0) -> Student:
    """A small student of any family, or with any timm backbone."""
    if family in TIMM:
        return timm_student(family, seed=seed)
    return tiny_student(family, seed) if family in ARCHS else yaml_student(family, 0.33, 0.125, seed)


def prune(student: Student, ratio: float, **options: object) -> Pruned:
    return prune_by(student, Pruning(ratio=ratio, **options))


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


@pytest.mark.parametrize("family", [*FAMILIES, *TIMM])
def test_the_more_is_asked_the_less_is_left_and_the_head_still_fits(family: str) -> None:
    student = small_student(family)
    before = {name: tensor.clone() for name, tensor in student.model.state_dict().items()}
    sizes = [parameters_m(student.model)]
    expected = raw_outputs(student.model, images_of())
    for ratio in (0.3, 0.5):
        pruned = prune(student, ratio)
        sizes.append(parameters_m(pruned.student.model))
        assert 0.0 < pruned.achieved < 1.0
        got = raw_outputs(pruned.student.model, images_of())
        assert [output.shape for output in got] == [output.shape for output in expected]
        assert pruned.student.strides == student.strides
        assert pruned.student.pyramid_channels != student.pyramid_channels
        assert pruned.student.family == family
    assert sizes == sorted(sizes, reverse=True)
    # CondConv's banks of experts, which hold most of its parameters, are left out
    assert sizes[2] < (0.6 if "_cc_" not in family else 0.96) * sizes[0]
    after = student.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_channels_that_say_nothing_go_and_what_is_said_stays(family: str) -> None:
    """Readers and norms lose the channels that their producers lose, not as many others."""
    student = small_student(family)
    opinionated(student.model)
    graph, state, chooser = trace_channels(student.model), student.model.state_dict(), torch.Generator().manual_seed(0)
    for group, places in places_of_groups(graph).items():
        if group in graph.locked or group in graph.fixed:
            continue
        size = places[0].size
        dead = torch.randperm(size, generator=chooser)[channels_left(size, 0.5, 1) :]
        for name, axis, start, _ in places:
            if axis == 0:
                state[name][start + dead] = 0.0  # producers and norms; what reads them would still read others
    expected = raw_outputs(student.model, images_of())
    pruned = prune(student, 0.5, channel_multiple=1)
    assert pruned.achieved > 0.2
    for got, wanted in zip(raw_outputs(pruned.student.model, images_of()), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_depend_on_the_ratio_and_on_nothing_else(family: str) -> None:
    """A student is timed before training and pruned after stage 1: trained, frozen, its layers made for bfloat16."""
    fresh = prune(small_student(family), 0.35)
    trained = small_student(family, seed=5)
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


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
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


class TestImportance:
    """Which channels go: scales, norms or the loss decide, the shapes stay the same."""

    def test_by_scale_the_smallest_scales_go_whatever_the_weights(self) -> None:
        student = tiny_student()
        first = student.model.model[0]
        keep = torch.arange(first.conv.out_channels) % 2 == 1
        first.bn.weight.data[~keep] = 0.1
        first.conv.weight.data[~keep] *= 100.0
        by_scale = prune(student, 0.45, importance="bn_scale").student.model.model[0].conv.weight
        assert torch.equal(by_scale, first.conv.weight[keep][: len(by_scale)])
        by_norm = prune(student, 0.45, importance="l2").student.model.model[0].conv.weight
        assert not torch.equal(by_norm, by_scale)

    def test_by_taylor_what_the_loss_does_not_feel_goes(self) -> None:
        student = tiny_student()
        gradients = {name: torch.ones_like(p) for name, p in student.model.named_parameters()}
        first = student.model.model[0]
        felt = torch.arange(first.conv.out_channels) % 2 == 0
        gradients["model.0.conv.weight"][~felt] = gradients["model.0.bn.weight"][~felt] = 0.0
        gradients["model.1.conv.weight"][:, ~felt] = 0.0
        pruning = Pruning(ratio=0.45, importance="taylor")
        left = prune_by(student, pruning, gradients).student
        kept = {tuple(row.flatten().tolist()) for row in left.model.model[0].conv.weight.detach()}
        assert kept <= {tuple(row.flatten().tolist()) for row in first.conv.weight.detach()[felt]}
        # before any training there are no gradients; shapes are known all the same
        assert shapes(prune_by(student, pruning).student) == shapes(left)


def test_stages_lose_what_their_factors_say() -> None:
    student = tiny_student()
    whole = {name: shape for name, shape in shapes(student).items() if name.endswith("conv.weight")}
    backbone, head = student.backbone_layers, len(student.model.model) - 1

    def stage_of(name: str) -> str:
        layer = int(name.split(".")[1])
        return STAGES[(layer > 2) + (layer >= backbone) + (layer == head)]  # the first three are at strides 2, 4 and 4

    for stages in (("early", "backbone"), ("backbone",), ("neck",), ("head",)):
        factors = {stage: float(stage in stages) for stage in STAGES}
        left = shapes(prune(student, 0.5, factors=factors).student)
        touched = {stage_of(name) for name, shape in whole.items() if left[name][0] != shape[0]}
        assert touched == set(stages)
    uniform = shapes(prune(student, 0.25).student)
    assert shapes(prune(student, 0.5, factors=dict.fromkeys(STAGES, 0.5)).student) == uniform


def test_a_trials_early_layers_have_the_backbones_factor_too() -> None:
    trial = TrialConfig(
        family="yolov5", arch={}, image_size=64, prune_ratio=0.8, prune_early=0.5, prune_backbone=0.5, prune_head=2.0
    )
    pruning = pruning_of(trial, 4)
    assert [pruning.ratio_of(stage) for stage in STAGES] == pytest.approx([0.2, 0.4, 0.8, HIGHEST_RATIO])


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_early_by_the_stride_of_what_they_give(family: str) -> None:
    student = small_student(family)
    left = shapes(prune(student, 0.5, factors={"early": 0.0}).student)
    cut = {name for name, shape in shapes(student).items() if name.endswith("weight") and left[name][0] != shape[0]}
    strides = strides_of(student.model, trace_channels(student.model))
    assert strides[next(iter(strides))] == 2 and max(strides.values()) == 32
    by_stride = {strides[name] for name in cut if name in strides}
    # an inverted bottleneck that samples down has as many channels before it does as after
    down = {4} if family in ("mobilenetv3", "efficientnet_lite0") else set()
    assert by_stride == {8, 16, 32} | down


@pytest.mark.parametrize(
    ("channels", "ratio", "multiple", "left"),
    [
        (64, 0.3, 4, 44),
        (64, 0.3, 16, 48),
        (8, 0.3, 4, 4),
        (8, 0.15, 4, 8),
        (6, 0.9, 8, 6),
        (16, 0.95, 8, 8),
        (10, 0.0, 4, 10),
        (40, 0.0, 16, 40),
    ],
)
def test_channels_are_rounded_to_the_devices_multiple(channels: int, ratio: float, multiple: int, left: int) -> None:
    assert channels_left(channels, ratio, multiple) == left


def test_attention_is_left_out_and_the_ratio_says_so() -> None:
    student = small_student("yolo11")
    pruned = prune(student, 0.5)
    assert 0.2 < pruned.achieved < 0.5
    blocks = [[m for m in s.model.modules() if isinstance(m, Attention)] for s in (student, pruned.student)]
    for before, after in zip(*blocks, strict=True):
        assert before.qkv.conv.weight.shape == after.qkv.conv.weight.shape
        assert torch.equal(before.proj.conv.weight, after.proj.conv.weight)


class Folded(nn.Module):
    """A layer that nothing can be cut out of: it mixes channels and space by reshaping."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> list[torch.Tensor] | torch.Tensor:
        output = self.inner(images)
        return [fold(maps) for maps in output] if isinstance(output, list) else fold(output)


def fold(maps: torch.Tensor) -> torch.Tensor:
    return maps.transpose(1, 2).flatten(1).view_as(maps)


def folded_student(everywhere: bool) -> Student:
    """A MobileNetV3 whose backbone's outputs are folded, or all that any layer before the head makes."""
    student = tiny_student("mobilenetv3")
    for layer in range(len(student.model.model) - 1 if everywhere else 1):
        old = student.model.model[layer]
        if everywhere and any(isinstance(module, nn.Conv2d) for module in old.modules()):
            fold_inside(old)
        new = Folded(old) if layer == 0 else old
        new.i, new.f, new.type = old.i, old.f, old.type
        student.model.model[layer] = new
    return student


def fold_inside(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, Folded(child))
        else:
            fold_inside(child)


def test_a_network_without_a_prunable_layer_says_why() -> None:
    assert why_not_prunable(tiny_student("mobilenetv3").model) is None
    assert why_not_prunable(folded_student(everywhere=False).model) is None  # its inside and the neck still are
    reason = why_not_prunable(folded_student(everywhere=True).model)
    assert reason is not None and reason.startswith("its channels cannot be followed through model.")


def test_what_is_not_followed_keeps_its_channels() -> None:
    student = folded_student(everywhere=False)
    pruned = prune(student, 0.5).student
    lateral = [s.model.model[4].conv.in_channels for s in (student, pruned)]
    assert lateral[0] == lateral[1]
    assert pruned.model.model[4].conv.out_channels < student.model.model[4].conv.out_channels
