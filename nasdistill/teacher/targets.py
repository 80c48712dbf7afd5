"""What the teacher says about every view of the pool, computed once and memory-mapped by every worker.

Which arrays there are, `forms.TargetForm` says; how they are filled by several processes and kept whole, `cache`. Distances
are in units of the level's stride, where float16 keeps 1/100 of a cell. Neck maps, the largest part, lie in a folder of
their own at the teacher's size, which students of all input sizes share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdistill.data.views import Views
from nasdistill.teacher import cache as chunks
from nasdistill.teacher.cache import ChunkedCache, open_sealed
from nasdistill.teacher.detections import Detections, final_detections, unpack, view_facts
from nasdistill.teacher.forms import (
    DETECTIONS,
    TargetForm,
    TargetShape,
    anchor_count,
    layout_of,
    maps_layout,
    shape_of,
    top_anchors,
)
from nasdistill.teacher.participation import PARTICIPATIONS, participation
from nasdistill.teacher.teacher import RawOutput, Teacher

VERSION = 3
LEVELS = 3  # P3, P4, P5
MAPS_DESCRIPTION = "maps.json"
PLAIN = TargetForm()
HALF_MOST = 65504.0  # the largest float16
LEAST_LOG_PROBABILITY = -12.0  # of a bin, where probabilities are spread anew; float16 would keep less


@dataclass(frozen=True)
class TargetBatch:
    """Targets of a batch, in float32 (maps as they are kept); what no loss reads is None.

    logits_bac (b, a, classes), distances_ba4 (b, a, 4), bins_bar (b, a, 4 * r) log-probabilities of the DFL bins: at all
    anchors of the student, or at `anchors_ba` (b, a) of them. attention: per level (b, c_l). spatial: per level
    (b, h_l, w_l). maps: per level (b, c_l, h_l, w_l) on the teacher's grid. participation: how much the teacher counts on
    each image (b,), by mode.
    """

    logits_bac: Tensor
    distances_ba4: Tensor
    attention: list[Tensor]
    anchors_ba: Tensor | None = None
    bins_bar: Tensor | None = None
    spatial: list[Tensor] | None = None
    maps: list[Tensor] | None = None
    detections: Detections | None = None
    participation: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "TargetBatch":
        """The same on `device`."""
        if self.logits_bac.device == device:
            return self

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        detections = self.detections
        return TargetBatch(
            self.logits_bac.to(device),
            self.distances_ba4.to(device),
            [level.to(device) for level in self.attention],
            move(self.anchors_ba),
            move(self.bins_bar),
            None if self.spatial is None else [level.to(device) for level in self.spatial],
            None if self.maps is None else [level.to(device) for level in self.maps],
            None if detections is None else unpack(detections.packed().to(device)),
            {mode: weight.to(device) for mode, weight in self.participation.items()},
        )


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

    def batch(self, indices: np.ndarray) -> TargetBatch:
        """Read the targets of the views `indices` (b,)."""
        read = {name: torch.from_numpy(_signed(array[indices])) for name, array in self.arrays.items()}
        weights = {mode: torch.from_numpy(values[indices]).float() for mode, values in self.weights.items()}
        return decoded(read, self.channels, self.cells, self.map_cells, weights)


def decoded(
    arrays: Mapping[str, Tensor],
    channels: Sequence[int],
    cells: Sequence[int],
    map_cells: Sequence[int],
    participation_b: Mapping[str, Tensor],
) -> TargetBatch:
    """A batch from the rows of a cache's arrays, the inverse of `encoded` and `encoded_maps`."""

    def floats(name: str) -> Tensor | None:
        return arrays[name].float() if name in arrays else None

    spatial, maps, packed = floats("spatial"), arrays.get("maps"), floats("detections")
    logits, distances = floats("logits"), floats("distances")
    assert logits is not None and distances is not None
    return TargetBatch(
        logits,
        distances,
        list(arrays["attention"].float().split(list(channels), dim=1)),
        arrays["anchors"].long() if "anchors" in arrays else None,
        floats("bins"),
        None if spatial is None else [_square(part) for part in spatial.split(list(cells), dim=1)],
        None if maps is None else _unrolled(maps, channels, map_cells),
        None if packed is None else unpack(packed),
        participation_b,
    )


