"""The distillation losses: pure functions of student and teacher outputs.

Legend for shapes: b images, a anchor points, c classes, l levels. All are computed in float32 and averaged so that they do
not depend on batch size or on the number of anchors.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

L1_SHARE, GIOU_SHARE = 3.0, 1.0
FOREGROUND = 0.05  # anchors below this teacher confidence say nothing about boxes


def channel_attention(student_bchw: Sequence[Tensor], teacher_bc: Sequence[Tensor]) -> Tensor:
    """Squared distance of the channel attention (mean over space) on each pyramid level, relative to the teacher's energy.

    Args:
        student_bchw: connected student maps, a level each, (b, c_l, h, w) with the teacher's channels c_l.
        teacher_bc: the teacher's maps averaged over space, (b, c_l).

    Dividing by the teacher's mean square makes the weight mean the same for every teacher. 0 when they agree. Source of
    channel attention as a target: Woo et al., CBAM, ECCV 2018, eq. 2 (average-pooled branch), without its MLP.
    """
    terms = [
        F.mse_loss(maps.float().mean(dim=(2, 3)), target) / target.square().mean().clamp(min=1e-6)
        for maps, target in zip(student_bchw, teacher_bc, strict=True)
    ]
    return torch.stack(terms).mean()


def confidence(teacher_logits_bac: Tensor) -> Tensor:
    """The teacher's confidence at each anchor point: its highest class probability, (b, a), 0..1."""
    return teacher_logits_bac.sigmoid().amax(dim=2)


def class_kl(student_logits_bac: Tensor, teacher_logits_bac: Tensor, weight_ba: Tensor, temperature: float) -> Tensor:
    """Binary KL divergence of class probabilities softened by `temperature`, times its square; 0 when they agree.

    Detect heads score each class by a sigmoid, so each class is a Bernoulli distribution: KL(p || q) summed over classes,
    weighted per anchor by `weight_ba` (b, a) and divided by the sum of weights. Hinton et al., Distilling the Knowledge in
    a Neural Network, 2015, sect. 2 (temperature and its square), in the binary form for sigmoid heads.
    """
    soft_student, soft_teacher = student_logits_bac.float() / temperature, teacher_logits_bac / temperature
    target = soft_teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(soft_student, target, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(soft_teacher, target, reduction="none")
    kl_ba = (cross - entropy).sum(dim=2)
    return temperature**2 * (kl_ba * weight_ba).sum() / weight_ba.sum().clamp(min=1.0)


def box_regression(student_ba4: Tensor, teacher_ba4: Tensor, weight_ba: Tensor) -> Tensor:
    """L1 and GIoU, 3 to 1, between student and teacher boxes at the anchors where the teacher sees an object.

    Boxes are ltrb distances from the shared anchor point in units of the level's stride, (b, a, 4). Weighted by `weight_ba`
    where it exceeds FOREGROUND. GIoU: Rezatofighi et al., CVPR 2019.
    """
    mask = weight_ba > FOREGROUND
    weight, student, teacher = weight_ba[mask], student_ba4[mask].float(), teacher_ba4[mask]
    if weight.numel() == 0:
        return student_ba4.sum() * 0.0
    l1 = (student - teacher).abs().mean(dim=1)
    giou = 1.0 - giou_of_distances(student, teacher)
    return ((L1_SHARE * l1 + GIOU_SHARE * giou) * weight).sum() / weight.sum().clamp(min=1.0) / (L1_SHARE + GIOU_SHARE)


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
