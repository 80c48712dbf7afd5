"""The loss of one step: distillation parts and the labels' loss, named, with explicit weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss

from nasdistill.distill.connectors import Connectors
from nasdistill.distill.losses import FOREGROUND, box_regression, channel_attention, class_kl, confidence
from nasdistill.students.student import Student, dense_output
from nasdistill.teacher.targets import TargetBatch
from nasdistill.teacher.teacher import distances

# What weight 1 means for each part: gains that bring the parts to the size of Ultralytics' own class and box losses
GAINS: Mapping[str, float] = {"feature": 1.0, "cls": 1.0, "box": 5.0}


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts; 0 leaves a part out. `label` weighs the loss against ground truth."""

    feature: float = 1.0
    cls: float = 1.0
    box: float = 1.0
    label: float = 0.0


class DistillationLoss:
    """Loss of a student against cached targets and labels. Holds nothing but Ultralytics' label loss of the student."""

    def __init__(self, student: Student, connectors: Connectors) -> None:
        self._reg_max = student.head.reg_max
        self._connectors = connectors
        criterion: v8DetectionLoss | E2ELoss = student.model.init_criterion()
        self._label_loss = criterion

    def __call__(
        self,
        output: dict[str, Any],
        targets: TargetBatch | None,
        labels: Mapping[str, Tensor],
        weights: LossWeights,
        temperature: float,
    ) -> dict[str, Tensor]:
        """Named parts (unweighted scalars) and their weighted `total`.

        Args:
            output: the student's training output (`boxes`, `scores`, `feats`, or two branches of them).
            targets: the teacher's targets for the same views; None trains on labels alone.
            labels: `batch_idx` (n,), `cls` (n, 1), `bboxes` (n, 4) xywh in 0..1, as Ultralytics' loss takes them.
            temperature: softening of the class probabilities, > 0.
        """
        parts: dict[str, Tensor] = {}
        everything, output = output, dict(dense_output(output))
        if targets is not None:
            targets = targets.leading(output["scores"].shape[2])
            weight_ba = confidence(targets.logits_bac)
            if weights.feature:
                # a 1x1 convolution's mean over space is the convolution of the mean: same loss, a fraction of the cost
                pooled = [_mean_over_space(feature) for feature in output["feats"]]
                parts["feature"] = channel_attention(self._connectors(pooled), targets.attention)
            if weights.cls:
                logits_bac = output["scores"].float().permute(0, 2, 1)
                parts["cls"] = class_kl(logits_bac, targets.logits_bac, weight_ba, temperature)
            if weights.box:
                # most anchors see no object: only those that do are decoded
                image, anchor = torch.where(weight_ba > FOREGROUND)
                bins_nr = output["boxes"].permute(0, 2, 1)[image, anchor]  # its gradient has the label loss's layout
                distances_n4 = distances(bins_nr.T[None], self._reg_max)[0]
                teacher_n4, weight_n = targets.distances_ba4[image, anchor], weight_ba[image, anchor]
                parts["box"] = box_regression(distances_n4, teacher_n4, weight_n)
        total = sum(
            (GAINS[name] * getattr(weights, name) * part for name, part in parts.items()),
            torch.zeros((), device=output["scores"].device),
        )
        if weights.label:
            branches = {name: _in_float32(everything[name]) for name in ("one2many", "one2one") if name in everything}
            images = output["scores"].shape[0]
            parts["label"] = self._label_loss(branches or _in_float32(everything), labels)[0].sum() / images
            total = total + weights.label * parts["label"]
        parts["total"] = total
        return parts


def _in_float32(output: Mapping[str, Any]) -> dict[str, Any]:
    return {"boxes": output["boxes"].float(), "scores": output["scores"].float(), "feats": output["feats"]}


def _mean_over_space(feature_bchw: Tensor) -> Tensor:
    """Mean over height and width in float32, (b, c, 1, 1).

    Taken over the channels_last view: the gradient is then spread in memory order, 4 times as fast on a CPU.
    """
    return feature_bchw.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1, dtype=torch.float32)[:, :, None, None]
