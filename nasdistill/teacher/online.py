"""Targets without a cache: the teacher looks at every batch. For tests, benchmarks, and disks that hold no cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nasdistill.data.views import Views
from nasdistill.teacher.encoding import HOST, TargetBatch, decoded, encoded, encoded_maps
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.targets import target_shape
from nasdistill.teacher.teacher import LEVELS, RawOutput, Teacher


@dataclass(frozen=True)
class OnlineTargets:
    """Answers as an opened cache does, by asking the teacher; `views` are those of its own size.

    What the cache says, without its rounding to float16. `form` must ask for no facts: what participation compares a
    view with is known only when all have been seen.
    """

    teacher: Teacher
    views: Views
    class_order: tuple[int, ...]
    size: int
    form: TargetForm
    autocast: torch.dtype | None

    def batch(self, indices: np.ndarray, anchors: int | None = None, device: torch.device = HOST) -> TargetBatch:
        """The targets of the views `indices` (b,) for students of input `size`, at the first `anchors` anchor points.

        `device` is where the teacher is.
        """
        images = torch.from_numpy(np.array(self.views.images[indices])).to(device).float().div_(255)
        with torch.autocast(device.type, dtype=self.autocast, enabled=self.autocast is not None):
            raw = self.teacher(images.contiguous(memory_format=torch.channels_last), self.class_order)
        labels = [self.views.boxes(int(index)) for index in indices]
        said = targets_of(raw, self.teacher, self.views.size, self.size, self.form, len(self.class_order), labels)
        return said if anchors is None else said.leading(anchors)


def targets_of(
    raw: RawOutput,
    teacher: Teacher,
    teacher_size: int,
    size: int,
    form: TargetForm,
    classes: int,
    labels: Sequence[np.ndarray],
) -> TargetBatch:
    """What a cache of `form` would say of views that the teacher saw at `teacher_size`, to students of input `size`."""
    shape = target_shape(teacher, size, classes, form.levels)
    own = target_shape(teacher, teacher_size, classes)
    arrays = encoded(raw, form, shape, teacher_size, size, teacher.strides, labels)
    if form.maps:
        arrays |= encoded_maps(raw, LEVELS)
    return decoded(arrays, shape.channels, shape.map_cells, own.cells, {})
