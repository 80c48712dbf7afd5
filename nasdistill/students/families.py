"""The families a search space may name, each with its builder, and which of their members can share weights."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nasdistill.records import Scalar
from nasdistill.space.families import FAMILIES as PARAMETERS
from nasdistill.space.families import complete
from nasdistill.students.backbones import build_with_backbone
from nasdistill.students.student import Student, parameters_m, seeded
from nasdistill.students.yolo import build_yolo

Builder = Callable[[Mapping[str, Scalar], Sequence[str]], Student]

FAMILIES: dict[str, Builder] = {
    **{name: functools.partial(build_yolo, name) for name in ("yolov5", "yolov8", "yolo11", "yolo26")},
    **{
        name: functools.partial(build_with_backbone, name)
        for name in (
            "mobilenetv3",
            "mobilenetv4",
            "shufflenetv2",
            "ghostnet",
            "repvit",
            "mobilevit",
            "tinyvit",
            "efficientnet_lite0",
            "condconv",
            "dynamicconv",
        )
    },
}
# Parameters that change what the layers are, not how large they are: members that differ in them share no weights
STRUCTURAL = ("neck_type", "neck_attention", "levels", "activation", "attention")
# Variants of a family that are larger and smaller forms of one network; others are lines of their own
LINES = {"mobilenetv3": ("small", "large"), "mobilenetv4": ("conv_small", "conv_medium"), "mobilevit": ("v1", "v2")}
LINES |= {"ghostnet": ("v1", "v2"), "repvit": ("m0_9", "m1_0", "m1_1", "m1_5")}


def build_student(family: str, arch: Mapping[str, Scalar], names: Sequence[str], seed: int = 0) -> Student:
    """Build a student with random weights that depend on `seed` alone; what `arch` leaves out takes its default.

    Raises:
        KeyError: `family` is not in FAMILIES, or `arch` has unknown or missing parameters.
        ValueError: a value is not allowed, or a width rounds to zero channels.
    """
    builder, everything = FAMILIES[family], complete(family, arch)
    with seeded(seed):
        return builder(everything, names)


def lineage(family: str, arch: Mapping[str, Scalar]) -> str:
    """The group of architectures that can be cut out of one another: a family's line of backbones, and its structure.

    Structure at its default is not named: `mobilenetv3-small`, `yolov5`, `yolov5-relu-levels4`.
    """
    everything = complete(family, arch)
    parts = [family]
    if family in LINES:
        parts.append(next(line for line in LINES[family] if str(everything["variant"]).startswith(line)))
    for name in STRUCTURAL:
        if name in everything and everything[name] != PARAMETERS[family].parameters[name].default:
            value = everything[name]
            parts.append(f"{name}{value}" if name == "levels" else f"{name}_{value}" if value == "none" else str(value))
    return "-".join(parts)


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
    """Group architectures of a family and sort each group by parameters.

    Raises:
        ValueError: one of them cannot be built; it is named.
    """
    groups: dict[str, list[Mapping[str, Scalar]]] = {}
    for arch in archs:
        groups.setdefault(lineage(family, arch), []).append(arch)

    def size(arch: Mapping[str, Scalar]) -> float:
        try:
            return parameters_m(build_student(family, arch, names).model)
        except (ValueError, RuntimeError, ZeroDivisionError) as error:
            raise ValueError(f"{dict(arch)} cannot be built ({error})") from error

    return [Lineage(name, family, tuple(sorted(group, key=size))) for name, group in groups.items()]
