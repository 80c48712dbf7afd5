"""What the teacher, looking at one input size, says at the anchor points of a student of another."""

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST_LOG_PROBABILITY = -12.0  # of a bin, where probabilities are spread anew; float16 would keep less


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
