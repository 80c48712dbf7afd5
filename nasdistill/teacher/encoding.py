"""From what the teacher says about a batch to the arrays of a cache, and back to what the losses read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdistill.space.families import STRIDES
from nasdistill.teacher.detections import MOST_DETECTIONS, Detections, final_detections, unpack, view_facts
from nasdistill.teacher.forms import DETECTIONS, TargetForm, TargetShape, cells_along, top_anchors
from nasdistill.teacher.resample import resample, resample_bins
from nasdistill.teacher.teacher import RawOutput

HOST = torch.device("cpu")
SILENT = -100.0  # a logit whose probability is 0 in float32


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

    def leading(self, anchors: int) -> "TargetBatch":
        """The same at the first `anchors` anchor points: those of a student with fewer levels.

        Of the sparse form's anchors those beyond fall silent: no class and no box is learned there.
        """
        if self.anchors_ba is not None:
            beyond = self.anchors_ba >= anchors
            if not beyond.any():
                return self
            return replace(
                self,
                logits_bac=self.logits_bac.masked_fill(beyond[..., None], SILENT),
                anchors_ba=self.anchors_ba.masked_fill(beyond, 0),
            )
        if anchors == self.logits_bac.shape[1]:
            return self
        return replace(
            self,
            logits_bac=self.logits_bac[:, :anchors],
            distances_ba4=self.distances_ba4[:, :anchors],
            bins_bar=None if self.bins_bar is None else self.bins_bar[:, :anchors],
        )


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

    `strides`: all of the teacher's levels. `labels`: each view's boxes (k, 5), class, x, y, w, h in 0..1; read for the
    teacher's error alone.
    """
    features, to_strides = raw.features[: len(shape.channels)], STRIDES[: form.levels]
    logits, distances = resample(raw.logits_bac, raw.distances_ba4, teacher_size, size, strides, to_strides)
    arrays = {
        "logits": logits,
        "distances": distances,
        "attention": torch.cat([maps.float().mean(dim=(2, 3)) for maps in features], dim=1),
    }
    if form.bins:
        arrays["bins"] = resample_bins(
            raw.boxes_bra, raw.logits_bac, shape.reg_max, teacher_size, size, strides, to_strides
        )
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
                _resized(maps.float().mean(dim=1), cells_along(size, stride))
                for maps, stride in zip(features, strides, strict=False)
            ],
            dim=1,
        )
    if form.detections or form.facts:
        detections = final_detections(raw.logits_bac, raw.distances_ba4, strides, teacher_size, MOST_DETECTIONS)
        if form.detections:
            arrays["detections"] = detections.packed()[:, :DETECTIONS]
        if form.facts:
            arrays["facts"] = view_facts(raw.logits_bac, detections, labels)
    return arrays


def encoded_maps(raw: RawOutput, levels: int) -> dict[str, Tensor]:
    """The neck maps of a batch, channels last, all levels in one row (b, n)."""
    return {"maps": torch.cat([maps.permute(0, 2, 3, 1).flatten(1) for maps in raw.features[:levels]], dim=1)}


def decoded(
    arrays: Mapping[str, Tensor],
    channels: Sequence[int],
    cells: Sequence[int],
    map_cells: Sequence[int],
    participation_b: Mapping[str, Tensor],
) -> TargetBatch:
    """A batch from the rows of a cache's arrays, the inverse of `encoded` and `encoded_maps`.

    `channels` are of the levels that have neck maps; `cells` of those at the student's input, `map_cells` at the
    teacher's.
    """

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
