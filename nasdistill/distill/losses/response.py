"""Losses between what the heads say at the anchor points: class probabilities."""

import torch.nn.functional as F
from torch import Tensor


def confidence(teacher_logits_bac: Tensor) -> Tensor:
    """The teacher's confidence at each anchor point: its highest class probability, (b, a), 0..1."""
    # the sigmoid rises: of the highest logit alone it is the same, at a fraction of the cost
    return teacher_logits_bac.amax(dim=2).sigmoid()


def class_kl(
    student_logits_bac: Tensor,
    teacher_logits_bac: Tensor,
    weight_ba: Tensor,
    temperature: float,
    weight_b: Tensor | None = None,
) -> Tensor:
    """Binary KL divergence of class probabilities softened by `temperature`, times its square; 0 when they agree.

    Detect heads score each class by a sigmoid, so each class is a Bernoulli distribution: KL(p || q) summed over classes,
    weighted per anchor by `weight_ba` (b, a) and divided by the sum of weights; `weight_b` (b,) says how much the teacher
    counts on each image. Hinton et al., Distilling the Knowledge in a Neural Network, 2015, sect. 2 (temperature and its
    square), in the binary form for sigmoid heads.
    """
    soft_student, soft_teacher = student_logits_bac.float() / temperature, teacher_logits_bac / temperature
    target = soft_teacher.sigmoid()
    cross = F.binary_cross_entropy_with_logits(soft_student, target, reduction="none")
    entropy = F.binary_cross_entropy_with_logits(soft_teacher, target, reduction="none")
    kl_ba = (cross - entropy).sum(dim=2)
    share_ba = weight_ba if weight_b is None else weight_ba * weight_b[:, None]
    return temperature**2 * (kl_ba * share_ba).sum() / weight_ba.sum().clamp(min=1.0)


def class_bckd(
    student_logits_bac: Tensor, teacher_logits_bac: Tensor, confidence_ba: Tensor, weight_b: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy with the teacher's class probabilities, each weighted by how far the student's is off; 0 when
    they agree.

    Summed over anchors and classes and divided by the sum of the teacher's confidence (b, a') as the labels' class loss is
    by that of its targets; `weight_b` (b,) says how much the teacher counts on each image. Where the teacher sees nothing
    it counts as soon as the student sees something, which `class_kl` leaves to the labels. Yang et al., Bridging Cross-task
    Protocol Inconsistency for Distillation in Dense Object Detection, ICCV 2023, sect. 3.2.
    """
    student, target = student_logits_bac.float(), teacher_logits_bac.float().sigmoid()
    cross = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    off = (student.sigmoid() - target).abs()
    loss_b = (cross * off).sum(dim=(1, 2))
    return (loss_b if weight_b is None else loss_b * weight_b).sum() / confidence_ba.sum().clamp(min=1.0)
