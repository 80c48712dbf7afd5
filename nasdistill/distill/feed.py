"""Batches for training: views, labels and teacher targets of the same indices, read from memory-mapped pools."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nasdistill.data.views import Views
from nasdistill.teacher.encoding import TargetBatch
from nasdistill.teacher.forms import anchor_count
from nasdistill.teacher.online import OnlineTargets
from nasdistill.teacher.targets import Targets


@dataclass(frozen=True)
class Batch:
    """Images (b, 3, s, s) float32 in 0..1, labels for Ultralytics' loss, and what the teacher said (None: labels alone)."""

    images: Tensor
    labels: Mapping[str, Tensor]
    targets: TargetBatch | None


@dataclass(frozen=True)
class Feed:
    """The pool of views of one input size and the targets that belong to it (None: labels alone)."""

    views: Views
    targets: Targets | OnlineTargets | None

    @property
    def image_size(self) -> int:
        """Side of the square views in pixels."""
        return int(self.views.images.shape[-1])

    def indices(self, steps: int, batch_size: int, seed: int, closing_steps: int = 0) -> Iterator[np.ndarray]:
        """`steps` arrays of view indices: the pool in random order, over and over, set by `seed` alone.

        The last `closing_steps` of them draw from the light views, where the pool has any.
        """
        generator = np.random.default_rng(seed)
        light = np.flatnonzero(self.views.closing)
        everything = np.arange(len(self.views))
        waiting, pool = np.zeros(0, dtype=np.int64), everything
        for step in range(steps):
            if pool is everything and step >= steps - closing_steps and 0 < len(light) < len(everything):
                waiting, pool = waiting[:0], light
            while len(waiting) < batch_size:
                waiting = np.concatenate([waiting, pool[generator.permutation(len(pool))]])
            yield np.sort(waiting[:batch_size])
            waiting = waiting[batch_size:]

    def batch(self, indices: np.ndarray, device: torch.device, strides: Sequence[int] | None = None) -> Batch:
        """Read one batch, with targets at the anchor points of `strides`, the student's levels (None: of all there are).

        On the CPU nothing is copied twice; on a GPU tensors are moved as bytes, then widened.
        """
        labels = {name: torch.from_numpy(array).to(device) for name, array in self.views.batch_labels(indices).items()}
        targets = None
        if self.targets is not None:
            anchors = None if strides is None else anchor_count(self.image_size, strides)
            targets = self.targets.batch(indices, anchors, device)
        return Batch(self.images(indices, device), labels, targets)

    def images(self, indices: np.ndarray, device: torch.device) -> Tensor:
        """The images of a batch alone: the teacher is not asked for any."""
        images = torch.from_numpy(self.views.images[indices]).to(device, non_blocking=True).float().div_(255.0)
        return images.contiguous(memory_format=torch.channels_last)
