"""The elastic YOLOv5 family: Ultralytics' own YOLOv5 architecture at any depth and width.

Source: ultralytics `cfg/models/v5/yolov5.yaml` (YOLOv5 v6.0 backbone and PAN, anchor-free Detect head with DFL).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import ROOT

from nasdistill.records import Scalar
from nasdistill.students.student import Student, dress

BACKBONE_LAYERS = 10  # up to and including SPPF


def yolov5_yaml(depth: float, width: float, classes: int) -> dict[str, Any]:
    """The model description of a YOLOv5 with `depth` and `width` multipliers (YOLOv5n is 0.33 and 0.25)."""
    description: dict[str, Any] = yaml_model_load(ROOT / "cfg/models/v5/yolov5.yaml")
    description["scales"] = {"elastic": [depth, width, 1024]}
    description["scale"] = "elastic"
    description["nc"] = classes
    return description


def build_yolov5(arch: Mapping[str, Scalar], names: Sequence[str]) -> Student:
    """Build a YOLOv5 student; `arch` has `depth` (repeats of the C3 blocks) and `width` (channels), both multipliers."""
    description = yolov5_yaml(float(arch["depth"]), float(arch["width"]), len(names))
    model = DetectionModel(description, nc=len(names), verbose=False)
    return Student(dress(model, names), "yolov5", BACKBONE_LAYERS)
