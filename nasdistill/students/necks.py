"""Necks: what mixes the levels of the backbone before the head sees them, and the levels beyond the backbone's.

`pan`: Liu et al., Path Aggregation Network, CVPR 2018, in the form YOLOv5 uses (C3 blocks after each concatenation).
`light`: the same paths with depthwise 5x5 convolutions, as NanoDet and PP-PicoDet have them (Yu et al., PP-PicoDet, 2021,
sect. 3.2). `lateral`: each level alone, brought to the neck's channels. Levels beyond P5 are stride-2 convolutions on the
coarsest output, as in FCOS (Tian et al., ICCV 2019, sect. 3.2).
"""

from collections.abc import Sequence

from timm.layers.cbam import CbamModule
from ultralytics.nn.modules import C3, DWConv

from nasdistill.students.assemble import Layers

KERNEL = 5  # of the light neck's depthwise convolutions
CBAM_REDUCTION = 1 / 8  # the paper's 1/16 would leave two channels of 32


def add_neck(layers: Layers, taps: Sequence[int], channels: int, kind: str) -> list[int]:
    """Append a neck of `channels` channels on the layers `taps` (P3, P4, P5); returns the layers of its outputs."""
    laterals = [layers.conv(channels, source=tap) for tap in taps]
    if kind == "lateral":
        return laterals
    mix, down = (_mix, _down) if kind == "pan" else (_mix_light, _down_light)
    p3, p4, p5 = laterals
    layers.upsample()
    layers.concat(p4)
    p4_down = mix(layers, channels)
    layers.upsample()
    layers.concat(p3)
    out3 = mix(layers, channels)
    down(layers, channels)
    layers.concat(p4_down)
    out4 = mix(layers, channels)
    down(layers, channels)
    layers.concat(p5)
    return [out3, out4, mix(layers, channels)]


def add_levels(layers: Layers, outputs: Sequence[int], levels: int, light: bool = False) -> list[int]:
    """Append the levels beyond those of `outputs`, up to `levels`, each from the one before it; all outputs."""
    found = list(outputs)
    while len(found) < levels:
        channels = layers.channels[found[-1]]
        if light:
            layers.add(DWConv(channels, channels, KERNEL, 2), channels, found[-1])
            found.append(layers.conv(channels))
        else:
            found.append(layers.conv(channels, 3, 2, source=found[-1]))
    return found


def add_attention(layers: Layers, outputs: Sequence[int]) -> list[int]:
    """Append a CBAM block (Woo et al., ECCV 2018) to each of `outputs`; the layers of the results."""
    counts = [layers.channels[output] for output in outputs]
    return [
        layers.add(CbamModule(count, rd_ratio=CBAM_REDUCTION), count, output)
        for count, output in zip(counts, outputs, strict=True)
    ]


def _mix(layers: Layers, channels: int) -> int:
    return layers.add(C3(layers.channels[-1], channels, 1, False), channels)


def _down(layers: Layers, channels: int) -> int:
    return layers.conv(channels, 3, 2)


def _mix_light(layers: Layers, channels: int) -> int:
    layers.conv(channels)
    layers.add(DWConv(channels, channels, KERNEL), channels)
    return layers.conv(channels)


def _down_light(layers: Layers, channels: int) -> int:
    layers.add(DWConv(channels, channels, KERNEL, 2), channels)
    return layers.conv(channels)
