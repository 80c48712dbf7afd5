"""mAP of detections against labels, in the pixels of the letterboxed input (mAP does not change with uniform scale).

The matching is COCO's greedy one, as in Ultralytics' validator; precision-recall curves and their areas are Ultralytics' own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ultralytics.utils.metrics import ap_per_class, smooth

from nasdistill.measure.detector import Detections, OnnxDetector

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Accuracy:
    """mAP50 and mAP50-95 (0..1), averaged over the classes that have labels.

    `confidence` is that at which their mean F1 at an IoU of 0.5 is best: where to cut detections in use.
    """

    map50: float
    map50_95: float
    confidence: float = 0.0


class LabelledViews(Protocol):
    """Letterboxed images (n, 3, s, s) uint8 with labels: `boxes(i)` is (m, 5) class, x, y, w, h in 0..1 of the square."""

    @property
    def images(self) -> np.ndarray:
        """Pixels, on disk or in memory."""

    def boxes(self, index: int) -> np.ndarray:
        """Labels of one image."""


def score(detector: OnnxDetector, views: LabelledViews) -> Accuracy:
    """Score an exported detector on letterboxed, labelled images: the artifact that is timed is the one that is scored."""
    detections: list[Detections] = []
    for start in range(0, len(views.images), 16):
        detections += detector.detect_views(np.asarray(views.images[start : start + 16]))
    labels = [views.boxes(index) for index in range(len(views.images))]
    return mean_average_precision(detections, labels, views.images.shape[-1])


def mean_average_precision(detections: Sequence[Detections], labels: Sequence[np.ndarray], image_size: int) -> Accuracy:
    """mAP of detections (pixels of the square input) against labels (m, 5) class, x, y, w, h in 0..1, an entry an image.

    Without any label, or without any detection, it is 0.
    """
    correct, scores, classes, true_classes = [], [], [], []
    for found, truth in zip(detections, labels, strict=True):
        truth_xyxy = _xyxy(truth[:, 1:]) * image_size
        correct.append(match(found, truth_xyxy, truth[:, 0].astype(np.int64)))
        scores.append(found.scores)
        classes.append(found.classes)
        true_classes.append(truth[:, 0])
    all_true = np.concatenate(true_classes) if true_classes else np.zeros(0)
    if not len(all_true) or not sum(map(len, scores)):
        return Accuracy(0.0, 0.0)
    curves = ap_per_class(np.concatenate(correct), np.concatenate(scores), np.concatenate(classes), all_true)
    ap, f1_curve, confidences = curves[5], curves[9], curves[10]
    best = smooth(f1_curve.mean(0), 0.1).argmax()  # as Ultralytics' validator chooses
    return Accuracy(float(ap[:, 0].mean()), float(ap.mean()), float(confidences[best]))


def match(found: Detections, truth_xyxy: np.ndarray, truth_classes: np.ndarray) -> np.ndarray:
    """Which detections are right at which IoU threshold: (n, 10) bool.

    Detections are taken in order of falling score, each claims the unclaimed label of its class that it overlaps most.
    """
    correct = np.zeros((len(found.scores), len(IOU_THRESHOLDS)), dtype=bool)
    if not len(truth_classes) or not len(found.scores):
        return correct
    iou = _iou(truth_xyxy, found.boxes_xyxy) * (truth_classes[:, None] == found.classes[None])
    claimed = np.zeros((len(truth_classes), len(IOU_THRESHOLDS)), dtype=bool)
    columns = np.arange(len(IOU_THRESHOLDS))
    order = np.argsort(-found.scores, kind="stable")
    for index in order[(iou[:, order] >= IOU_THRESHOLDS[0]).any(axis=0)]:
        free = np.where(claimed, 0.0, iou[:, index, None])
        best = free.argmax(axis=0)
        correct[index] = free[best, columns] >= IOU_THRESHOLDS
        claimed[best, columns] |= correct[index]
    return correct


def _xyxy(boxes_xywh: np.ndarray) -> np.ndarray:
    half = boxes_xywh[:, 2:] / 2
    return np.concatenate([boxes_xywh[:, :2] - half, boxes_xywh[:, :2] + half], axis=1)


def _iou(first_n4: np.ndarray, second_m4: np.ndarray) -> np.ndarray:
    """Pairwise IoU (n, m) of xyxy boxes."""
    low = np.maximum(first_n4[:, None, :2], second_m4[None, :, :2])
    high = np.minimum(first_n4[:, None, 2:], second_m4[None, :, 2:])
    overlap = np.clip(high - low, 0, None).prod(axis=2)
    area_first = (first_n4[:, 2:] - first_n4[:, :2]).prod(axis=1)
    area_second = (second_m4[:, 2:] - second_m4[:, :2]).prod(axis=1)
    return np.asarray(overlap / (area_first[:, None] + area_second[None] - overlap + 1e-9))
