"""Families with a backbone made for classification, by timm or torchvision: its maps at strides 8, 16 and 32 and a neck."""

from collections.abc import Mapping, Sequence

import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import CondConv2d
from timm.models import reparameterize_model
from torch import nn

from nasdistill.records import Scalar
from nasdistill.students.assemble import Layers, assemble, detect
from nasdistill.students.dynamic_conv import CondConv, DynamicBackbone
from nasdistill.students.necks import add_attention, add_levels, add_neck
from nasdistill.students.student import Student, dress

TIMM_NAMES: dict[str, dict[str, str]] = {
    "mobilenetv3": {
        "small_050": "mobilenetv3_small_050",
        "small_075": "mobilenetv3_small_075",
        "small_100": "mobilenetv3_small_100",
        "large_075": "mobilenetv3_large_075",
        "large_100": "mobilenetv3_large_100",
    },
    "mobilenetv4": {
        "conv_small_035": "mobilenetv4_conv_small_035",
        "conv_small_050": "mobilenetv4_conv_small_050",
        "conv_small_100": "mobilenetv4_conv_small",
        "conv_medium_100": "mobilenetv4_conv_medium",
    },
    "ghostnet": {
        "v1_050": "ghostnet_050",
        "v1_100": "ghostnet_100",
        "v1_130": "ghostnet_130",
        "v2_100": "ghostnetv2_100",
    },
    "repvit": {"m0_9": "repvit_m0_9", "m1_0": "repvit_m1_0", "m1_1": "repvit_m1_1", "m1_5": "repvit_m1_5"},
    "mobilevit": {
        "v1_xxs": "mobilevit_xxs",
        "v1_xs": "mobilevit_xs",
        "v1_s": "mobilevit_s",
        "v2_050": "mobilevitv2_050",
        "v2_075": "mobilevitv2_075",
        "v2_100": "mobilevitv2_100",
    },
    "tinyvit": {"5m": "tiny_vit_5m_224", "11m": "tiny_vit_11m_224", "21m": "tiny_vit_21m_224"},
    "efficientnet_lite0": {
        "lite0": "tf_efficientnet_lite0",
        "lite1": "tf_efficientnet_lite1",
        "lite2": "tf_efficientnet_lite2",
    },
    "condconv": {
        "b0_4e": "tf_efficientnet_cc_b0_4e",
        "b0_8e": "tf_efficientnet_cc_b0_8e",
        "b1_8e": "tf_efficientnet_cc_b1_8e",
    },
}
SHUFFLENET_NAMES = {"x0.5": "shufflenet_v2_x0_5", "x1.0": "shufflenet_v2_x1_0", "x1.5": "shufflenet_v2_x1_5"}
STRIDES = (8, 16, 32)


class TimmBackbone(nn.Module):
    """A timm model that returns its maps at strides 8, 16 and 32, P3 first."""

    def __init__(self, timm_name: str) -> None:
        super().__init__()
        self.timm_name = timm_name
        self.body = timm.create_model(timm_name, pretrained=False, features_only=True, out_indices=(-3, -2, -1))
        strides = tuple(self.body.feature_info.reduction())
        if strides != STRIDES:
            raise ValueError(f"{timm_name}: its last maps have strides {strides}, not {STRIDES}")
        for module in self.body.modules():
            if type(module) is CondConv2d:
                module.__class__ = CondConv
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map images (b, 3, s, s) to three maps (b, c_l, s / stride_l, s / stride_l).

        MobileViT v2 enlarges maps of an odd size to cut them into patches; they are brought back here.
        """
        maps: list[torch.Tensor] = self.body(images)
        sides = [images.shape[-1] // stride for stride in STRIDES]
        return [
            found if found.shape[-1] == side else F.interpolate(found, (side, side), mode="bilinear")
            for found, side in zip(maps, sides, strict=True)
        ]

    def reparameterize(self) -> None:
        """Merge branches that only training needs (RepViT; Ding et al., RepVGG, CVPR 2021). Changes the backbone."""
        self.body = reparameterize_model(self.body, inplace=True)


class ShuffleNetBackbone(nn.Module):
    """torchvision's ShuffleNetV2 (Ma et al., ECCV 2018) up to its last stage; maps at strides 8, 16 and 32."""

    def __init__(self, torchvision_name: str) -> None:
        super().__init__()
        network = torchvision.models.get_model(torchvision_name, weights=None)
        self.conv1, self.maxpool = network.conv1, network.maxpool
        self.stage2, self.stage3, self.stage4 = network.stage2, network.stage3, network.stage4
        self.channels: tuple[int, ...] = tuple(network._stage_out_channels[1:4])

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map images (b, 3, s, s) to three maps (b, c_l, s / stride_l, s / stride_l)."""
        p3 = self.stage2(self.maxpool(self.conv1(images)))
        p4 = self.stage3(p3)
        return [p3, p4, self.stage4(p4)]


def build_with_backbone(family: str, arch: Mapping[str, Scalar], names: Sequence[str]) -> Student:
    """Build a student with a backbone of timm, torchvision or our own; `arch` has all parameters of `space.families`."""
    backbone = _backbone(family, arch)
    layers = Layers()
    taps = layers.pyramid(backbone, backbone.channels)
    outputs = add_neck(layers, taps, int(arch["neck"]), str(arch["neck_type"]))
    outputs = add_levels(layers, outputs, int(arch["levels"]), light=arch["neck_type"] == "light")
    if arch["neck_attention"] == "cbam":
        outputs = add_attention(layers, outputs)
    head = detect([layers.channels[output] for output in outputs], len(names))
    model = assemble(layers, outputs, head)
    if isinstance(backbone, TimmBackbone):
        model.yaml["backbone"] = backbone.timm_name  # by this name timm's hub has weights for it
    return Student(dress(model, names), family, backbone_layers=1)


def _backbone(family: str, arch: Mapping[str, Scalar]) -> TimmBackbone | ShuffleNetBackbone | DynamicBackbone:
    if family == "dynamicconv":
        return DynamicBackbone(
            float(arch["width"]), int(arch["depth"]), int(arch["experts"]), float(arch["temperature"])
        )
    if family == "shufflenetv2":
        return ShuffleNetBackbone(SHUFFLENET_NAMES[str(arch["variant"])])
    return TimmBackbone(TIMM_NAMES[family][str(arch["variant"])])
