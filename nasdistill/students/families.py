"""The families a search space may name, each with its builder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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


# Parameters chosen by name whose values all have the same layers.
SHARED = ("variant", "activation")


def build_student(family: str, arch: Mapping[str, Scalar], names: Sequence[str], seed: int = 0) -> Student:
    """Build a student with random weights that depend on `seed` alone.

    Raises:
        KeyError: `family` is not in FAMILIES (search spaces are checked before they get here).
    """
    with seeded(seed):
        return FAMILIES[family](arch, names)


def lineage(family: str, arch: Mapping[str, Scalar]) -> str:
    """The group of architectures that can be cut out of one another: a family, one of its lines of backbones, one layout.

    Numbers are sizes, which share weights. What is chosen by name or switched on (a type of neck, CBAM), and the number of
    levels, moves layers to other places; an activation moves none, and of variants only MobileNetV3's two lines differ.
    """
    line = f"{family}-{str(arch['variant']).split('_')[0]}" if family == "mobilenetv3" else family
    layout = [
        f"{name}={value}"
        for name, value in sorted(arch.items())
        if name == "levels" or (isinstance(value, str | bool) and name not in SHARED)
    ]
    return f"{line}[{','.join(layout)}]" if layout else line


@dataclass(frozen=True)
class Lineage:
    """The architectures of one lineage in a search space, smallest first; the last one is the supernet."""

    name: str
    family: str
    archs: tuple[Mapping[str, Scalar], ...]

    @property
    def largest(self) -> Mapping[str, Scalar]:
        """The supernet's architecture."""
        return self.archs[-1]


def group_by_lineage(family: str, archs: Sequence[Mapping[str, Scalar]], names: Sequence[str]) -> list[Lineage]:
    """Group architectures of a family and sort each group by parameters."""
    groups: dict[str, list[Mapping[str, Scalar]]] = {}
    for arch in archs:
        groups.setdefault(lineage(family, arch), []).append(arch)

    def size(arch: Mapping[str, Scalar]) -> float:
        return parameters_m(build_student(family, arch, names).model)

    return [Lineage(name, family, tuple(sorted(group, key=size))) for name, group in groups.items()]
