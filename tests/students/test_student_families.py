"""What all students promise: outputs, strides, weights from a seed, lineages. test_every_family.py tries every family."""

import math

import pytest
import torch
from small import NAMES, images_of, label_batch, randomise_norms, raw_heads
from timm.layers.cbam import CbamModule
from torch import nn
from ultralytics.nn.modules import Conv, Detect
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import ROOT

from nasdistill.space.families import STRIDES
from nasdistill.students.families import build_student, group_by_lineage, lineage
from nasdistill.students.student import parameters_m, without_training_parts
from nasdistill.students.yolo import DESCRIPTIONS
from nasdistill.teacher.forms import anchor_count

EXTREMES = [
    ("yolov5", {"depth": 0.33, "width": 0.0625}),
    ("yolov5", {"depth": 0.67, "width": 0.5}),
    ("mobilenetv3", {"variant": "small_050", "neck": 32}),
    ("mobilenetv3", {"variant": "large_100", "neck": 64}),
    ("efficientnet_lite0", {"neck": 32}),
    ("efficientnet_lite0", {"neck": 64}),
]


@pytest.mark.parametrize("family", DESCRIPTIONS)
def test_a_yolo_student_is_ultralytics_own_model(family: str) -> None:
    """The same names, shapes and layers as Ultralytics' parser makes of its `n` model, bit for bit the same outputs."""
    description = yaml_model_load(ROOT / "cfg/models" / DESCRIPTIONS[family])
    depth, width, _ = description["scales"]["n"]
    reference = DetectionModel({**description, "scale": "n", "nc": len(NAMES)}, nc=len(NAMES), verbose=False)
    arch = {"depth": depth, "width": width, **({"head": "nms"} if family == "yolo26" else {})}
    student = build_student(family, arch, NAMES)
    assert type(student.model) is DetectionModel and type(student.head) is Detect
    student.model.load_state_dict(reference.state_dict())
    randomise_norms(reference)
    student.model.load_state_dict(reference.state_dict())
    assert student.model.save == reference.save
    with torch.no_grad():
        assert torch.equal(student.model.eval()(images_of())[0], reference.eval()(images_of())[0])


def test_building_changes_nothing_for_the_whole_process() -> None:
    before = Conv.default_act, Detect.legacy
    for family in ("yolov5", "yolo11"):
        student = build_student(family, {"depth": 0.33, "width": 0.0625, "activation": "relu"}, NAMES)
        assert not any(isinstance(module, nn.SiLU) for module in student.model.modules())
    assert (Conv.default_act, Detect.legacy) == before


@pytest.mark.parametrize("width", [0.1875, 0.3125, 0.4375, 0.5625])
def test_attention_heads_divide_whatever_channels_a_width_gives(width: float) -> None:
    """At 0.4375 Ultralytics' own rule gives 3 heads for 224 channels, and the model cannot run."""
    model = build_student("yolo26", {"depth": 0.5, "width": width}, NAMES).model.eval()
    with torch.no_grad():
        model(images_of(count=1))


