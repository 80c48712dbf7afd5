"""The families a search space may name, each with its builder."""

from collections.abc import Callable, Mapping, Sequence

from nasdistill.records import Scalar
from nasdistill.students.student import Student, parameters_m, seeded
from nasdistill.students.timm_pan import build_efficientnet_lite0, build_mobilenetv3
from nasdistill.students.yolov5 import build_yolov5

Builder = Callable[[Mapping[str, Scalar], Sequence[str]], Student]

FAMILIES: dict[str, Builder] = {
    "yolov5": build_yolov5,
    "mobilenetv3": build_mobilenetv3,
    "efficientnet_lite0": build_efficientnet_lite0,
}


def build_student(family: str, arch: Mapping[str, Scalar], names: Sequence[str], seed: int = 0) -> Student:
    """Build a student with random weights that depend on `seed` alone.

    Raises:
        KeyError: `family` is not in FAMILIES (search spaces are checked before they get here).
    """
    with seeded(seed):
        return FAMILIES[family](arch, names)


def largest(family: str, archs: Sequence[Mapping[str, Scalar]], names: Sequence[str]) -> Mapping[str, Scalar]:
    """The architecture among `archs` with the most parameters: the family's supernet."""
    return max(archs, key=lambda arch: parameters_m(build_student(family, arch, names).model))
