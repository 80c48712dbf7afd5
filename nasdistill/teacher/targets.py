"""What the teacher says about every view of the pool, computed once and memory-mapped by every worker.

A folder holds `logits.npy` (n, a, classes) and `distances.npy` (n, a, 4) in float16, `attention.npy` (n, c) in float32,
`done.npy` (a flag a chunk) and, written last, `targets.json`. Anchor points are those of all levels that a student may have,
P3 to P7, coarser ones last; a batch is read for a student's own levels only. Distances are in units of the level's stride,
where float16 keeps 1/100 of a cell. Chunks are independent: several processes fill them, and a half-built folder is
finished, not started over.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from nasdistill.data.views import Views
from nasdistill.space.families import STRIDES
from nasdistill.store.atomic import write_text
from nasdistill.teacher.teacher import Teacher

CHUNK = 64
VERSION = 3
LEVELS = 3  # P3, P4, P5: those whose features are kept, which every teacher has
ARRAYS = ("logits", "distances", "attention", "done")


@dataclass(frozen=True)
class TargetBatch:
    """Targets of a batch: logits (b, a, classes) and distances (b, a, 4) in float32, attention: per level (b, c_l)."""

    logits_bac: torch.Tensor
    distances_ba4: torch.Tensor
    attention: list[torch.Tensor]

    def leading(self, anchors: int) -> "TargetBatch":
        """The same at the first `anchors` anchor points: those of a student with fewer levels."""
        if anchors == self.logits_bac.shape[1]:
            return self
        return replace(self, logits_bac=self.logits_bac[:, :anchors], distances_ba4=self.distances_ba4[:, :anchors])


@dataclass(frozen=True)
class Targets:
    """The opened cache: arrays stay on disk, pages are shared between processes."""

    logits: np.ndarray
    distances: np.ndarray
    attention: np.ndarray
    channels: tuple[int, ...]

    def batch(self, indices: np.ndarray, anchors: int | None = None) -> TargetBatch:
        """Read the targets of the views `indices` (b,), at the first `anchors` anchor points (None: at all)."""
        attention = torch.from_numpy(self.attention[indices])
        return TargetBatch(
            torch.from_numpy(self.logits[indices, :anchors]).float(),
            torch.from_numpy(self.distances[indices, :anchors]).float(),
            list(attention.split(list(self.channels), dim=1)),
        )


def anchor_count(size: int, strides: Sequence[int]) -> int:
    """Anchor points of a square input: one for each cell of each level (the last row and column may reach beyond it)."""
    return sum(_cells(size, stride) ** 2 for stride in strides)


def _cells(size: int, stride: int) -> int:
    return -(-size // stride)  # stride-2 convolutions with padding round up


def create_targets(folder: Path, teacher: Teacher, count: int, size: int, classes: int) -> list[tuple[int, int]]:
    """Lay out the cache of `count` views for students of input `size` in `folder`, unless it is there.

    Returns the view ranges [start, stop) still to be filled.

    Safe when two processes call it at once. An array of a wrong size (a torn or corrupt cache) is laid out anew.
    """
    anchors = anchor_count(size, STRIDES)
    channels = teacher.channels[:LEVELS]
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "logits": ((count, anchors, classes), "<f2"),
        "distances": ((count, anchors, 4), "<f2"),
        "attention": ((count, sum(channels)), "<f4"),
        "done": ((-(-count // CHUNK),), "|u1"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not all(_array_is(folder / f"{name}.npy", shape, dtype) for name, (shape, dtype) in shapes.items()):
            (folder / "targets.json").unlink(missing_ok=True)
            for name, (shape, dtype) in shapes.items():
                array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype=np.dtype(dtype), shape=shape)
                array.flush()
        done = np.load(folder / "done.npy")
    return [(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)) for chunk, flag in enumerate(done) if not flag]


def fill_targets(
    folders: Mapping[int, Path],
    teacher: Teacher,
    views: Views,
    class_order: Sequence[int],
    ranges: Sequence[tuple[int, int]],
    device: torch.device,
    autocast: torch.dtype | None,
    on_progress: Callable[[int], None] = lambda views_done: None,
    batch_size: int = 16,
) -> None:
    """Run the teacher over the views in `ranges` and write what it says for every input size in `folders`.

    The teacher looks at its own size of the views, the one it was trained at; students of other sizes see the same
    scenes and get its answers at their own anchor points (`resample`). A range is flagged when it is on disk.
    """
    caches = {
        size: {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ARRAYS}
        for size, folder in folders.items()
    }
    teacher_size = views.images.shape[-1]
    for start, stop in ranges:
        for first in range(start, stop, batch_size):
            rows = slice(first, min(first + batch_size, stop))
            images = torch.from_numpy(np.array(views.images[rows])).to(device).float().div_(255)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                raw = teacher(images, class_order)
            pooled = torch.cat([feature.float().mean(dim=(2, 3)) for feature in raw.features[:LEVELS]], dim=1)
            for size, arrays in caches.items():
                logits, distances = resample(
                    raw.logits_bac, raw.distances_ba4, teacher_size, size, teacher.strides, STRIDES
                )
                arrays["logits"][rows] = logits.cpu().numpy()
                arrays["distances"][rows] = distances.cpu().numpy()
                arrays["attention"][rows] = pooled.cpu().numpy()
            on_progress(rows.stop - rows.start)
        for arrays in caches.values():
            for name in ("logits", "distances", "attention"):
                arrays[name].flush()
            arrays["done"][start // CHUNK] = 1
            arrays["done"].flush()


def resample(
    logits_bac: torch.Tensor,
    distances_ba4: torch.Tensor,
    from_size: int,
    to_size: int,
    strides: Sequence[int],
    to_strides: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the teacher, looking at `from_size` pixels, says at the anchor points of a student of `to_size` pixels.

    Each student anchor takes the logits and the box of the teacher's nearest anchor on the same level; the box is
    re-expressed as ltrb distances from the student's anchor, in its strides. Nearest, because averages of neighbours
    would water down the peaks. Of levels that the teacher (`strides`) lacks, each anchor takes the most confident of the
    anchors that lie in its cell on the teacher's coarsest level. With equal sizes, levels that both have come back as
    they are. `to_strides` are the student's levels (None: the teacher's).
    """
    levels, start = {}, 0
    for stride in strides:
        cells = _cells(from_size, stride)
        levels[stride] = (start, cells)
        start += cells * cells
    logits, distances = [], []
    for stride in strides if to_strides is None else to_strides:
        source = stride if stride in levels else strides[-1]
        start, old = levels[source]
        new = _cells(to_size, stride)
        if source == stride and from_size == to_size:
            logits.append(logits_bac[:, start : start + old * old])
            distances.append(distances_ba4[:, start : start + old * old])
            continue
        cell = to_size / from_size * source / stride  # the teacher's, in the student's
        points = 1 if source == stride else max(1, round(1 / cell))  # looked at in each cell, along each side
        spots = (torch.arange(new * points, device=logits_bac.device) + 0.5) / points
        nearest = (spots / cell).long().clamp(max=old - 1)
        # (row, column) of the student's cell, then of the point within it
        rows = nearest.view(new, 1, points, 1).expand(new, new, points, points).reshape(new * new, -1)
        columns = nearest.view(1, new, 1, points).expand(new, new, points, points).reshape(new * new, -1)
        said = logits_bac[:, start + rows * old + columns]  # (b, cells, points, classes)
        best = said.amax(dim=3).argmax(dim=2)  # (b, cells)
        logits.append(torch.take_along_dim(said, best[:, :, None, None], dim=2)[:, :, 0])
        row, column = (torch.take_along_dim(index[None], best[:, :, None], dim=2)[:, :, 0] for index in (rows, columns))
        boxes = torch.take_along_dim(distances_ba4, (start + row * old + column)[:, :, None], dim=1)
        # the way from the teacher's anchor to the student's, in the student's cells
        centre = torch.arange(new, device=logits_bac.device) + 0.5
        shift_x = (column + 0.5) * cell - centre.repeat(new)
        shift_y = (row + 0.5) * cell - centre.repeat_interleave(new)
        distances.append(boxes * cell + torch.stack([-shift_x, -shift_y, shift_x, shift_y], dim=2))
    return torch.cat(logits, dim=1), torch.cat(distances, dim=1)


def seal_targets(folder: Path, key: str, teacher: Teacher) -> None:
    """Write the description that says the cache is complete."""
    description = {"version": VERSION, "key": key, "teacher": teacher.name, "channels": teacher.channels[:LEVELS]}
    write_text(folder / "targets.json", json.dumps(description, indent=1))


def open_targets(folder: Path) -> Targets:
    """Open a complete cache.

    Raises:
        FileNotFoundError: it is missing or not complete.
    """
    description = json.loads((folder / "targets.json").read_text())
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS[:3]}
    return Targets(**arrays, channels=tuple(description["channels"]))


def is_complete(folder: Path, key: str) -> bool:
    """Whether `folder` holds the complete targets of `key`, and its arrays can be opened (none is torn)."""
    try:
        found = json.loads((folder / "targets.json").read_text())["key"]
        open_targets(folder)
        return bool(found == key)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return False


def _array_is(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return False
    return array.shape == shape and array.dtype == np.dtype(dtype)
