"""The elastic YOLO families: Ultralytics' own architectures at any depth, width, activation and number of levels.

Source: the layers listed in ultralytics `cfg/models/{v5,v8,11,26}/*.yaml`, with the multipliers of their `n` and `s`
models (at most 1024 channels, no C3k where `m` has it). Layers keep Ultralytics' numbers, so that weights of Ultralytics'
models fit by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from ultralytics.nn.modules import C2PSA, C3, SPPF, C2f, C3k2, Conv
from ultralytics.nn.modules.block import Attention, PSABlock
from ultralytics.nn.tasks import yaml_model_load
from ultralytics.utils import ROOT

from nasdistill.records import Scalar
from nasdistill.space.families import needs_no_nms
from nasdistill.space.rounding import channels_of, repeats_of
from nasdistill.students.assemble import Layers, assemble, detect
from nasdistill.students.necks import add_attention, add_levels, add_neck
from nasdistill.students.student import Student, dress

DESCRIPTIONS = {
    "yolov5": "v5/yolov5.yaml",
    "yolov8": "v8/yolov8.yaml",
    "yolo11": "11/yolo11.yaml",
    "yolo26": "26/yolo26.yaml",
}
DENSE_HEADS = ("yolov5", "yolov8")  # full convolutions in the class branch; depthwise ones came with YOLO11
BLOCKS: dict[str, type[nn.Module]] = {"C3": C3, "C2f": C2f, "C3k2": C3k2, "C2PSA": C2PSA}
MOST_CHANNELS = 1024
GENERIC_NECK_CHANNELS = 256  # of a light or lateral neck at width 1: those of P3 in Ultralytics' own


@dataclass(frozen=True)
class Row:
    """One layer in Ultralytics' notation: the layers it reads, repeats, module, arguments (channels first)."""

    source: Any
    repeats: int
    module: str
    args: list[Any]


def build_yolo(family: str, arch: Mapping[str, Scalar], names: Sequence[str]) -> Student:
    """Build a student of one of the YOLO families; `arch` has all parameters of `space.families`.

    Raises:
        ValueError: a width rounds to zero channels.
    """
    description = yaml_model_load(ROOT / "cfg/models" / DESCRIPTIONS[family])
    backbone, neck = ([Row(*row) for row in description[part]] for part in ("backbone", "head"))
    depth, width, levels = float(arch["depth"]), float(arch["width"]), int(arch["levels"])
    neck_width, attention = width * float(arch["neck_width"]), arch.get("attention") != "none"
    layers, least = Layers(), int(arch["least_channels"])
    stride, taps = 1, {}
    for row in backbone:
        if row.module == "Conv":
            stride *= 2
        stage = width * float(arch.get(f"width_p{stride.bit_length() - 1}", 1.0))
        taps[stride] = _add(layers, row, depth, stage, attention, least if stride > 2 else least // 2)
    if arch["neck_type"] == "pan":
        *rows, head = neck
        for row in rows:
            _add(layers, row, depth, neck_width, attention)
        outputs = list(head.source)
    else:
        channels = channels_of(GENERIC_NECK_CHANNELS, neck_width)
        outputs = add_neck(layers, [taps[stride] for stride in (8, 16, 32)], channels, str(arch["neck_type"]))
    outputs = add_levels(layers, outputs, levels, light=arch["neck_type"] == "light")
    if arch["neck_attention"] == "cbam":
        outputs = add_attention(layers, outputs)
    last = detect(
        [layers.channels[output] for output in outputs],
        len(names),
        dense=family in DENSE_HEADS,
        reg_max=description.get("reg_max", 16),
        end2end=bool(description.get("end2end", False)),
    )
    last.end2end = needs_no_nms(family, arch)
    model = assemble(layers, outputs, last, str(arch["activation"]))
    return Student(dress(model, names), family, len(backbone))


def _add(layers: Layers, row: Row, depth: float, width: float, attention: bool, least: int = 0) -> int:
    """Append the layer that a row describes, scaled; its index, which is the row's own."""
    if row.module == "nn.Upsample":
        return layers.upsample()
    if row.module == "Concat":
        return layers.concat(*row.source[1:])
    full, *rest = row.args
    before = layers.channels[-1] if layers.channels else 3
    channels = max(channels_of(min(full, MOST_CHANNELS), width), least)
    if row.module == "Conv":
        return layers.add(Conv(before, channels, *rest), channels)
    if row.module == "SPPF":
        pooling = SPPF(before, channels, *rest)
        if len(rest) == 1:
            pooling.cv1.act = nn.SiLU()  # only YOLO26 leaves the activation out
        return layers.add(pooling, channels)
    repeats = repeats_of(row.repeats, depth)
    if row.module == "C3k2" and not attention:
        rest = [*rest[:2], False] if len(rest) > 2 else rest
    if row.module == "C2PSA" and not attention:
        return layers.add(nn.Identity(), before)  # it keeps the numbers of the layers after it
    block = BLOCKS[row.module](before, channels, repeats, *rest)
    _mend_heads(block)
    return layers.add(block, channels)


def _mend_heads(block: nn.Module) -> None:
    """Give attention blocks as many heads as divide their channels: Ultralytics takes channels // 64, which need not."""
    for layer in block.modules():
        if isinstance(layer, PSABlock):
            channels = layer.ffn[0].conv.in_channels
            heads = next(count for count in range(max(channels // 64, 1), 0, -1) if channels % count == 0)
            if heads != layer.attn.num_heads:
                layer.attn = Attention(channels, num_heads=heads, attn_ratio=0.5)
