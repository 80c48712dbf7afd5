"""Families with a timm backbone: features at strides 8, 16 and 32, a narrow PAN neck and Ultralytics' Detect head.

PAN: Liu et al., Path Aggregation Network, CVPR 2018, in the form YOLOv5 uses (C3 blocks after each concatenation).
"""

from collections.abc import Mapping, Sequence

import timm
import torch
from torch import nn
from ultralytics.nn.modules import C3, Concat, Conv, Detect, Index
from ultralytics.nn.tasks import BaseModel, DetectionModel
from ultralytics.utils.torch_utils import initialize_weights

from nasdistill.records import Scalar
from nasdistill.students.student import Student, dress

MOBILENETV3_VARIANTS = {
    "small_050": "mobilenetv3_small_050",
    "small_075": "mobilenetv3_small_075",
    "small_100": "mobilenetv3_small_100",
    "large_075": "mobilenetv3_large_075",
    "large_100": "mobilenetv3_large_100",
}
PYRAMID_INDICES = (2, 3, 4)  # timm's feature levels at strides 8, 16, 32
STRIDES = (8, 16, 32)


class TimmBackbone(nn.Module):
    """A timm model that returns its maps at strides 8, 16 and 32, P3 first."""

    def __init__(self, timm_name: str) -> None:
        super().__init__()
        self.body = timm.create_model(timm_name, pretrained=False, features_only=True, out_indices=PYRAMID_INDICES)
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map images (b, 3, s, s) to three maps (b, c_l, s / stride_l, s / stride_l)."""
        features: list[torch.Tensor] = self.body(images)
        return features


class DepthwiseDetect(Detect):
    """Detect with Ultralytics' light (depthwise) class branch, whatever other models were built before.

    Ultralytics keeps that choice in a class attribute which its parser changes for the whole process.
    """

    legacy = False


class TimmDetectionModel(DetectionModel):
    """An Ultralytics detection model whose layers are put together here instead of being parsed from a YAML."""

    def __init__(self, timm_name: str, neck: int, classes: int) -> None:
        BaseModel.__init__(self)
        backbone = TimmBackbone(timm_name)
        c3, c4, c5 = backbone.channels
        wide = 2 * neck
        # (from, module): 'from' indexes earlier layers, -1 is the previous one
        layers: list[tuple[int | list[int], nn.Module]] = [
            (-1, backbone),  # 0
            (0, Index(0)),  # 1 P3
            (0, Index(1)),  # 2 P4
            (0, Index(2)),  # 3 P5
            (1, Conv(c3, neck, 1)),  # 4 lateral P3
            (2, Conv(c4, neck, 1)),  # 5 lateral P4
            (3, Conv(c5, neck, 1)),  # 6 lateral P5
            (6, nn.Upsample(scale_factor=2, mode="nearest")),  # 7
            ([7, 5], Concat(1)),  # 8
            (-1, C3(wide, neck, 1, False)),  # 9 P4 on the way down
            (-1, nn.Upsample(scale_factor=2, mode="nearest")),  # 10
            ([10, 4], Concat(1)),  # 11
            (-1, C3(wide, neck, 1, False)),  # 12 P3 out
            (-1, Conv(neck, neck, 3, 2)),  # 13
            ([13, 9], Concat(1)),  # 14
            (-1, C3(wide, neck, 1, False)),  # 15 P4 out
            (-1, Conv(neck, neck, 3, 2)),  # 16
            ([16, 6], Concat(1)),  # 17
            (-1, C3(wide, neck, 1, False)),  # 18 P5 out
            ([12, 15, 18], DepthwiseDetect(classes, ch=(neck, neck, neck))),  # 19
        ]
        save: set[int] = set()
        for index, (source, module) in enumerate(layers):
            module.i, module.f, module.type = index, source, type(module).__name__
            save.update(s for s in ([source] if isinstance(source, int) else source) if s != -1)
        self.model = nn.Sequential(*(module for _, module in layers))
        self.save = sorted(save)
        self.inplace = True
        self.yaml = {"nc": classes, "backbone": timm_name, "neck": neck, "channels": 3}
        head = self.model[-1]
        head.inplace = True
        head.stride = self.stride = torch.tensor(STRIDES, dtype=torch.float32)
        head.bias_init()
        # neck and head only: the backbone keeps the BatchNorm settings its timm weights were trained with
        initialize_weights(self.model[1:])


def build_mobilenetv3(arch: Mapping[str, Scalar], names: Sequence[str]) -> Student:
    """Build a MobileNetV3 student; `arch` has `variant` (a key of MOBILENETV3_VARIANTS) and `neck` (channels)."""
    return _build("mobilenetv3", MOBILENETV3_VARIANTS[str(arch["variant"])], int(arch["neck"]), names)


def build_efficientnet_lite0(arch: Mapping[str, Scalar], names: Sequence[str]) -> Student:
    """Build an EfficientNet-Lite0 student; `arch` has `neck` (channels)."""
    return _build("efficientnet_lite0", "tf_efficientnet_lite0", int(arch["neck"]), names)


def _build(family: str, timm_name: str, neck: int, names: Sequence[str]) -> Student:
    model = TimmDetectionModel(timm_name, neck, len(names))
    return Student(dress(model, names), family, backbone_layers=1)
