"""Losses between the boxes of student and teacher at the anchor points where the teacher sees an object.

Boxes are ltrb distances from the anchor point, which both share, in units of the level's stride.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

L1_SHARE, GIOU_SHARE = 3.0, 1.0
FOREGROUND = 0.05  # anchors below this teacher confidence say nothing about boxes


def box_regression(student_n4: Tensor, teacher_n4: Tensor, weight_n: Tensor, share_n: Tensor | None = None) -> Tensor:
    """L1 and GIoU, 3 to 1, between student and teacher boxes (n, 4), weighted by the teacher's confidence (n,).

    `share_n`: how much the teacher counts at each box, of 1. Without any box (n = 0) it is 0, with a
    gradient of 0. GIoU: Rezatofighi et al., CVPR 2019.
    """
    student, teacher = student_n4.float(), teacher_n4.float()
    l1 = (student - teacher).abs().mean(dim=1)
    giou = 1.0 - giou_of_distances(student, teacher)
    return _weighted((L1_SHARE * l1 + GIOU_SHARE * giou) / (L1_SHARE + GIOU_SHARE), weight_n, share_n)


def localisation_kl(
    student_n4r: Tensor,
    teacher_n4r: Tensor,
    weight_n: Tensor,
    temperature: float,
    share_n: Tensor | None = None,
) -> Tensor:
    """KL divergence of the distributions over DFL bins, mean over the four sides, times the squared temperature.

    Both are logits (n, 4, r) over the same r bins (log-probabilities will do). 0 when they agree. Zheng et al.,
    Localization Distillation for Dense Object Detection, CVPR 2022, eq. 2, weighted by confidence as `box_regression`.
    """
    log_q = torch.log_softmax(student_n4r.float() / temperature, dim=2)
    log_p = torch.log_softmax(teacher_n4r.float() / temperature, dim=2)
    kl_n = (log_p.exp() * (log_p - log_q)).sum(dim=2).mean(dim=1)
    return temperature**2 * _weighted(kl_n, weight_n, share_n)


def _weighted(loss_n: Tensor, weight_n: Tensor, share_n: Tensor | None) -> Tensor:
    share = weight_n if share_n is None else weight_n * share_n
    return (loss_n * share).sum() / weight_n.sum().clamp(min=1.0)


def better_than_student(student_n4: Tensor, teacher_n4: Tensor, label_nm4: Tensor, there_nm: Tensor) -> Tensor:
    """Where (n,) the teacher's box fits the label that it fits best more closely, by GIoU, than the student's box does.

    The bound of Chen et al., Learning Efficient Object Detection Models with Knowledge Distillation, NeurIPS 2017, eq. 4
    (theirs by squared distance): a student that has got closer to the label than the teacher is not drawn back. A box of
    the teacher that meets no label teaches nothing.

    Args:
        label_nm4: the labels of each box's image, as distances from its anchor point; `there_nm` tells them from padding.
    """
    if not label_nm4.shape[1]:
        return there_nm.any(dim=1)
    fit_nm = giou_of_distances(teacher_n4.float()[:, None], label_nm4).masked_fill(~there_nm, -1.0)
    fit_n, best_n = fit_nm.max(dim=1)
    label_n4 = label_nm4[torch.arange(len(best_n), device=best_n.device), best_n]
    return (fit_n > 0) & (fit_n > giou_of_distances(student_n4.detach().float(), label_n4))


def label_distances(
    labels: Mapping[str, Tensor], images: int, image_n: Tensor, point_n2: Tensor, stride_n1: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """The labels of each anchor's image as ltrb distances from it (n, m, 4), and which are no padding (n, m).

    Args:
        labels: `batch_idx` (k,) and `bboxes` (k, 4) xywh in 0..1, of `images` images.
        image_n, point_n2, stride_n1: of each anchor its image, its point in units of its stride, and that stride in pixels.
        size: width and height of the input in pixels, (2,).
    """
    owner_k = labels["batch_idx"].to(point_n2.device).long()
    box_k4 = labels["bboxes"].to(point_n2.device).float() * size.repeat(2)
    count_b = torch.bincount(owner_k, minlength=images)
    most = int(count_b.max())
    order = owner_k.argsort(stable=True)
    slot_k = torch.arange(len(order), device=order.device) - (count_b.cumsum(0) - count_b)[owner_k[order]]
    box_bm4 = point_n2.new_zeros(images, most, 4)
    box_bm4[owner_k[order], slot_k] = box_k4[order]
    there_bm = torch.arange(most, device=count_b.device) < count_b[:, None]
    centre_nm2, half_nm2 = (
        box_bm4[image_n, :, :2] / stride_n1[:, None],
        box_bm4[image_n, :, 2:] / 2 / stride_n1[:, None],
    )
    offset_nm2 = centre_nm2 - point_n2[:, None]
    return torch.cat([half_nm2 - offset_nm2, half_nm2 + offset_nm2], dim=2), there_bm[image_n]


def giou_of_distances(first: Tensor, second: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalised IoU (...) of boxes given as ltrb distances (..., 4) from a shared point; -1..1, 1 when they agree.

    Distances may be slightly negative (a box that does not hold its anchor point).
    """
    inner, outer = torch.minimum(first, second), torch.maximum(first, second)
    overlap, hull = _area(inner), _area(outer)
    union = _area(first) + _area(second) - overlap
    return overlap / (union + eps) - (hull - union) / (hull + eps)


def _area(distances: Tensor) -> Tensor:
    width, height = distances[..., 0] + distances[..., 2], distances[..., 1] + distances[..., 3]
    return width.clamp(min=0) * height.clamp(min=0)
