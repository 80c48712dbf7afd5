"""The families a search space may name are those that can be built."""

import pytest

from nasdistill.space.families import FAMILIES, complete, narrowest, needs_no_nms
from nasdistill.space.rules import OneOf


def test_the_table_of_families_is_that_of_the_builders() -> None:
    from nasdistill.students.families import FAMILIES as BUILDERS

    assert set(FAMILIES) == set(BUILDERS)


def test_every_variant_has_a_backbone() -> None:
    from nasdistill.students.backbones import SHUFFLENET_NAMES, TIMM_NAMES

    for family, names in {**TIMM_NAMES, "shufflenetv2": SHUFFLENET_NAMES}.items():
        rule = FAMILIES[family].parameters["variant"].rule
        assert isinstance(rule, OneOf) and rule.names == tuple(names)


def test_what_is_left_out_takes_its_default_and_what_is_wrong_is_refused() -> None:
    found = complete("yolov5", {"depth": 0.33, "width": 0.25})
    assert found["levels"] == 3 and found["neck_type"] == "pan" and found["width_p3"] == 1.0
    assert FAMILIES["efficientnet_lite0"].required == ("neck",)
    for arch, error in (({"width": 0.25}, KeyError), ({"depth": 0.33, "width": 9}, ValueError)):
        with pytest.raises(error):
            complete("yolov5", arch)


@pytest.mark.parametrize(("family", "largest"), [("yolov5", 1.0), ("dynamicconv", 1.0)])
def test_a_width_is_refused_exactly_where_the_builder_cannot_build(family: str, largest: float) -> None:
    from nasdistill.students.families import build_student

    rest = {"depth": 0.33, "width_p2": 0.5} if family == "yolov5" else {"neck": 16, "depth": 1}
    lowest = float(FAMILIES[family].parameters["width"].rule.low)  # type: ignore[union-attr]
    for width in (lowest, 0.07, 0.2, 0.25, 0.3):
        arch = {**rest, "width": max(width, lowest)}
        if narrowest(family, arch):
            with pytest.raises(ValueError, match="round to zero"):
                build_student(family, arch, ("a",))
        else:
            build_student(family, arch, ("a",))


def test_needs_no_nms() -> None:
    assert needs_no_nms("yolo26", {}) and not needs_no_nms("yolo26", {"head": "nms"}) and not needs_no_nms("yolo11", {})
