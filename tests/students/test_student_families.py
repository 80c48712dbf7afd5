"""Every family builds, at its smallest and its largest, and Ultralytics trains it as it would its own models."""

import pytest
import torch
from small import NAMES, images_of

from nasdistill.students.families import FAMILIES, build_student, group_by_lineage, lineage
from nasdistill.students.student import parameters_m

EXTREMES = [
    ("yolov5", {"depth": 0.33, "width": 0.0625}),
    ("yolov5", {"depth": 0.67, "width": 0.5}),
    ("mobilenetv3", {"variant": "small_050", "neck": 32}),
    ("mobilenetv3", {"variant": "large_100", "neck": 64}),
    ("efficientnet_lite0", {"neck": 32}),
    ("efficientnet_lite0", {"neck": 64}),
]


def label_batch(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of every size, so that each level of the pyramid has some to learn."""
    places = [(x, y, side, side) for side in (0.1, 0.3, 0.5, 0.7, 0.9) for x in (0.3, 0.6) for y in (0.3, 0.6)]
    boxes = torch.tensor(places).repeat(len(images), 1)
    return {
        "img": images,
        "batch_idx": torch.arange(len(images)).repeat_interleave(len(places)).float(),
        "cls": (torch.arange(len(boxes)) % len(NAMES)).float()[:, None],
        "bboxes": boxes,
    }


def test_every_family_is_tried() -> None:
    assert {family for family, _ in EXTREMES} == set(FAMILIES)


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


def test_what_moves_layers_makes_a_lineage_of_its_own() -> None:
    arch = {"width": 0.5, "activation": "relu"}
    assert lineage("yolov8", arch) == "yolov8"
    assert lineage("yolov8", {**arch, "levels": 4, "neck_type": "light"}) == "yolov8[levels=4,neck_type=light]"
    assert lineage("yolov8", {**arch, "cbam": True}) != lineage("yolov8", {**arch, "cbam": False})


def test_an_unknown_family_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        build_student("yolov99", {}, NAMES)
