"""What the teacher says about every view of the pool, computed once and memory-mapped by every worker.

Which arrays there are, `forms.TargetForm` says; how they are filled by several processes and kept whole, `cache`. Anchor
points are those of all levels that a student of the space may have, P3 to P7, coarser ones last; a batch is read for a
student's own levels only. Distances are in units of the level's stride, where float16 keeps 1/100 of a cell. Neck maps,
the largest part, lie in a folder of their own at the teacher's size, which students of all input sizes share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nasdistill.data.views import Views
from nasdistill.space.families import STRIDES
from nasdistill.teacher import cache as chunks
from nasdistill.teacher.cache import ChunkedCache, open_sealed
from nasdistill.teacher.encoding import HOST, TargetBatch, decoded, encoded, encoded_maps
from nasdistill.teacher.forms import TargetForm, TargetShape, layout_of, maps_layout, shape_of
from nasdistill.teacher.participation import PARTICIPATIONS, participation
from nasdistill.teacher.teacher import LEVELS, Teacher

VERSION = 5
MAPS_DESCRIPTION = "maps.json"
PLAIN = TargetForm()
HALF_MOST = 65504.0  # the largest float16
AT_ANCHORS = ("logits", "distances", "bins")


@dataclass(frozen=True)
class Targets:
    """The opened cache: arrays stay on disk, pages are shared between processes."""

    arrays: Mapping[str, np.ndarray]
    channels: tuple[int, ...]
    cells: tuple[int, ...]
    map_cells: tuple[int, ...] = ()
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Participation of every view (n,), by mode."""

    def __len__(self) -> int:
        return len(self.arrays["logits"])

    def batch(self, indices: np.ndarray, anchors: int | None = None, device: torch.device = HOST) -> TargetBatch:
        """Read the targets of the views `indices` (b,) to `device`, at the first `anchors` anchor points (None: at all).

        They are moved as they lie on disk, half as wide as they are then made.

        Raises:
            ValueError: there are fewer, a student has more levels than the form.
        """
        kept = sum(self.cells)
        anchors = kept if anchors is None else anchors
        if anchors > kept:
            raise ValueError(f"{anchors} anchor points asked for, the targets have {kept}: made for fewer levels")
        whole = "anchors" in self.arrays  # sparse: which anchors these are, is said for each view
        read = {
            name: torch.from_numpy(
                _signed(array[indices] if whole or name not in AT_ANCHORS else array[indices, :anchors])
            ).to(device)
            for name, array in self.arrays.items()
        }
        weights = {mode: torch.from_numpy(values[indices]).to(device).float() for mode, values in self.weights.items()}
        neck = self.cells[: len(self.channels)]
        return decoded(read, self.channels, neck, self.map_cells, weights).leading(anchors)


def target_shape(teacher: Teacher, size: int, classes: int, levels: int = LEVELS) -> TargetShape:
    """The shape of a teacher's targets for students of input `size` with at most `levels` levels."""
    return shape_of(size, STRIDES[:levels], teacher.neck_channels, classes, teacher.reg_max)


def create_targets(
    folder: Path, teacher: Teacher, count: int, size: int, classes: int, form: TargetForm = PLAIN
) -> list[tuple[int, int]]:
    """Lay out the cache of `count` views for students of input `size` in `folder`, unless it is there.

    Returns the view ranges [start, stop) still to be filled. Safe when two processes call it at once.

    Raises:
        InputError: the disk is too small; nothing is left behind.
    """
    return _cache(folder, teacher, count, size, classes, form).lay_out()


