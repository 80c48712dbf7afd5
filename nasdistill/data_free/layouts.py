"""What is asked for in an image: boxes and classes, drawn at random, as many of every class in the long run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SMALLEST, LARGEST = 0.03, 0.5  # sides of boxes, as a share of the image's
LONGEST = 2.0  # the longer side over the shorter one, at most
FEWEST_OBJECTS, MOST_OBJECTS = 2, 8
MOST_OVERLAP = 0.1  # intersection over the smaller box
KNOWN_SHARE = 0.75  # of the boxes: sizes at which the teacher has seen something already, where there are any
KNOWN_JITTER = 0.2  # such a size is stretched or shrunk by up to this share
TRIES = 30


@dataclass(frozen=True)
class Layouts:
    """What is asked for in a batch: `image_n` and `classes_n` (int64), `boxes_n4` centre x, y, width, height in 0..1."""

    image_n: Tensor
    classes_n: Tensor
    boxes_n4: Tensor

    def __len__(self) -> int:
        return len(self.image_n)

    def to(self, device: torch.device) -> "Layouts":
        """The same on another device."""
        return Layouts(self.image_n.to(device), self.classes_n.to(device), self.boxes_n4.to(device))

    def moved(self, right: float, down: float, mirrored: bool) -> "Layouts":
        """After a shift by these shares of the image, and then a reflection; what leaves the image is cut off."""
        x, y, width, height = self.boxes_n4.unbind(dim=1)
        x, y = x + right, y + down
        x = 1.0 - x if mirrored else x
        left, top = (x - width / 2).clamp(0.0, 1.0), (y - height / 2).clamp(0.0, 1.0)
        end, bottom = (x + width / 2).clamp(0.0, 1.0), (y + height / 2).clamp(0.0, 1.0)
        boxes = torch.stack([(left + end) / 2, (top + bottom) / 2, end - left, bottom - top], dim=1)
        return Layouts(self.image_n, self.classes_n, boxes)


def draw_layouts(count: int, classes: int, rng: np.random.Generator, known_k2: np.ndarray | None = None) -> Layouts:
    """Two to eight boxes for each of `count` images, hardly overlapping.

    Nothing is known of the data, so places, shapes and sizes are spread wide: sides log-uniform in 3 to 50 % of the image
    (Chawla et al., Data-free Knowledge Distillation for Object Detection, WACV 2021, sample boxes too). `known_k2` are
    widths and heights (0..1) of what the teacher has seen in earlier images: most boxes then take one of these sizes,
    give or take a fifth, since a size at which the teacher never saw an object teaches nothing.
    """
    images, kinds, boxes = [], [], []
    for image in range(count):
        kept: list[np.ndarray] = []
        for _ in range(int(rng.integers(FEWEST_OBJECTS, MOST_OBJECTS + 1))):
            box = _free_box(kept, rng, known_k2)
            if box is not None:
                kept.append(box)
                images.append(image)
                kinds.append(int(rng.integers(classes)))
        boxes += kept
    rows = np.stack(boxes).astype(np.float32)
    return Layouts(torch.tensor(images), torch.tensor(kinds), torch.from_numpy(rows))


def _free_box(others: Sequence[np.ndarray], rng: np.random.Generator, known_k2: np.ndarray | None) -> np.ndarray | None:
    """A box that overlaps none of `others` by more than allowed; None where none was found."""
    for _ in range(TRIES):
        size = _size(rng, known_k2)
        box = np.concatenate([rng.uniform(size / 2, 1 - size / 2), size])
        if all(_overlap(box, other) <= MOST_OVERLAP for other in others):
            return box
    return None


def _size(rng: np.random.Generator, known_k2: np.ndarray | None) -> np.ndarray:
    """A width and a height, 0..1."""
    if known_k2 is not None and len(known_k2) and rng.random() < KNOWN_SHARE:
        found = known_k2[rng.integers(len(known_k2))] * rng.uniform(1 - KNOWN_JITTER, 1 + KNOWN_JITTER)
    else:
        side = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
        stretch = np.exp(rng.uniform(-np.log(LONGEST), np.log(LONGEST)) / 2)
        found = np.array([side * stretch, side / stretch])
    return np.asarray(np.clip(found, 0.01, 1.0))


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    low = np.maximum(first[:2] - first[2:] / 2, second[:2] - second[2:] / 2)
    high = np.minimum(first[:2] + first[2:] / 2, second[:2] + second[2:] / 2)
    return float(np.clip(high - low, 0, None).prod() / min(first[2:].prod(), second[2:].prod()))
