"""Connectors: 1x1 convolutions that bring student maps to the teacher's channels. Trained, never exported."""

from collections.abc import Sequence

from torch import Tensor, nn


class Connectors(nn.Module):
    """One 1x1 convolution a pyramid level that both have, P3 first, from student channels to teacher channels."""

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(student_channels, teacher_channels, strict=False)
        self.levels = nn.ModuleList(nn.Conv2d(student, teacher, kernel_size=1) for student, teacher in pairs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map student maps (b, cs_l, h, w) to (b, ct_l, h, w); maps of levels that the teacher lacks are left out."""
        return [connect(feature) for connect, feature in zip(self.levels, features, strict=False)]