def create_maps(folder: Path, teacher: Teacher, count: int, size: int) -> list[tuple[int, int]]:
    """Lay out the cache of neck maps at the teacher's `size`, as `create_targets`."""
    return _maps_cache(folder, teacher, count, size).lay_out()


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
    form: TargetForm = PLAIN,
    maps: Path | None = None,
) -> None:
    """Run the teacher over the views in `ranges` and write what it says for every input size in `folders`.

    The teacher looks at its own size of the views, the one it was trained at; students of other sizes see the same
    scenes and get its answers at their own anchor points (`resample`). Ranges that another process is filling are left
    to it, and waited for. A range is flagged when it is on disk.
    """
    teacher_size, count, classes = views.size, len(views), len(class_order)
    caches = {size: _cache(folder, teacher, count, size, classes, form) for size, folder in folders.items()}
    everywhere = [*caches.values()]
    if maps is not None:
        everywhere.append(_maps_cache(maps, teacher, count, teacher_size))
    arrays = {cache.folder: cache.open("r+") for cache in everywhere}
    for start, stop in chunks.to_fill(everywhere, ranges):
        for first in range(start, stop, batch_size):
            rows = slice(first, min(first + batch_size, stop))
            images = torch.from_numpy(np.array(views.images[rows])).to(device).float().div_(255)
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                raw = teacher(images, class_order)
            labels = [views.boxes(index) for index in range(rows.start, rows.stop)]
            for size, cache in caches.items():
                shape = target_shape(teacher, size, classes, form.levels)
                said = encoded(raw, form, shape, teacher_size, size, teacher.strides, labels)
                _write(arrays[cache.folder], rows, said)
            if maps is not None:
                _write(arrays[maps], rows, encoded_maps(raw, LEVELS))
            on_progress(rows.stop - rows.start)
        for cache in everywhere:
            cache.finish(arrays[cache.folder], start)


def seal_targets(folder: Path, key: str, teacher: Teacher) -> None:
    """Write the description that says the targets are complete; the arrays in `folder` say the rest."""
    _seal(folder, key, teacher, "targets.json")


def seal_maps(folder: Path, key: str, teacher: Teacher) -> None:
    """Write the description that says the neck maps are complete."""
    _seal(folder, key, teacher, MAPS_DESCRIPTION)


def open_targets(folder: Path, maps: Path | None = None) -> Targets:
    """Open a complete cache, with the neck maps in `maps` where it is named.

    Raises:
        FileNotFoundError: it is missing or not complete.
    """
    cache, facts = open_sealed(folder)
    arrays = cache.open()
    weights = {}
    if "facts" in arrays:
        seen = np.asarray(arrays.pop("facts"))
        weights = {mode: participation(seen, mode).astype(np.float32) for mode in PARTICIPATIONS}
    map_cells: tuple[int, ...] = ()
    if maps is not None:
        maps_cache, maps_facts = open_sealed(maps, MAPS_DESCRIPTION)
        arrays |= maps_cache.open()
        map_cells = tuple(maps_facts["cells"])
    return Targets(arrays, tuple(facts["channels"]), tuple(facts["cells"]), map_cells, weights)


def is_sealed(folder: Path, maps: bool = False) -> bool:
    """Whether the targets (or neck maps) in `folder` were complete once; quick, nothing is checked."""
    return (folder / (MAPS_DESCRIPTION if maps else "targets.json")).exists()


def is_complete(folder: Path, key: str, maps: bool = False) -> bool:
    """Whether `folder` holds the complete and undamaged targets (or neck maps) of `key`."""
    return chunks.is_complete(folder, key, MAPS_DESCRIPTION if maps else "targets.json")


def _seal(folder: Path, key: str, teacher: Teacher, description: str) -> None:
    chunks.seal(folder, description, {"version": VERSION, "key": key, "teacher": teacher.name})


def _cache(folder: Path, teacher: Teacher, count: int, size: int, classes: int, form: TargetForm) -> ChunkedCache:
    shape = target_shape(teacher, size, classes, form.levels)
    return ChunkedCache(folder, layout_of(form, shape), count, {"cells": shape.cells, "channels": shape.channels})


def _maps_cache(folder: Path, teacher: Teacher, count: int, size: int) -> ChunkedCache:
    shape = target_shape(teacher, size, 0)
    facts = {"cells": shape.cells, "channels": shape.channels}
    return ChunkedCache(folder, maps_layout(shape), count, facts, MAPS_DESCRIPTION, "teacher's neck maps")


def _write(arrays: Mapping[str, np.ndarray], rows: slice, said: Mapping[str, Tensor]) -> None:
    for name, values in said.items():
        arrays[name][rows] = _bounded(values, arrays[name].dtype).cpu().numpy()


def _bounded(values: Tensor, dtype: np.dtype) -> Tensor:
    """Within what float16 can say, where it is kept so: an outlier becomes the largest number, not infinity."""
    return values.float().clamp(-HALF_MOST, HALF_MOST) if dtype == np.float16 else values


def _signed(array: np.ndarray) -> np.ndarray:
    """Unsigned numbers as int64: torch indexes with nothing else."""
    return array.astype(np.int64) if array.dtype.kind == "u" else array