def test_a_stage_is_narrowed_alone() -> None:
    plain = build_student("yolov8", {"depth": 0.33, "width": 0.25}, NAMES)
    narrow = build_student("yolov8", {"depth": 0.33, "width": 0.25, "width_p5": 0.5, "neck_width": 0.5}, NAMES)
    outputs = {index: module.conv.out_channels for index, module in enumerate(plain.model.model[:8]) if index % 2}
    theirs = {index: module.conv.out_channels for index, module in enumerate(narrow.model.model[:8]) if index % 2}
    assert {index: theirs[index] / count for index, count in outputs.items()} == {1: 1.0, 3: 1.0, 5: 1.0, 7: 0.5}
    assert narrow.pyramid_channels == tuple(count // 2 for count in plain.pyramid_channels)


@pytest.mark.parametrize("family", ["yolov5", "yolov8", "yolo11", "yolo26"])
def test_no_stage_of_the_backbone_goes_below_the_least_channels(family: str) -> None:
    narrow = {"depth": 0.33, "width": 0.0625}
    plain, wide = build_student(family, narrow, NAMES), build_student(family, {**narrow, "least_channels": 32}, NAMES)
    outputs = [
        [model.model[index].conv.out_channels for index in (0, 1, 3, 5, 7)] for model in (plain.model, wide.model)
    ]
    assert outputs == [[8, 8, 16, 32, 64], [16, 32, 32, 32, 64]]
    assert wide.pyramid_channels == plain.pyramid_channels
    # where nothing is that narrow, nothing changes
    for arch in ({**narrow, "least_channels": 8}, {"depth": 0.33, "width": 0.25, "least_channels": 32}):
        other = build_student(family, {name: arch[name] for name in narrow}, NAMES).model.state_dict()
        same = build_student(family, arch, NAMES).model.state_dict()
        assert {name: tensor.shape for name, tensor in same.items()} == {name: t.shape for name, t in other.items()}


@pytest.mark.parametrize(("levels", "size"), [(3, 96), (4, 96), (5, 160)])
@pytest.mark.parametrize("neck", ["pan", "light", "lateral"])
def test_each_neck_gives_every_level(neck: str, levels: int, size: int) -> None:
    arch = {"variant": "small_050", "neck": 16, "neck_type": neck, "levels": levels, "neck_attention": "cbam"}
    student = build_student("mobilenetv3", arch, NAMES)
    output = student.model.train()(images_of(size=size))
    assert student.strides == STRIDES[:levels]
    assert [maps.shape[-1] for maps in output["feats"]] == [math.ceil(size / stride) for stride in student.strides]
    assert output["scores"].shape[2] == anchor_count(size, student.strides)
    assert sum(isinstance(layer, CbamModule) for layer in student.model.model) == levels
    assert build_student("yolov5", {"depth": 0.33, "width": 0.0625, "neck_type": neck}, NAMES).strides == (8, 16, 32)


def test_a_lighter_neck_is_smaller() -> None:
    sizes = {
        neck: parameters_m(
            build_student("shufflenetv2", {"variant": "x0.5", "neck": 48, "neck_type": neck}, NAMES).model
        )
        for neck in ("lateral", "light", "pan")
    }
    assert sizes["lateral"] < sizes["light"] < sizes["pan"]


def test_repvit_is_deployed_with_its_branches_merged() -> None:
    student = build_student("repvit", {"variant": "m0_9", "neck": 16}, NAMES)
    randomise_norms(student.model)
    merged = without_training_parts(student.model)
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in model.modules()) for model in (student.model, merged)]
    assert convolutions[1] < convolutions[0] and parameters_m(merged) < parameters_m(student.model)
    before, after = raw_heads(student.model, images_of()), raw_heads(merged, images_of())
    assert all(torch.allclose(before[name], after[name], atol=1e-3, rtol=1e-3) for name in before)
    assert before["scores"].std() > 0.05


def test_an_nms_free_student_is_deployed_without_its_other_branch() -> None:
    arch = {"depth": 0.5, "width": 0.0625}
    free, plain = (build_student("yolo26", {**arch, "head": head}, NAMES).model for head in ("nms_free", "nms"))
    assert parameters_m(free) == parameters_m(plain)
    assert without_training_parts(free).model[-1].cv2 is None
    assert without_training_parts(plain).model[-1].one2one_cv2 is None
    with torch.no_grad():
        assert free.eval()(images_of())[0].shape == (2, 84, 6)
        assert plain.eval()(images_of())[0].shape == (2, 4 + len(NAMES), 84)
    assert set(free.train()(images_of())) == {"one2many", "one2one"}


