"""Running an exported detector in ONNX Runtime: images in, detections out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from ultralytics.utils.nms import non_max_suppression

# Ultralytics' validation settings: every candidate counts towards the precision-recall curve
CONFIDENCE, NMS_IOU, MAX_DETECTIONS = 0.001, 0.7, 300


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first: boxes_xyxy (n, 4) in pixels, scores (n,) 0..1, classes (n,) int."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class OnnxDetector:
    """An exported detector, single stream on the CPU."""

    def __init__(self, artifact: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(artifact), options, providers=["CPUExecutionProvider"])
        entry = self._session.get_inputs()[0]
        self._input = entry.name
        self.batch, _, self.image_size, _ = entry.shape

    def raw(self, images_bchw: np.ndarray) -> np.ndarray:
        """Raw output (b, 4 + classes, a) for images (b, 3, s, s) float32 in 0..1."""
        count = len(images_bchw)
        if missing := -count % self.batch:  # a fixed batch is filled up with its last image
            images_bchw = np.concatenate([images_bchw, np.repeat(images_bchw[-1:], missing, axis=0)])
        parts = [
            self._session.run(None, {self._input: images_bchw[start : start + self.batch]})[0]
            for start in range(0, len(images_bchw), self.batch)
        ]
        return np.concatenate(parts)[:count]

    def detect_views(
        self, images_bchw: np.ndarray, confidence: float = CONFIDENCE, classes: Sequence[int] | None = None
    ) -> list[Detections]:
        """Detections in input pixels of letterboxed images (b, 3, s, s) uint8.

        With `classes` only those of the model are looked for, and their places in it are the classes that are found.
        """
        raw = torch.from_numpy(self.raw(images_bchw.astype(np.float32) / 255.0))
        return suppress(raw, confidence) if classes is None else _of_classes(raw, confidence, list(classes))


def suppress(raw_bna: torch.Tensor, confidence: float = CONFIDENCE) -> list[Detections]:
    """Non-maximum suppression of a raw output (b, 4 + classes, a); several classes an anchor are kept, as in validation.

    The output of an NMS-free (end-to-end) head, (b, n, 6), is only cut at `confidence`.
    """
    kept = non_max_suppression(
        raw_bna,
        conf_thres=confidence,
        iou_thres=NMS_IOU,
        multi_label=True,
        max_det=MAX_DETECTIONS,
        max_time_img=10.0,
        end2end=raw_bna.shape[-1] == 6,
    )
    rows = [found.cpu().numpy() for found in kept]
    return [Detections(row[:, :4], row[:, 4], row[:, 5].astype(np.int64)) for row in rows]


def _of_classes(raw_bna: torch.Tensor, confidence: float, classes: list[int]) -> list[Detections]:
    """Chosen before suppression: other classes must not use up the detections an image may have."""
    if raw_bna.shape[-1] != 6:
        return suppress(torch.cat([raw_bna[:, :4], raw_bna[:, 4:][:, classes]], dim=1), confidence)
    places = {of_model: place for place, of_model in enumerate(classes)}
    found = []
    for each in suppress(raw_bna, confidence):
        kept = [index for index, of_model in enumerate(each.classes) if int(of_model) in places]
        there = np.array([places[int(each.classes[index])] for index in kept], dtype=np.int64)
        found.append(Detections(each.boxes_xyxy[kept], each.scores[kept], there))
    return found
