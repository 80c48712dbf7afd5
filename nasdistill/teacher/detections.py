"""The teacher's final detections, and what they and its scores say about a view: how rich it is, how wrong the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from nasdistill.teacher.forms import cells_along

LEAST_SCORE, SURE = 0.1, 0.25  # detections from here on are kept; those from here on are counted as objects
NMS_IOU = 0.6
MOST_BEFORE_NMS = 3000  # a head fires at ten or so anchors of an object: enough for MOST_DETECTIONS of them
MOST_DETECTIONS = 300  # of a view, as Ultralytics keeps them
MATCHED_IOU = 0.5
SAYS_SOMETHING = 0.05  # anchors below this confidence do not enter the entropy


@dataclass(frozen=True)
class Detections:
    """Final detections of a batch, d slots an image, the best first; an empty slot has score 0.

    boxes_bd4: centre x, y, width, height in 0..1 of the view. scores_bd: 0..1. classes_bd: the data's class (int64).
    """

    boxes_bd4: Tensor
    scores_bd: Tensor
    classes_bd: Tensor

    def packed(self) -> Tensor:
        """(b, d, 6): box, score, class."""
        return torch.cat([self.boxes_bd4, self.scores_bd[..., None], self.classes_bd[..., None].float()], dim=2)


def unpack(packed_bd6: Tensor) -> Detections:
    """The inverse of `Detections.packed`."""
    return Detections(packed_bd6[..., :4], packed_bd6[..., 4], packed_bd6[..., 5].long())


def final_detections(
    logits_bac: Tensor, distances_ba4: Tensor, strides: Sequence[int], size: int, most: int
) -> Detections:
    """Decode, suppress (per class, IoU above 0.6) and keep the best `most` of each image, scores from 0.1 on.

    `logits_bac` and `distances_ba4` (ltrb in strides) are at the anchors of levels with these strides of a square view
    of `size` pixels.
    """
    centres, scales = anchor_points(size, strides)
    centres, scales = centres.to(logits_bac.device), scales.to(logits_bac.device)
    best, kinds = logits_bac.max(dim=2)
    scores = best.sigmoid()
    low = centres - distances_ba4[..., :2] * scales
    high = centres + distances_ba4[..., 2:] * scales
    corners = torch.cat([low, high], dim=2).clamp(0.0, 1.0)
    count = len(scores)
    boxes = torch.zeros(count, most, 4, device=scores.device)
    kept_scores = torch.zeros(count, most, device=scores.device)
    kept_kinds = torch.zeros(count, most, dtype=torch.long, device=scores.device)
    for image in range(count):
        value, order = scores[image].topk(min(MOST_BEFORE_NMS, scores.shape[1]))
        order = order[value >= LEAST_SCORE]
        ours, theirs = corners[image, order], kinds[image, order]
        solid = (ours[:, 2:] > ours[:, :2]).all(dim=1)
        order, ours, theirs = order[solid], ours[solid], theirs[solid]
        keep = batched_nms(ours, scores[image, order], theirs, NMS_IOU)[:most]
        boxes[image, : len(keep)] = _as_centres(ours[keep])
        kept_scores[image, : len(keep)] = scores[image, order[keep]]
        kept_kinds[image, : len(keep)] = theirs[keep]
    return Detections(boxes, kept_scores, kept_kinds)


def view_facts(logits_bac: Tensor, detections: Detections, labels: Sequence[np.ndarray]) -> Tensor:
    """What participation weighs images by, (b, 3): entropy of the scores (nats), objects seen, error on the labels (0..1).

    The entropy is the mean binary entropy of the confidences above 0.05 (0 where there are none). The error is 1 - F1 of
    the detections with scores from 0.25 on against `labels` (k, 5: class, x, y, w, h in 0..1), matched one to one by
    class at IoU 0.5; 0 where there is nothing to see and nothing seen.
    """
    probability = logits_bac.float().amax(dim=2).sigmoid()
    entropy = torch.special.entr(probability) + torch.special.entr(1.0 - probability)
    speaks = probability > SAYS_SOMETHING
    mean_entropy = (entropy * speaks).sum(dim=1) / speaks.sum(dim=1).clamp(min=1)
    sure = detections.scores_bd >= SURE
    errors = [_error(detections, image, sure[image], rows) for image, rows in enumerate(labels)]
    error = torch.tensor(errors, device=mean_entropy.device)
    return torch.stack([mean_entropy, sure.sum(dim=1).float(), error], dim=1)


def anchor_points(size: int, strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Anchor points (a, 2) x, y and cell sizes (a, 1), both in 0..1 of a square view, the finest level first."""
    centres, scales = [], []
    for stride in strides:
        cells = cells_along(size, stride)
        axis = (torch.arange(cells) + 0.5) * stride / size
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        centres.append(torch.stack([x.flatten(), y.flatten()], dim=1))
        scales.append(torch.full((cells * cells, 1), stride / size))
    return torch.cat(centres), torch.cat(scales)


def _error(detections: Detections, image: int, sure_d: Tensor, rows: np.ndarray) -> float:
    found = int(sure_d.sum())
    if found + len(rows) == 0:
        return 0.0
    matched = 0
    if found and len(rows):
        truth = torch.from_numpy(np.ascontiguousarray(rows)).float()
        ours = _as_corners(detections.boxes_bd4[image, sure_d].float().cpu())
        overlap = box_iou(ours, _as_corners(truth[:, 1:]))
        same = detections.classes_bd[image, sure_d].cpu()[:, None] == truth[None, :, 0].long()
        overlap = overlap * same
        for row in overlap:  # the best detection first, as average precision does it
            value, column = row.max(dim=0)
            if value >= MATCHED_IOU:
                matched += 1
                overlap[:, column] = 0.0
    return 1.0 - 2.0 * matched / (found + len(rows))


def _as_centres(corners_n4: Tensor) -> Tensor:
    return torch.cat([(corners_n4[:, :2] + corners_n4[:, 2:]) / 2, corners_n4[:, 2:] - corners_n4[:, :2]], dim=1)


def _as_corners(centres_n4: Tensor) -> Tensor:
    half = centres_n4[:, 2:] / 2
    return torch.cat([centres_n4[:, :2] - half, centres_n4[:, :2] + half], dim=1)