@pytest.mark.parametrize(("family", "arch"), EXTREMES)
def test_a_student_has_the_outputs_it_promises(family: str, arch: dict) -> None:
    student = build_student(family, arch, NAMES)
    output = student.model.train()(images_of())
    anchors = sum((64 // stride) ** 2 for stride in (8, 16, 32))
    assert output["scores"].shape == (2, len(NAMES), anchors)
    assert output["boxes"].shape == (2, 4 * student.head.reg_max, anchors)
    assert student.strides == (8, 16, 32)
    assert tuple(maps.shape[1] for maps in output["feats"]) == student.pyramid_channels
    assert [maps.shape[-1] for maps in output["feats"]] == [8, 4, 2]
    assert student.model.names == dict(enumerate(NAMES))


@pytest.mark.parametrize(("family", "arch"), EXTREMES[::2])
def test_ultralytics_loss_reaches_every_weight(family: str, arch: dict) -> None:
    student = build_student(family, arch, NAMES)
    student.model.train()
    student.head.dfl.requires_grad_(False)
    for seed in (0, 1):  # which level a label is assigned to depends on the predictions
        losses, _ = student.model.loss(label_batch(images_of(seed, size=128, count=4)))
        losses.sum().backward()
        assert torch.isfinite(losses).all()
        assert (losses > 0).all()
    without = [
        name
        for name, parameter in student.model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
    ]
    assert without == []


def test_the_largest_is_larger_and_the_backbone_is_what_stage_one_freezes() -> None:
    for (family, smallest), (_, largest) in zip(EXTREMES[::2], EXTREMES[1::2], strict=True):
        small, large = build_student(family, smallest, NAMES), build_student(family, largest, NAMES)
        assert parameters_m(small.model) < parameters_m(large.model)
        backbone = {id(parameter) for layer in small.backbone() for parameter in layer.parameters()}
        assert 0 < len(backbone) < len(list(small.model.parameters()))
        assert not backbone & {id(parameter) for parameter in small.head.parameters()}


def test_weights_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    for family, arch in EXTREMES[::2]:
        first, again, other = (build_student(family, arch, NAMES, seed).model.state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_order_of_building_changes_no_head() -> None:
    """Ultralytics' parser sets the head's kind on the class, for every model built afterwards."""
    shapes = []
    for earlier in ("yolov5", "mobilenetv3"):
        build_student(earlier, dict(EXTREMES[0 if earlier == "yolov5" else 2][1]), NAMES)
        shapes.append(
            [
                {name: tensor.shape for name, tensor in build_student(family, arch, NAMES).model.state_dict().items()}
                for family, arch in EXTREMES[::2]
            ]
        )
    assert shapes[0] == shapes[1]


def test_lineages_hold_what_can_be_cut_out_of_one_another() -> None:
    archs = [
        {"variant": variant, "neck": neck} for variant in ("large_075", "small_100", "small_050") for neck in (48, 32)
    ]
    found = {group.name: group for group in group_by_lineage("mobilenetv3", archs, NAMES)}
    assert set(found) == {"mobilenetv3-large", "mobilenetv3-small"}
    small = found["mobilenetv3-small"]
    assert small.archs[0] == {"variant": "small_050", "neck": 32}
    assert small.largest == {"variant": "small_100", "neck": 48}
    sizes = [parameters_m(build_student("mobilenetv3", arch, NAMES).model) for arch in small.archs]
    assert sizes == sorted(sizes)
    assert lineage("yolov5", {"depth": 0.33, "width": 0.5}) == "yolov5"
    structured = {
        "depth": 0.33,
        "width": 0.5,
        "levels": 4,
        "activation": "relu",
        "attention": "none",
        "neck_width": 0.5,
    }
    assert lineage("yolo11", structured) == "yolo11-levels4-relu-attention_none"


def test_what_moves_layers_makes_a_lineage_of_its_own() -> None:
    arch = {"depth": 0.33, "width": 0.5}
    assert lineage("yolov8", arch) == lineage("yolov8", {"depth": 0.67, "width": 0.25}) == "yolov8"
    assert lineage("yolov8", {**arch, "activation": "relu"}) == "yolov8-relu"
    assert set(lineage("yolov8", {**arch, "levels": 4, "neck_type": "light"}).split("-")) == {
        "yolov8",
        "levels4",
        "light",
    }
    assert lineage("yolov8", {**arch, "neck_attention": "cbam"}) == "yolov8-cbam"


def test_an_unknown_family_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        build_student("yolov99", {}, NAMES)


@pytest.mark.parametrize(
    ("family", "arch", "message"),
    [
        ("shufflenetv2", {"variant": "x3.0", "neck": 32}, "x3.0"),
        ("yolov8", {"depth": 0.33, "width": 0.0625, "width_p2": 0.25}, "round to zero"),
        ("dynamicconv", {"width": 0.125, "neck": 32}, "round to zero"),
        ("yolov5", {"depth": 0.33, "width": 0.25, "levels": 6}, "levels: 6 is outside"),
    ],
)
def test_what_cannot_be_built_says_why(family: str, arch: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_student(family, arch, NAMES)
    with pytest.raises(KeyError, match="missing"):
        build_student(family, {}, NAMES)
    with pytest.raises(KeyError, match="unknown"):
        build_student(family, {**arch, "widht": 1}, NAMES)
