"""A slice computes what the large network computes with its other channels masked; sorting puts the live ones first.

The oracle knows nothing of the channel graph: it silences the *outputs* of every layer beyond the slice (of both halves
where a block chunks them), so that whoever reads them reads zeros, and skips the blocks that the small network lacks.
"""

import copy
import functools
import re
from typing import Any

import pytest
import torch
from small import NAMES, images_of, randomise_norms
from torch import nn
from ultralytics.nn.modules import C2PSA, C3, C2f
from zoo import raw_outputs, timm_student, yaml_student

from nasdistill.students.families import build_student
from nasdistill.students.importance import sorted_by_importance
from nasdistill.students.slicing import load_slice, plan_slices, transplant
from nasdistill.students.student import Student

PAIRS = {
    "yolov5 quarter": ("yolov5", {"depth": 0.33, "width": 0.25}, {"depth": 0.33, "width": 0.0625}),
    "yolov5 odd step": ("yolov5", {"depth": 0.67, "width": 0.25}, {"depth": 0.67, "width": 0.1875}),
    "yolov5 depth": ("yolov5", {"depth": 0.67, "width": 0.125}, {"depth": 0.33, "width": 0.0625}),
    "yolov8 width": ("yolov8", {"depth": 0.33, "width": 0.25}, {"depth": 0.33, "width": 0.0625}),
    "yolov8 both": ("yolov8", {"depth": 0.67, "width": 0.1875}, {"depth": 0.33, "width": 0.125}),
    "yolo11 width": ("yolo11", {"depth": 0.5, "width": 0.25}, {"depth": 0.5, "width": 0.125}),
    "yolo11 both": ("yolo11", {"depth": 1.0, "width": 0.25}, {"depth": 0.5, "width": 0.125}),
    "yolo26 both": ("yolo26", {"depth": 1.0, "width": 0.25}, {"depth": 0.5, "width": 0.125}),
    "yolov5 least": (
        "yolov5",
        {"depth": 0.33, "width": 0.25},
        {"depth": 0.33, "width": 0.0625, "least_channels": 32},
    ),
    "mobilenetv3 neck": ("mobilenetv3", {"variant": "small_050", "neck": 48}, {"variant": "small_050", "neck": 32}),
    "mobilenetv3 both": ("mobilenetv3", {"variant": "small_100", "neck": 48}, {"variant": "small_075", "neck": 32}),
    "mobilenetv3 half": ("mobilenetv3", {"variant": "small_100", "neck": 32}, {"variant": "small_050", "neck": 32}),
    "mobilenetv3 large": ("mobilenetv3", {"variant": "large_100", "neck": 32}, {"variant": "large_075", "neck": 32}),
    "efficientnet neck": ("efficientnet_lite0", {"neck": 64}, {"neck": 48}),
}


def built(family: str, arch: dict, seed: int = 0) -> Student:
    if family.startswith("yolo") and arch.keys() == {"depth", "width"}:
        return yaml_student(family, arch["depth"], arch["width"], seed)
    return build_student(family, arch, NAMES, seed)


def pair(name: str) -> tuple[Student, Student]:
    """A large student with random norms, and a small one with other weights, in float64: rounding hides nothing."""
    return copy.deepcopy(_pair(name))


@functools.cache
def _pair(name: str) -> tuple[Student, Student]:
    family, large_arch, small_arch = PAIRS[name]
    large, small = built(family, large_arch, seed=1), built(family, small_arch, seed=2)
    randomise_norms(large.model)
    large.model.double()
    small.model.double()
    blocks = dict(large.model.named_modules())
    for block_name, block in small.model.named_modules():
        # where rounding makes a block's input as wide as its output, timm adds a shortcut that the large one lacks
        if getattr(block, "has_skip", False) and not blocks[block_name].has_skip:
            assert name == "mobilenetv3 half"
            block.has_skip = False
    return large, small


