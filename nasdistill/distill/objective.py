"""The loss of one step: distillation parts and the labels' loss, named, with explicit weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss
from ultralytics.utils.tal import make_anchors

from nasdistill.distill.connectors import Connectors
from nasdistill.distill.losses import feature
from nasdistill.distill.losses.box import (
    FOREGROUND,
    better_than_student,
    box_regression,
    label_distances,
    localisation_kl,
)
from nasdistill.distill.losses.detections import DetectionLoss
from nasdistill.distill.losses.response import class_bckd, class_kl, confidence
from nasdistill.records import BoxLoss, BoxWhere, ClsLoss, FeatureLoss, Participation, TrialConfig
from nasdistill.students.student import Student, dense_output, in_float32, shapes_of
from nasdistill.teacher.encoding import SILENT, TargetBatch
from nasdistill.teacher.teacher import distances

# What weight 1 means for each part: gains that bring the parts to the size of Ultralytics' own class and box losses
GAINS: Mapping[str, float] = {"feature": 1.0, "cls": 1.0, "box": 5.0, "detections": 1.0}

LD_GAIN = 0.25  # of localisation distillation within the box part, as in its paper


@dataclass(frozen=True)
class LossWeights:
    """Weights of the parts; 0 leaves a part out. `label` weighs the loss against ground truth."""

    feature: float = 1.0
    cls: float = 1.0
    box: float = 1.0
    label: float = 0.0
    detections: float = 0.0


@dataclass(frozen=True)
class LossChoice:
    """Which form each part has; whether the teacher counts for the same on every image (`none`), and where its boxes do."""

    feature: FeatureLoss = "channel_attention"
    box: BoxLoss = "l1_giou"
    participation: Participation = "none"
    box_where: BoxWhere = "everywhere"
    cls: ClsLoss = "kl"

    @classmethod
    def of(cls, config: TrialConfig) -> "LossChoice":
        """What a trial chose."""
        return cls(config.feature_loss, config.box_loss, config.participation, config.box_where, config.cls_loss)


DEFAULT = LossChoice()


class DistillationLoss:
    """Loss of a student against the teacher's targets and labels. Holds nothing but Ultralytics' losses of the student.

    Of an NMS-free student, the one-to-many head learns from the teacher's answers at the anchors; detections and labels
    teach both heads, in the shares 0.8 and 0.2 all the time (Ultralytics' own training moves them, over the epochs).
    """

    def __init__(self, student: Student, connectors: Connectors, choice: LossChoice = DEFAULT) -> None:
        self._reg_max = student.head.reg_max
        self._strides = student.head.stride
        self._connectors = connectors
        self._choice = choice
        criterion: v8DetectionLoss | E2ELoss = student.model.init_criterion()
        self._label_loss = criterion
        self._detection_loss = DetectionLoss(student)

    def __call__(
        self,
        output: dict[str, Any],
        targets: TargetBatch | None,
        labels: Mapping[str, Tensor],
        weights: LossWeights,
        temperature: float,
        teacher_share: float = 1.0,
    ) -> dict[str, Tensor]:
        """Named parts (unweighted scalars) and their weighted `total`.

        Args:
            output: the student's training output (`boxes`, `scores`, `feats`, or these of both heads).
            targets: the teacher's targets for the same views; None trains on labels alone.
            labels: `batch_idx` (n,), `cls` (n, 1), `bboxes` (n, 4) xywh in 0..1, as Ultralytics' loss takes them.
            temperature: softening of the class probabilities and bins, > 0.
            teacher_share: what all weights but the labels' are multiplied by; at 0 those parts are left out.
        """
        dense = dense_output(output)
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=dense["scores"].device)
        if targets is not None and (teacher_share or not weights.label):  # without labels: no loss, but a gradient
            parts = self._teacher_parts(output, dense, targets, labels, weights, temperature)
            weighted = (GAINS[name] * getattr(weights, name) * part for name, part in parts.items())
            total = teacher_share * sum(weighted, total)
        if weights.label:
            images = dense["scores"].shape[0]
            parts["label"] = self._label_loss(in_float32(output), labels)[0].sum() / images
            total = total + weights.label * parts["label"]
        parts["total"] = total
        return parts

    def _teacher_parts(
        self,
        output: dict[str, Any],
        dense: Mapping[str, Any],
        targets: TargetBatch,
        labels: Mapping[str, Tensor],
        weights: LossWeights,
        temperature: float,
    ) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        targets = targets.leading(dense["scores"].shape[2])
        weight_b = None if self._choice.participation == "none" else targets.participation[self._choice.participation]
        weight_ba = confidence(targets.logits_bac)
        if weights.feature:
            parts["feature"] = self._feature(dense["feats"], targets, weight_ba, weight_b)
        if weights.cls:
            logits_bac = dense["scores"].float().permute(0, 2, 1)
            parts["cls"] = self._classes(logits_bac, targets, weight_ba, weight_b, temperature)
        if weights.box:
            parts["box"] = self._box(dense, targets, labels, weight_ba, weight_b, temperature)
        if weights.detections:
            assert targets.detections is not None, "the targets hold no detections"
            parts["detections"] = self._detection_loss(in_float32(output), targets.detections, weight_b)
        return parts

    def _classes(
        self,
        logits_bac: Tensor,
        targets: TargetBatch,
        weight_ba: Tensor,
        weight_b: Tensor | None,
        temperature: float,
    ) -> Tensor:
        theirs_bac, anchors_ba = targets.logits_bac, targets.anchors_ba
        if anchors_ba is not None:
            anchors_bac = anchors_ba[..., None].expand(-1, -1, logits_bac.shape[2])
            if self._choice.cls == "kl":  # an anchor that is not kept has no weight
                logits_bac = logits_bac.gather(1, anchors_bac)
            else:  # there the teacher sees nothing; of those beyond the student's levels, which say so too, all are anchor 0
                silent_bac = torch.full_like(logits_bac, SILENT)
                theirs_bac = silent_bac.scatter_reduce(1, anchors_bac, theirs_bac, "amax")
        if self._choice.cls == "kl":
            return class_kl(logits_bac, theirs_bac, weight_ba, temperature, weight_b)
        return class_bckd(logits_bac, theirs_bac, weight_ba, weight_b)

    def _feature(
        self, features: list[Tensor], targets: TargetBatch, weight_ba: Tensor, weight_b: Tensor | None
    ) -> Tensor:
        kind, connectors = self._choice.feature, self._connectors
        if kind in ("channel_attention", "cbam"):
            channel = feature.channel_attention(connectors.over_space(features), targets.attention, weight_b)
            if kind == "channel_attention":
                return channel
            assert targets.spatial is not None, "the targets hold no spatial attention"
            spatial = feature.spatial_attention(connectors.over_channels(features), targets.spatial, weight_b)
            return feature.cbam_attention(channel, spatial)
        assert targets.maps is not None, "the targets hold no neck maps"
        student = connectors(features)
        if kind == "mgd":
            student = connectors.generated(student, [feature.keep_mask(maps) for maps in student])
        teacher = [_fitted(maps, like) for maps, like in zip(targets.maps, student, strict=True)]
        if kind == "score_weighted":
            assert targets.anchors_ba is None, "score weighting needs the scores of all anchors"
            score = _by_level(weight_ba, features)[: len(student)]
            return feature.score_weighted_l2(student, teacher, score, weight_b)
        compare = {"cwd": feature.cwd, "pkd": feature.pkd, "mgd": feature.mgd}[kind]
        return compare(student, teacher, weight_b)

    def _box(
        self,
        dense: Mapping[str, Any],
        targets: TargetBatch,
        labels: Mapping[str, Tensor],
        weight_ba: Tensor,
        weight_b: Tensor | None,
        temperature: float,
    ) -> Tensor:
        """Most anchors see no object: only those where the teacher does are decoded."""
        image, place = torch.where(weight_ba > FOREGROUND)
        anchor = place if targets.anchors_ba is None else targets.anchors_ba[image, place]
        bins_nr = dense["boxes"].permute(0, 2, 1)[image, anchor]  # its gradient has the label loss's layout
        weight_n = weight_ba[image, place]
        share_n = None if weight_b is None else weight_b[image]
        teacher_n4 = targets.distances_ba4[image, place]
        student_n4 = distances(bins_nr.T[None], self._reg_max)[0]
        if self._choice.box_where == "better":
            label_nm4, there_nm = self._labels_of(labels, dense["feats"], image, anchor)
            better_n = better_than_student(student_n4, teacher_n4, label_nm4, there_nm).float()
            share_n = better_n if share_n is None else share_n * better_n
        loss = torch.zeros((), device=bins_nr.device)
        if self._choice.box in ("l1_giou", "l1_giou_ld"):
            loss = loss + box_regression(student_n4, teacher_n4, weight_n, share_n)
        if self._choice.box in ("ld", "l1_giou_ld"):
            assert targets.bins_bar is not None, "the targets hold no bins"
            theirs_n4r = targets.bins_bar[image, place].view(len(image), 4, self._reg_max)
            ours_n4r = bins_nr.view(len(image), 4, self._reg_max)
            loss = loss + LD_GAIN * localisation_kl(ours_n4r, theirs_n4r, weight_n, temperature, share_n)
        return loss

    def _labels_of(
        self, labels: Mapping[str, Tensor], features: list[Tensor], image_n: Tensor, anchor_n: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`label_distances` of the given anchors."""
        points_a2, strides_a1 = make_anchors(shapes_of(features), self._strides, 0.5)
        height, width = (side * self._strides[0] for side in features[0].shape[2:])
        size = torch.stack([width, height]).to(points_a2)
        images = len(features[0])
        return label_distances(labels, images, image_n, points_a2[anchor_n], strides_a1[anchor_n], size)


def _fitted(maps_bchw: Tensor, like: Tensor) -> Tensor:
    """The teacher's maps on the student's grid, where their input sizes differ."""
    if maps_bchw.shape[2:] == like.shape[2:]:
        return maps_bchw
    return F.interpolate(maps_bchw.float(), size=like.shape[2:], mode="bilinear", align_corners=False)


def _by_level(weight_ba: Tensor, features: list[Tensor]) -> list[Tensor]:
    """Values at the anchors as maps (b, h_l, w_l), a level each."""
    sizes = [maps.shape[2] * maps.shape[3] for maps in features]
    parts = weight_ba.split(sizes, dim=1)
    return [part.view(len(part), *maps.shape[2:]) for part, maps in zip(parts, features, strict=True)]
