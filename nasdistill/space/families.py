"""The student families a search space may name, their own parameters and what each of those may be.

Torch-free on purpose: reading a search space must not load a deep-learning framework. The builders live in
`nasdistill.students`; a test holds the two tables together. A new family is one entry here and one there.
"""

from __future__ import annotations

from nasdistill.space.rules import OneOf, Real, Rule, Whole

# Channels of the PAN neck; 8 is the granularity at which CPUs' convolution kernels stay efficient.
NECK_CHANNELS = Whole(16, 256, multiple=8)

FAMILIES: dict[str, dict[str, Rule]] = {
    # Multipliers on YOLOv5l, as in its model files: n is (0.33, 0.25), s (0.33, 0.5), m (0.67, 0.75).
    "yolov5": {"depth": Real(0.1, 1.5), "width": Real(0.0625, 1.5)},
    "mobilenetv3": {
        "variant": OneOf(("small_050", "small_075", "small_100", "large_075", "large_100")),
        "neck": NECK_CHANNELS,
    },
    "efficientnet_lite0": {"neck": NECK_CHANNELS},
}
