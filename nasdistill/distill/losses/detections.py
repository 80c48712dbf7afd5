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
    Both heads of an NMS-free student are taught, as with labels. How much the teacher counts on an image multiplies what
    that image adds to the loss, not its targets: a lower target would say "background" as loudly as ever.
    """

    def __init__(self, student: Student) -> None:
        self._criterion = student.model.init_criterion()
        branches = [getattr(self._criterion, name, None) for name in ("one2many", "one2one")]
        self._branches = [branch for branch in branches if branch is not None] or [self._criterion]
        for branch in self._branches:
            branch.assigner = ScoredAssigner(branch.assigner)
            branch.bbox_loss = WeighedBoxes(branch.bbox_loss)

    def __call__(self, output: Mapping[str, Any], detections: Detections, weight_b: Tensor | None) -> Tensor:
        """The loss per image.

        Args:
            output: the student's training output in float32 (`boxes`, `scores`, `feats`, or these of both heads).
            detections: of the same views.
            weight_b: how much the teacher counts on each image (b,), at least 0.
        """
        scores_bd = detections.scores_bd
        image, slot = torch.where(scores_bd > 0)
        most = int(slot.max()) + 1 if len(slot) else 0  # an image's detections come first in its row
        for branch in self._branches:
            branch.assigner.scores_bd = scores_bd[:, :most]
            branch.class_weights = None if weight_b is None else weight_b[:, None, None]  # times a loss (b, a, c)
            branch.bbox_loss.weight_b = weight_b
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


class WeighedBoxes(nn.Module):
    """An Ultralytics box loss in which what an image adds is multiplied by its `weight_b` (None: 1)."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.weight_b: Tensor | None = None

    def forward(
        self, bins: Tensor, boxes: Tensor, points: Tensor, truth: Tensor, scores_bac: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        """What the loss says, which weighs each anchor by its target scores and divides by the sum that is in `rest`."""
        if self.weight_b is not None:
            scores_bac = scores_bac * self.weight_b[:, None, None]
        found: tuple[Tensor, Tensor] = self.loss(bins, boxes, points, truth, scores_bac, *rest)
        return found
