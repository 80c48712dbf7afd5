"""The student families a search space may name, their own parameters and what each of those may be.

Torch-free on purpose: reading a search space must not load a deep-learning framework. The builders live in
`nasdistill.students`; a test holds the two tables together. A new family is one entry here and one there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasdistill.records import Scalar
from nasdistill.space.rounding import CHANNEL_MULTIPLE
from nasdistill.space.rules import OneOf, Real, Rule, Whole

# Channels of the neck; 8 is the granularity at which CPUs' convolution kernels stay efficient.
NECK_CHANNELS = Whole(16, 256, multiple=8)
STRIDES = (8, 16, 32, 64, 128)
"""Strides of the pyramid levels P3 to P7 in pixels; a student has the first `levels` of them."""


@dataclass(frozen=True)
class FamilyParameter:
    """What a parameter may be; `default` is its value when a file leaves it out (None: the file must name it)."""

    rule: Rule
    meaning: str
    default: Scalar | None = None


@dataclass(frozen=True)
class Family:
    """A way to build students: where its layers come from, and its parameters."""

    source: str
    parameters: Mapping[str, FamilyParameter]

    @property
    def required(self) -> tuple[str, ...]:
        """The parameters that a search-space file must name."""
        return tuple(name for name, parameter in self.parameters.items() if parameter.default is None)


_LEVELS = FamilyParameter(Whole(3, 5), "pyramid levels: 3 is P3 to P5, 4 adds P6, 5 adds P7", 3)
_NECK_TYPE = FamilyParameter(
    OneOf(("lateral", "light", "pan")), "pan (path aggregation), light (depthwise PAN), lateral (levels unmixed)", "pan"
)
_NECK_ATTENTION = FamilyParameter(OneOf(("none", "cbam")), "CBAM blocks before the head", "none")
_ACTIVATION = FamilyParameter(OneOf(("relu", "relu6", "hardswish", "silu")), "activation of all blocks", "silu")
_SHARED = {"neck_type": _NECK_TYPE, "neck_attention": _NECK_ATTENTION, "levels": _LEVELS}


def _stage(stride: int) -> FamilyParameter:
    return FamilyParameter(Real(0.25, 2.0), f"further width multiplier of the backbone's stage at stride {stride}", 1.0)


# Multipliers on the `l` model, as in Ultralytics' model files: YOLOv5n is (0.33, 0.25), YOLO11n (0.5, 0.25).
_YOLO: dict[str, FamilyParameter] = {
    "depth": FamilyParameter(Real(0.1, 1.5), "repeats of the blocks, as a share of the `l` model's"),
    "width": FamilyParameter(Real(0.0625, 1.5), "channels, as a share of the `l` model's"),
    "width_p2": _stage(4),
    "width_p3": _stage(8),
    "width_p4": _stage(16),
    "width_p5": _stage(32),
    "neck_width": FamilyParameter(Real(0.25, 2.0), "further width multiplier of the neck", 1.0),
    "least_channels": FamilyParameter(
        Whole(CHANNEL_MULTIPLE, 64, multiple=CHANNEL_MULTIPLE),
        "channels that no stage of the backbone goes below; its first convolution has half as many",
        CHANNEL_MULTIPLE,
    ),
    "activation": _ACTIVATION,
    **_SHARED,
}
_ATTENTION = FamilyParameter(OneOf(("none", "psa")), "self-attention blocks (C2PSA), as in Ultralytics' model", "psa")
_HEAD = FamilyParameter(
    OneOf(("nms_free", "nms")),
    "the branch that is deployed: one-to-one without NMS, or one-to-many with it",
    "nms_free",
)


def _backbone(*variants: str, default: str | None = None) -> dict[str, FamilyParameter]:
    """The parameters of a family whose backbone comes in variants, listed from small to large."""
    return {
        "variant": FamilyParameter(OneOf(variants), "backbone", default),
        "neck": FamilyParameter(NECK_CHANNELS, "channels of the neck"),
        **_SHARED,
    }


FAMILIES: dict[str, Family] = {
    "yolov5": Family("Ultralytics YOLOv5 v6.0, anchor-free head", _YOLO),
    "yolov8": Family("Ultralytics YOLOv8", _YOLO),
    "yolo11": Family("Ultralytics YOLO11", {**_YOLO, "attention": _ATTENTION}),
    "yolo26": Family("Ultralytics YOLO26", {**_YOLO, "attention": _ATTENTION, "head": _HEAD}),
    "mobilenetv3": Family("timm", _backbone("small_050", "small_075", "small_100", "large_075", "large_100")),
    "mobilenetv4": Family("timm", _backbone("conv_small_035", "conv_small_050", "conv_small_100", "conv_medium_100")),
    "shufflenetv2": Family("torchvision", _backbone("x0.5", "x1.0", "x1.5")),
    "ghostnet": Family("timm", _backbone("v1_050", "v1_100", "v1_130", "v2_100")),
    "repvit": Family("timm; timed re-parameterised", _backbone("m0_9", "m1_0", "m1_1", "m1_5")),
    "mobilevit": Family("timm", _backbone("v1_xxs", "v1_xs", "v1_s", "v2_050", "v2_075", "v2_100")),
    "tinyvit": Family("timm", _backbone("5m", "11m", "21m")),
    "efficientnet_lite0": Family("timm", _backbone("lite0", "lite1", "lite2", default="lite0")),
    "condconv": Family("timm's CondConv EfficientNet", _backbone("b0_4e", "b0_8e", "b1_8e")),
    "dynamicconv": Family(
        "dynamic convolution in a small network of depthwise-separable blocks (nasdistill)",
        {
            "width": FamilyParameter(Real(0.125, 2.0), "channels; 1 has 32, 64, 128, 256 at strides 4, 8, 16, 32"),
            "depth": FamilyParameter(Whole(1, 4), "blocks a stage", 2),
            "experts": FamilyParameter(Whole(2, 8), "kernels that are mixed for each image", 4),
            "temperature": FamilyParameter(
                Real(1.0, 100.0), "softmax temperature of the mixture at the start; falls to 1 in training", 30.0
            ),
            "neck": FamilyParameter(NECK_CHANNELS, "channels of the neck"),
            **_SHARED,
        },
    ),
}


# Channels at width 1 of the narrowest layer that each width decides on, in the families that are scaled by numbers.
_STEMS = {"yolov5": 64, "yolov8": 64, "yolo11": 64, "yolo26": 64, "dynamicconv": 16}
_STAGES = {"width_p2": 128, "width_p3": 256, "width_p4": 512, "width_p5": 1024, "neck_width": 256}


def narrowest(family: str, smallest: Mapping[str, Scalar]) -> dict[str, str]:
    """What is wrong with the widths among `smallest`, the smallest values of a family's parameters, by name.

    A width is wrong when channels x width round to zero.
    """
    found: dict[str, str] = {}
    if family not in _STEMS or "width" not in smallest:
        return found
    width = float(smallest["width"])
    if _STEMS[family] * width < CHANNEL_MULTIPLE / 2:
        found["width"] = f"{width:g} of {_STEMS[family]} channels rounds to zero; it must be at least " + (
            f"{CHANNEL_MULTIPLE / 2 / _STEMS[family]:g}"
        )
    for name, channels in _STAGES.items():
        if name in smallest and channels * width * float(smallest[name]) < CHANNEL_MULTIPLE / 2:
            found[name] = (
                f"{smallest[name]:g} x width {width:g} of {channels} channels rounds to zero; at this width it must be "
                f"at least {CHANNEL_MULTIPLE / 2 / channels / width:g}"
            )
    return found


def describe(family: str) -> dict[str, Any]:
    """A family as plain values: `name`, `source`, and for each of its `parameters` what it means and may be."""
    parameters = [
        {"name": name, "meaning": entry.meaning, "allowed": str(entry.rule), "default": entry.default}
        for name, entry in FAMILIES[family].parameters.items()
    ]
    return {"name": family, "source": FAMILIES[family].source, "parameters": parameters}


def needs_no_nms(family: str, arch: Mapping[str, Scalar]) -> bool:
    """Whether a student's detections are final: its exported model needs no non-maximum suppression."""
    return "head" in FAMILIES[family].parameters and arch.get("head", "nms_free") == "nms_free"


def complete(family: str, arch: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """`arch` with the defaults of all parameters it leaves out.

    Raises:
        KeyError: the family, or a parameter of `arch`, does not exist, or a required one is missing.
        ValueError: a value is not allowed.
    """
    parameters = FAMILIES[family].parameters
    unknown = [name for name in arch if name not in parameters]
    missing = [name for name in FAMILIES[family].required if name not in arch]
    if unknown or missing:
        raise KeyError(f"{family}: unknown {unknown}, missing {missing}")
    found: dict[str, Scalar] = {}
    for name, parameter in parameters.items():
        value = arch.get(name, parameter.default)
        assert value is not None
        try:
            found[name] = parameter.rule.convert(value)
        except ValueError as error:
            raise ValueError(f"{family}.{name}: {error}") from None
    return found