def target_shape(teacher: Teacher, size: int, classes: int) -> TargetShape:
    """The shape of a teacher's targets for students of input `size`."""
    return shape_of(size, teacher.strides[:LEVELS], teacher.channels[:LEVELS], classes, teacher.reg_max)


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
                shape = target_shape(teacher, size, classes)
                said = encoded(raw, form, shape, teacher_size, size, teacher.strides[:LEVELS], labels)
                _write(arrays[cache.folder], rows, said)
            if maps is not None:
                _write(arrays[maps], rows, encoded_maps(raw))
            on_progress(rows.stop - rows.start)
        for cache in everywhere:
            cache.finish(arrays[cache.folder], start)


def encoded(
    raw: RawOutput,
    form: TargetForm,
    shape: TargetShape,
    teacher_size: int,
    size: int,
    strides: Sequence[int],
    labels: Sequence[np.ndarray],
) -> dict[str, Tensor]:
    """The arrays of a form for a batch that the teacher saw at `teacher_size`, for students of input `size`.

    `labels`: each view's boxes (k, 5), class, x, y, w, h in 0..1; read for the teacher's error alone.
    """
    features = raw.features[: len(strides)]
    logits, distances = resample(raw.logits_bac, raw.distances_ba4, teacher_size, size, strides)
    arrays = {
        "logits": logits,
        "distances": distances,
        "attention": torch.cat([maps.float().mean(dim=(2, 3)) for maps in features], dim=1),
    }
    if form.bins:
        arrays["bins"] = resample_bins(raw.boxes_bra, shape.reg_max, teacher_size, size, strides)
    if form.sparse:
        kept = top_anchors(form, shape)
        anchors = logits.amax(dim=2).topk(kept, dim=1).indices.sort(dim=1).values
        for name in ("logits", "distances", "bins"):
            if name in arrays:
                arrays[name] = arrays[name].gather(1, anchors[..., None].expand(-1, -1, arrays[name].shape[2]))
        arrays["anchors"] = anchors
    if form.spatial:
        arrays["spatial"] = torch.cat(
            [
                _resized(maps.float().mean(dim=1), size // stride)
                for maps, stride in zip(features, strides, strict=True)
            ],
            dim=1,
        )
    if form.detections or form.facts:
        kept_anchors = anchor_count(teacher_size, strides)
        seen = raw.logits_bac[:, :kept_anchors], raw.distances_ba4[:, :kept_anchors]
        detections = final_detections(*seen, strides, teacher_size, DETECTIONS)
        if form.detections:
            arrays["detections"] = detections.packed()
        if form.facts:
            arrays["facts"] = view_facts(seen[0], detections, labels)
    return arrays


def encoded_maps(raw: RawOutput) -> dict[str, Tensor]:
    """The neck maps of a batch, channels last, all levels in one row (b, n)."""
    return {"maps": torch.cat([maps.permute(0, 2, 3, 1).flatten(1) for maps in raw.features[:LEVELS]], dim=1)}


def resample(
    logits_bac: torch.Tensor, distances_ba4: torch.Tensor, from_size: int, to_size: int, strides: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the teacher, looking at `from_size` pixels, says at the anchor points of a student of `to_size` pixels.

    Each student anchor takes the logits and the box of the teacher's nearest anchor on the same level; the box is
    re-expressed as ltrb distances from the student's anchor, in its strides. Nearest, because averages of neighbours
    would water down the peaks. With equal sizes both come back as they are, without levels beyond `strides`.
    """
    logits, distances, start = [], [], 0
    for stride in strides:
        old, new = from_size // stride, to_size // stride
        level = slice(start, start + old * old)
        start += old * old
        if old == new:
            logits.append(logits_bac[:, level])
            distances.append(distances_ba4[:, level])
            continue
        nearest, shift = _nearest(old, new, logits_bac.device)
        flat = (nearest[:, None] * old + nearest[None, :]).flatten() + level.start
        logits.append(logits_bac[:, flat])
        # cells of the teacher's grid to cells of the student's, and the way from one anchor to the other
        distances.append(distances_ba4[:, flat] * (new / old) + _moves(shift, new))
    return torch.cat(logits, dim=1), torch.cat(distances, dim=1)


def resample_bins(boxes_bra: Tensor, reg_max: int, from_size: int, to_size: int, strides: Sequence[int]) -> Tensor:
    """Log-probabilities (b, a, 4 * r) of the DFL bins at the anchor points of a student of `to_size` pixels.

    As `resample`: a bin stands for a distance; scaled and moved to the student's anchor, its probability is shared
    between the two nearest bins, so that the expectation is the resampled distance (within the range of the bins).
    """
    log_p = boxes_bra.float().unflatten(1, (4, reg_max)).permute(0, 3, 1, 2).log_softmax(dim=3)  # (b, a, 4, r)
    bins = torch.arange(reg_max, dtype=torch.float32, device=log_p.device)
    levels, start = [], 0
    for stride in strides:
        old, new = from_size // stride, to_size // stride
        level = slice(start, start + old * old)
        start += old * old
        if old == new:
            levels.append(log_p[:, level])
            continue
        nearest, shift = _nearest(old, new, log_p.device)
        flat = (nearest[:, None] * old + nearest[None, :]).flatten() + level.start
        move = _moves(shift, new)  # (a, 4)
        place = (bins * (new / old) + move[..., None]).clamp(0, reg_max - 1)  # (a, 4, r): where each bin comes to lie
        low = place.floor().clamp(max=reg_max - 2)
        share = place - low
        # (a, 4, r, r): of bin i's probability, the part that bin j gets
        target = low.long()
        spread = torch.zeros(*place.shape, reg_max, device=log_p.device)
        spread.scatter_(-1, target[..., None], (1 - share)[..., None])
        spread.scatter_add_(-1, target[..., None] + 1, share[..., None])
        moved = torch.einsum("baki,akij->bakj", log_p[:, flat].exp(), spread)
        levels.append(moved.clamp(min=1e-9).log())
    return torch.cat(levels, dim=1).clamp(min=LEAST_LOG_PROBABILITY).flatten(2)


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


def is_complete(folder: Path, key: str, maps: bool = False) -> bool:
    """Whether `folder` holds the complete and undamaged targets (or neck maps) of `key`."""
    return chunks.is_complete(folder, key, MAPS_DESCRIPTION if maps else "targets.json")


def _seal(folder: Path, key: str, teacher: Teacher, description: str) -> None:
    chunks.seal(folder, description, {"version": VERSION, "key": key, "teacher": teacher.name})


def _cache(folder: Path, teacher: Teacher, count: int, size: int, classes: int, form: TargetForm) -> ChunkedCache:
    shape = target_shape(teacher, size, classes)
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


def _nearest(old: int, new: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each of `new` cells of an axis the nearest of `old` ones, and the way to its centre in new cells; both (new,)."""
    cells = torch.arange(new, device=device)
    centre = (cells + 0.5) / new  # of the student's anchors, 0..1 of the image
    nearest = (centre * old).long().clamp(max=old - 1)
    return nearest, (nearest + 0.5) / old * new - (cells + 0.5)


def _moves(shift: Tensor, new: int) -> Tensor:
    """What moving from the teacher's anchor to the student's adds to ltrb distances, (new * new, 4)."""
    shift_x = shift[None, :].expand(new, new).flatten()
    shift_y = shift[:, None].expand(new, new).flatten()
    return torch.stack([-shift_x, -shift_y, shift_x, shift_y], dim=1)


def _resized(maps_bhw: Tensor, cells: int) -> Tensor:
    """Maps on a square grid of `cells`, flattened (b, cells * cells)."""
    if maps_bhw.shape[-1] != cells:
        maps_bhw = F.interpolate(maps_bhw[:, None], size=(cells, cells), mode="bilinear", align_corners=False)[:, 0]
    return maps_bhw.flatten(1)


def _square(flat_bn: Tensor) -> Tensor:
    side = round(flat_bn.shape[1] ** 0.5)
    return flat_bn.view(-1, side, side)


def _unrolled(maps_bn: Tensor, channels: Sequence[int], cells: Sequence[int]) -> list[Tensor]:
    """The levels of a row of maps, (b, c_l, h_l, w_l) in channels_last: views, nothing is copied."""
    levels = maps_bn.split([c * n for c, n in zip(channels, cells, strict=True)], dim=1)
    return [
        level.view(len(level), side, side, c).permute(0, 3, 1, 2)
        for level, c, side in zip(levels, channels, (round(n**0.5) for n in cells), strict=True)
    ]


def _signed(array: np.ndarray) -> np.ndarray:
    """Unsigned numbers as int64: torch indexes with nothing else."""
    return array.astype(np.int64) if array.dtype.kind == "u" else array
