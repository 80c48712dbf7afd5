"""What the teacher, looking at one input size, says at the anchor points of a student of another, with other levels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasdistill.teacher.forms import cells_along

LEAST_LOG_PROBABILITY = -12.0  # of a bin, where probabilities are spread anew; float16 would keep less


@dataclass(frozen=True)
class Source:
    """Where the answers of one of the student's levels come from.

    anchors: the teacher's anchors that answer, one for each of the student's: a slice where both are the same, indices
    (a,), or (b, a) where each image has its own. cell: side of the teacher's cells in cells of the student's level.
    moves_a4: what the way from the teacher's anchors to the student's adds to ltrb distances, (a, 4) or (b, a, 4), in
    cells of the student's level.
    """

    anchors: slice | Tensor
    cell: float = 1.0
    moves_a4: Tensor | None = None

    def of(self, said_bax: Tensor) -> Tensor:
        """What the teacher said (b, anchors, x), at the anchors that answer (b, a, x)."""
        if isinstance(self.anchors, slice) or self.anchors.ndim == 1:
            return said_bax[:, self.anchors]
        return torch.take_along_dim(said_bax, self.anchors[..., None], dim=1)


def resample(
    logits_bac: Tensor,
    distances_ba4: Tensor,
    from_size: int,
    to_size: int,
    strides: Sequence[int],
    to_strides: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """What the teacher, looking at `from_size` pixels, says at the anchor points of a student of `to_size` pixels.

    Each student anchor takes the logits and the box of the teacher's nearest anchor on the same level; the box is
    re-expressed as ltrb distances from the student's anchor, in its strides. Nearest, because averages of neighbours
    would water down the peaks. Of levels that the teacher (`strides`) lacks, each anchor takes the most confident of the
    anchors that lie in its cell on the teacher's coarsest level. With equal sizes, levels that both have come back as
    they are. `to_strides` are the student's levels (None: the teacher's).
    """
    logits, distances = [], []
    for source in _sources(logits_bac, from_size, to_size, strides, to_strides):
        logits.append(source.of(logits_bac))
        boxes = source.of(distances_ba4)
        distances.append(boxes if source.moves_a4 is None else boxes * source.cell + source.moves_a4)
    return torch.cat(logits, dim=1), torch.cat(distances, dim=1)


def resample_bins(
    boxes_bra: Tensor,
    logits_bac: Tensor,
    reg_max: int,
    from_size: int,
    to_size: int,
    strides: Sequence[int],
    to_strides: Sequence[int] | None = None,
) -> Tensor:
    """Log-probabilities (b, a, 4 * r) of the DFL bins at the anchor points of a student of `to_size` pixels.

    As `resample`: a bin stands for a distance; scaled and moved to the student's anchor, its probability is shared
    between the two nearest bins, so that the expectation is the resampled distance (within the range of the bins).
    """
    log_p = boxes_bra.float().unflatten(1, (4, reg_max)).permute(0, 3, 1, 2).log_softmax(dim=3)  # (b, a, 4, r)
    bins = torch.arange(reg_max, dtype=torch.float32, device=log_p.device)
    levels = []
    for source in _sources(logits_bac, from_size, to_size, strides, to_strides):
        said = source.of(log_p.flatten(2))
        if source.moves_a4 is None:
            levels.append(said)
            continue
        place = (bins * source.cell + source.moves_a4[..., None]).clamp(0, reg_max - 1)  # (…, a, 4, r)
        low = place.floor().clamp(max=reg_max - 2)
        share = place - low
        # (…, a, 4, r, r): of bin i's probability, the part that bin j gets
        target = low.long()
        spread = torch.zeros(*place.shape, reg_max, device=log_p.device)
        spread.scatter_(-1, target[..., None], (1 - share)[..., None])
        spread.scatter_add_(-1, target[..., None] + 1, share[..., None])
        each = "baki,bakij->bakj" if spread.ndim == 5 else "baki,akij->bakj"  # images' own anchors, or the same for all
        moved = torch.einsum(each, said.unflatten(2, (4, reg_max)).exp(), spread)
        levels.append(moved.clamp(min=1e-9).log().flatten(2))
    return torch.cat(levels, dim=1).clamp(min=LEAST_LOG_PROBABILITY)


def _sources(
    logits_bac: Tensor, from_size: int, to_size: int, strides: Sequence[int], to_strides: Sequence[int] | None
) -> Iterator[Source]:
    """For each level of the student's, the teacher's anchors that answer there."""
    levels, start = {}, 0
    for stride in strides:
        cells = cells_along(from_size, stride)
        levels[stride] = (start, cells)
        start += cells * cells
    for stride in strides if to_strides is None else to_strides:
        source = stride if stride in levels else strides[-1]
        start, old = levels[source]
        if source == stride and from_size == to_size:
            yield Source(slice(start, start + old * old))
            continue
        new, cell = cells_along(to_size, stride), to_size / from_size * source / stride
        points = 1 if source == stride else max(1, round(1 / cell))  # looked at in each cell, along each side
        spots = (torch.arange(new * points, device=logits_bac.device) + 0.5) / points
        nearest = (spots / cell).long().clamp(max=old - 1)
        # (row, column) of the student's cell, then of the point within it
        rows = nearest.view(new, 1, points, 1).expand(new, new, points, points).reshape(new * new, -1)
        columns = nearest.view(1, new, 1, points).expand(new, new, points, points).reshape(new * new, -1)
        if points == 1:
            row, column = rows[:, 0], columns[:, 0]
        else:
            said = logits_bac[:, start + rows * old + columns]  # (b, cells, points, classes)
            best = said.amax(dim=3).argmax(dim=2)[..., None]  # (b, cells, 1)
            row, column = (torch.take_along_dim(index[None], best, dim=2)[:, :, 0] for index in (rows, columns))
        # the way from the teacher's anchor to the student's, in the student's cells
        centre = torch.arange(new, device=logits_bac.device) + 0.5
        shift_x = (column + 0.5) * cell - centre.repeat(new)
        shift_y = (row + 0.5) * cell - centre.repeat_interleave(new)
        moves = torch.stack([-shift_x, -shift_y, shift_x, shift_y], dim=-1)
        yield Source(start + row * old + column, cell, moves)
