"""The teacher's final detections as soft labels: assigned by the student's own assigner, weighted by their scores."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasdistill.students.student import Student
from nasdistill.teacher.detections import Detections


class DetectionLoss:
    """Ultralytics' own loss of a student, with a teacher's detections in the place of ground truth.

    An anchor that the student's assigner gives to a detection gets the detection's score times the assigner's alignment
    as its class target, and weighs in the box loss by the same number: a detection that the teacher doubts teaches
    little. Soft labels after NMS: Chen et al., Learning Efficient Object Detection Models with Knowledge Distillation,
    NeurIPS 2017 (their weighting by the teacher), with task-aligned assignment (Feng et al., TOOD, ICCV 2021).
    Both heads of an NMS-free student are taught, as with labels.
    """

    def __init__(self, student: Student) -> None:
        self._criterion = student.model.init_criterion()
        branches = [getattr(self._criterion, name, None) for name in ("one2many", "one2one")]
        self._assigners = []
        for branch in [branch for branch in branches if branch is not None] or [self._criterion]:
            branch.assigner = ScoredAssigner(branch.assigner)
            self._assigners.append(branch.assigner)

    def __call__(self, output: Mapping[str, Any], detections: Detections, weight_b: Tensor | None) -> Tensor:
        """The loss per image.

        Args:
            output: the student's training output in float32 (`boxes`, `scores`, `feats`, or these of both heads).
            detections: of the same views.
            weight_b: how much the teacher counts on each image (b,); it scales the scores.
        """
        scores_bd = detections.scores_bd if weight_b is None else detections.scores_bd * weight_b[:, None]
        scores_bd = scores_bd.clamp(max=1.0)
        image, slot = torch.where(detections.scores_bd > 0)
        most = int(slot.max()) + 1 if len(slot) else 0  # an image's detections come first in its row
        for assigner in self._assigners:
            assigner.scores_bd = scores_bd[:, :most]
        labels = {
            "batch_idx": image.float(),
            "cls": detections.classes_bd[image, slot][:, None].float(),
            "bboxes": detections.boxes_bd4[image, slot],
        }
        loss: Tensor = self._criterion(output, labels)[0].sum() / len(scores_bd)
        return loss


class ScoredAssigner(nn.Module):
    """An Ultralytics assigner whose target scores are multiplied by `scores_bd`, a score for each padded label."""

    def __init__(self, assigner: nn.Module) -> None:
        super().__init__()
        self.assigner = assigner
        self.scores_bd = torch.zeros(0, 0)

    def forward(self, *arguments: Any, **options: Any) -> tuple[Tensor, ...]:
        """What the assigner says: labels, boxes, scores (b, a, c), foreground (b, a), label index (b, a)."""
        labels, boxes, scores_bac, foreground, index_ba = self.assigner(*arguments, **options)
        if self.scores_bd.shape[1]:
            scores_bac = scores_bac * self.scores_bd.gather(1, index_ba.long())[..., None]
        return labels, boxes, scores_bac, foreground, index_ba