class Silent(nn.Module):
    """What is left of a block whose output a concatenation reads: zeros."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def masked(large: nn.Module, small: nn.Module, keep_last: bool = False) -> nn.Module:
    """The oracle: `large` with the outputs of every layer silenced beyond (or before) the width it has in `small`."""
    model = copy.deepcopy(large)
    blocks = dict(small.named_modules())
    for name, block in list(model.named_modules()):
        if isinstance(block, (C2f, C3, C2PSA)) and name in blocks:
            for extra in range(len(blocks[name].m), len(block.m)):
                block.m[extra] = Silent() if isinstance(block, C2f) else nn.Identity()
    chunked = {f"{name}.cv1" for name, block in model.named_modules() if isinstance(block, (C2f, C2PSA))}
    widths = {name: tensor.shape[0] for name, tensor in small.state_dict().items() if tensor.ndim}
    for name, layer in model.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            continue
        parts = 2 if name.rpartition(".")[0] in chunked else 1
        width, total = widths[f"{name}.weight"] // parts, len(layer.weight) // parts
        for part in range(parts):
            begin, end = part * total, (part + 1) * total
            silent = slice(begin, end - width) if keep_last else slice(begin + width, end)
            layer.weight.data[silent] = 0.0
            if layer.bias is not None:
                layer.bias.data[silent] = 0.0
    return model


@torch.no_grad()
def forget_silence(model: nn.Module) -> nn.Module:
    """Zero the weights with which layers read channels that are always zero (as weight decay does). Changes `model`."""
    hooks = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:

            def forget(layer: nn.Conv2d, inputs: tuple[torch.Tensor]) -> None:
                layer.weight[:, inputs[0].abs().amax(dim=(0, 2, 3)) == 0] = 0.0

            hooks.append(layer.register_forward_pre_hook(forget))
    model.eval()(images_of(4, count=8, dtype=next(model.parameters()).dtype))
    for hook in hooks:
        hook.remove()
    return model


def assert_same_heads(first: nn.Module, second: nn.Module, tolerance: float = 1e-9) -> None:
    images = images_of(3, dtype=next(first.parameters()).dtype)
    for one, two in zip(raw_outputs(first, images), raw_outputs(second, images), strict=True):
        assert one.std() > 1e-3  # it says something
        assert (one - two).abs().max() <= tolerance * max(1.0, one.abs().max().item())


@pytest.mark.parametrize("name", PAIRS)
def test_a_slice_equals_the_masked_large_network(name: str) -> None:
    large, small = pair(name)
    plan = load_slice(large.model.state_dict(), large.model, small.model)
    assert plan.complete and plan.exact, (plan.missing, plan.inexact)
    oracle = masked(large.model, small.model)
    assert_same_heads(oracle, small.model)
    with pytest.raises(AssertionError):  # the mask does something
        assert_same_heads(large.model, small.model)


@pytest.mark.parametrize(
    "name", ["yolov5 quarter", "yolov8 both", "yolo11 both", "mobilenetv3 neck", "efficientnet neck"]
)
def test_the_largest_slice_is_the_large_network_bit_for_bit(name: str) -> None:
    large, _ = pair(name)
    large.model.float()
    twin = built(large.family, PAIRS[name][1], seed=9)
    assert load_slice(large.model.state_dict(), large.model, twin.model).exact
    theirs = twin.model.state_dict()
    for key, tensor in large.model.state_dict().items():
        assert torch.equal(tensor, theirs[key]) and tensor.data_ptr() != theirs[key].data_ptr()
    images = images_of(5)
    for one, two in zip(raw_outputs(large.model, images), raw_outputs(twin.model, images), strict=True):
        assert torch.equal(one, two)


def test_gradients_flow_through_a_cut_to_the_kept_channels_alone() -> None:
    large, small = pair("yolov5 quarter")
    plan = plan_slices(large.model, small.model)
    cut = plan.cut(dict(large.model.named_parameters()) | dict(large.model.named_buffers()))
    name = "model.2.cv3.conv.weight"  # reads a concatenation of two equal parts
    cut[name].sum().backward()
    gradient = dict(large.model.named_parameters())[name].grad
    rows, columns = cut[name].shape[0], cut[name].shape[1] // 2
    half = gradient.shape[1] // 2
    expected = torch.zeros_like(gradient)
    expected[:rows, :columns] = 1
    expected[:rows, half : half + columns] = 1
    assert torch.equal(gradient, expected)


def test_what_does_not_fit_is_listed_and_keeps_its_values() -> None:
    large, small = pair("yolov5 quarter")
    assert "model.0.conv.weight" in plan_slices(small.model, large.model).missing
    deeper = yaml_student("yolov5", 0.67, 0.0625)
    before = {name: tensor.clone() for name, tensor in deeper.model.state_dict().items()}
    plan = load_slice(large.model.state_dict(), large.model, deeper.model)
    assert not plan.complete and not plan.exact
    assert all(re.search(r"\.m\.[1-9]", name) for name in plan.missing)  # the further repeats
    after = deeper.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in plan.missing)


@pytest.mark.parametrize(
    ("large", "small", "where"),
    [
        (("yolo11", 0.5, 0.25), ("yolo11", 0.5, 0.1875), "model.10.m.0.attn"),
        (("mobilevit_xs",), ("mobilevit_xxs",), "stages_2.1"),
        (("mobilenetv3_small_100",), ("mobilenetv3_small_050",), "body.blocks"),  # a shortcut
    ],
)
def test_where_a_slice_is_not_exact_it_says_so_and_is_a_start_all_the_same(
    large: tuple[Any, ...], small: tuple[Any, ...], where: str
) -> None:
    build = yaml_student if len(large) > 1 else timm_student
    check_inexact(build(*large), build(*small), where)


def check_inexact(large: Student, small: Student, where: str) -> None:
    plan = load_slice(large.model.state_dict(), large.model, small.model)
    assert plan.complete and not plan.exact
    assert any(where in place for place in plan.inexact)
    assert not any(place.startswith("model.0.conv") for place in plan.inexact)
    assert all(torch.isfinite(output).all() for output in raw_outputs(small.model, images_of()))


class TestTransplant:
    """Copying what two networks have in common, whichever is larger."""

    def test_into_a_narrower_one_it_is_a_slice(self) -> None:
        large, small = pair("mobilenetv3 both")
        twin = copy.deepcopy(small.model)
        transplant(large.model, small.model)
        load_slice(large.model.state_dict(), large.model, twin)
        share = transplant(large.model, small.model)
        assert share == pytest.approx(1.0, abs=1e-3)
        assert_same_heads(twin, small.model)

    def test_into_a_wider_one_it_keeps_the_rest(self) -> None:
        large, small = pair("yolov5 quarter")
        before = copy.deepcopy(large.model.state_dict())
        share = transplant(small.model, large.model)
        counted = sum(t.numel() for t in small.model.state_dict().values())
        total = sum(t.numel() for t in before.values())
        assert share == pytest.approx(counted / total, abs=1e-3)
        after, source = large.model.state_dict(), small.model.state_dict()
        name = "model.0.conv.weight"
        rows = len(source[name])
        assert torch.equal(after[name][:rows], source[name])
        assert torch.equal(after[name][rows:], before[name][rows:])
        # and back again nothing is lost
        again = built("yolov5", PAIRS["yolov5 quarter"][2], seed=5)
        again.model.double()
        load_slice(after, large.model, again.model)
        theirs = again.model.state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in source.items())

    def test_of_strangers_nearly_nothing_fits(self) -> None:
        source, _ = pair("yolov5 quarter")
        target, _ = pair("efficientnet neck")
        assert transplant(source.model, target.model) < 0.3


class TestSortedByImportance:
    """A permutation of channels changes nothing, and puts the best first."""

    @pytest.mark.parametrize(
        "name", ["yolov5 quarter", "yolov8 both", "yolo11 both", "yolo26 both", "mobilenetv3 both", "efficientnet neck"]
    )
    def test_outputs_stay_and_the_source_is_untouched(self, name: str) -> None:
        large, _ = pair(name)
        large.model.float()
        before = copy.deepcopy(large.model.state_dict())
        model = sorted_by_importance(large.model)
        after = large.model.state_dict()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert_same_heads(large.model.double(), copy.deepcopy(model).double())
        moved = sum(not torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        assert moved > len(before) / 2

    # not across depths (the oracle's silent blocks cannot be traced), nor with attention, whose channels stay unsorted
    @pytest.mark.parametrize("name", [name for name in PAIRS if not re.search("yolo.* (depth|both)|yolo11", name)])
    def test_live_channels_come_first_so_that_a_slice_keeps_everything(self, name: str) -> None:
        """A large network that only uses the *last* channels of each layer is cut to them without any loss."""
        large, small = pair(name)
        sparse = forget_silence(masked(large.model, small.model, keep_last=True)).float()
        load_slice(sparse.state_dict(), large.model, small.model)
        with pytest.raises(AssertionError):  # unsorted, the slice holds what is dead
            assert_same_heads(sparse.double(), small.model, tolerance=0.05)
        load_slice(sorted_by_importance(sparse.float()).state_dict(), large.model, small.model)
        assert_same_heads(sparse.double(), small.model)
