"""Connectors: small layers that bring student maps to the teacher's channels. Trained, never exported."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdistill.records import Connector


class Connectors(nn.Module):
    """One 1x1 convolution a pyramid level that both have, P3 first, with BatchNorm or without.

    It leads from student channels to teacher channels; maps of levels that the teacher lacks are left out.

    With `generators`, each level also has the two 3x3 convolutions that masked generative distillation trains.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        kind: Connector = "conv",
        generators: bool = False,
    ) -> None:
        super().__init__()
        pairs = list(zip(student_channels, teacher_channels, strict=False))
        self.levels = nn.ModuleList(nn.Conv2d(student, teacher, kernel_size=1) for student, teacher in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for _, c in pairs) if kind == "conv_bn" else None
        self.generators = nn.ModuleList(_generator(c) for _, c in pairs) if generators else None

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map student maps (b, cs_l, h, w) to (b, ct_l, h, w)."""
        with _precision_of(features[0]):
            connected = [connect(feature) for connect, feature in zip(self.levels, features, strict=False)]
            if self.norms is None:
                return connected
            return [norm(maps) for norm, maps in zip(self.norms, connected, strict=True)]

    def over_space(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The connected maps' means over space, (b, ct_l, 1, 1).

        A 1x1 convolution's mean over space is the convolution of the mean: the same at a fraction of the cost.
        """
        if self.norms is None:
            return self([_mean_over_space(feature) for feature in features[: len(self.levels)]])
        return [_mean_over_space(maps) for maps in self(features)]

    def over_channels(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The connected maps' means over channels, (b, h, w): one channel of a convolution with the mean kernel."""
        if self.norms is not None:
            return [maps.float().mean(dim=1) for maps in self(features)]
        maps = []
        for connect, feature in zip(self.levels, features, strict=False):
            kernel, bias = connect.weight.mean(dim=0, keepdim=True), connect.bias.mean(dim=0, keepdim=True)
            maps.append(F.conv2d(feature, kernel.to(feature.dtype), bias.to(feature.dtype))[:, 0])
        return maps

    def generated(self, connected: Sequence[Tensor], keep_b1hw: Sequence[Tensor]) -> list[Tensor]:
        """What the generators make of the connected maps, of which they see the cells where `keep_b1hw` is 1."""
        assert self.generators is not None, "made without generators"
        parts = zip(self.generators, connected, keep_b1hw, strict=True)
        with _precision_of(connected[0]):
            return [generate(maps * keep) for generate, maps, keep in parts]


def _generator(channels: int) -> nn.Module:
    """Yang et al., Masked Generative Distillation, ECCV 2022, sect. 3.1."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, padding=1)
    )


def _precision_of(maps: Tensor) -> torch.autocast:
    """A block that computes in the precision which the student itself ran in; losses are taken outside its autocast."""
    return torch.autocast(maps.device.type, maps.dtype, enabled=maps.dtype in (torch.bfloat16, torch.float16))


def _mean_over_space(feature_bchw: Tensor) -> Tensor:
    """Mean over height and width in float32, (b, c, 1, 1).

    Taken over the channels_last view: the gradient is then spread in memory order, 4 times as fast on a CPU.
    """
    return feature_bchw.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1, dtype=torch.float32)[:, :, None, None]
