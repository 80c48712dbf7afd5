"""Losses between the boxes of student and teacher at the anchor points where the teacher sees an object.

Boxes are ltrb distances from the anchor point, which both share, in units of the level's stride.
"""

import torch
from torch import Tensor

L1_SHARE, GIOU_SHARE = 3.0, 1.0
FOREGROUND = 0.05  # anchors below this teacher confidence say nothing about boxes


def box_regression(
    student_n4: Tensor, teacher_n4: Tensor, weight_n: Tensor, image_weight_n: Tensor | None = None
) -> Tensor:
    """L1 and GIoU, 3 to 1, between student and teacher boxes (n, 4), weighted by the teacher's confidence (n,).

    `image_weight_n`: how much the teacher counts on the image of each box. Without any box (n = 0) it is 0, with a
    gradient of 0. GIoU: Rezatofighi et al., CVPR 2019.
    """
    student, teacher = student_n4.float(), teacher_n4.float()
    l1 = (student - teacher).abs().mean(dim=1)
    giou = 1.0 - giou_of_distances(student, teacher)
    return _weighted((L1_SHARE * l1 + GIOU_SHARE * giou) / (L1_SHARE + GIOU_SHARE), weight_n, image_weight_n)


def localisation_kl(
    student_n4r: Tensor,
    teacher_n4r: Tensor,
    weight_n: Tensor,
    temperature: float,
    image_weight_n: Tensor | None = None,
) -> Tensor:
    """KL divergence of the distributions over DFL bins, mean over the four sides, times the squared temperature.

    Both are logits (n, 4, r) over the same r bins (log-probabilities will do). 0 when they agree. Zheng et al.,
    Localization Distillation for Dense Object Detection, CVPR 2022, eq. 2, weighted by confidence as `box_regression`.
    """
    log_q = torch.log_softmax(student_n4r.float() / temperature, dim=2)
    log_p = torch.log_softmax(teacher_n4r.float() / temperature, dim=2)
    kl_n = (log_p.exp() * (log_p - log_q)).sum(dim=2).mean(dim=1)
    return temperature**2 * _weighted(kl_n, weight_n, image_weight_n)


def _weighted(loss_n: Tensor, weight_n: Tensor, image_weight_n: Tensor | None) -> Tensor:
    share = weight_n if image_weight_n is None else weight_n * image_weight_n
    return (loss_n * share).sum() / weight_n.sum().clamp(min=1.0)


def giou_of_distances(first_n4: Tensor, second_n4: Tensor, eps: float = 1e-7) -> Tensor:
    """Generalised IoU (n,) of boxes given as ltrb distances from a shared point; -1..1, 1 when they agree.

    Distances may be slightly negative (a box that does not hold its anchor point).
    """
    inner, outer = torch.minimum(first_n4, second_n4), torch.maximum(first_n4, second_n4)
    overlap = (inner[:, 0] + inner[:, 2]).clamp(min=0) * (inner[:, 1] + inner[:, 3]).clamp(min=0)
    hull = (outer[:, 0] + outer[:, 2]).clamp(min=0) * (outer[:, 1] + outer[:, 3]).clamp(min=0)
    union = _area(first_n4) + _area(second_n4) - overlap
    return overlap / (union + eps) - (hull - union) / (hull + eps)


def _area(distances_n4: Tensor) -> Tensor:
    return (distances_n4[:, 0] + distances_n4[:, 2]).clamp(min=0) * (distances_n4[:, 1] + distances_n4[:, 3]).clamp(
        min=0
    )
