"""mAP against a slow scorer that shares no code with it, and against what must hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdistill.measure.accuracy import IOU_THRESHOLDS, match, mean_average_precision
from nasdistill.measure.detector import Detections

SIZE = 100
Truth = list[np.ndarray]


def iou_of(a: list[float], b: list[float]) -> float:
    """IoU of two boxes of corners, by hand."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def area_under(points: list[tuple[float, float]]) -> float:
    """Area below a curve of (recall, precision), precision made falling, read off at 101 recalls, as COCO does.

    Between its points the curve is straight, and beyond its last recall it is 0, as in Ultralytics.
    """
    curve = [(0.0, 1.0), *points]
    if points:
        curve.append((points[-1][0], 0.0))
    curve.append((1.0, 0.0))
    best = [max(precision for _, precision in curve[index:]) for index in range(len(curve))]
    heights = []
    for step in range(101):
        recall = step / 100
        height = 0.0
        for index in range(len(curve)):
            if curve[index][0] <= recall + 1e-12:
                here = index  # the last point at or before this recall
        if here + 1 < len(curve) and curve[here + 1][0] > curve[here][0]:
            share = (recall - curve[here][0]) / (curve[here + 1][0] - curve[here][0])
            height = best[here] + share * (best[here + 1] - best[here])
        else:
            height = best[here]
        heights.append(height)
    return sum((low + high) / 200 for low, high in zip(heights, heights[1:], strict=False))


def slow_map(detections: list[Detections], labels: Truth) -> tuple[float, float]:
    """mAP50 and mAP50-95: for each class and threshold, detections of all images in order, each takes its best label."""
    classes = sorted({int(row[0]) for truth in labels for row in truth})
    table = []
    for wanted in classes:
        total = sum(int(row[0]) == wanted for truth in labels for row in truth)
        per_threshold = []
        for threshold in IOU_THRESHOLDS:
            queue = [
                (float(score), image, [float(v) for v in box])
                for image, found in enumerate(detections)
                for box, score, kind in zip(found.boxes_xyxy, found.scores, found.classes, strict=True)
                if kind == wanted
            ]
            queue.sort(key=lambda entry: -entry[0])
            taken: set[tuple[int, int]] = set()
            right, seen, points = 0, 0, []
            for _, image, box in queue:
                best, best_iou = None, 0.0
                for index, (kind, x, y, w, h) in enumerate(labels[image].tolist()):
                    if int(kind) != wanted or (image, index) in taken:
                        continue
                    corners = [(x - w / 2) * SIZE, (y - h / 2) * SIZE, (x + w / 2) * SIZE, (y + h / 2) * SIZE]
                    overlap = iou_of(box, corners)
                    if overlap > best_iou:
                        best, best_iou = index, overlap
                seen += 1
                if best is not None and best_iou >= threshold:
                    taken.add((image, best))
                    right += 1
                points.append((right / total, right / seen))
            per_threshold.append(area_under(points) if points else 0.0)
        table.append(per_threshold)
    return float(np.mean([row[0] for row in table])), float(np.mean(table))


def random_labels(rng: np.random.Generator, images: int = 6, classes: int = 3) -> Truth:
    labels = []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        kinds = rng.integers(0, classes, (count, 1))
        sides = rng.uniform(0.1, 0.4, (count, 2))
        centres = sides / 2 + rng.uniform(0, 1, (count, 2)) * (1 - sides)
        labels.append(np.concatenate([kinds, centres, sides], axis=1).astype(np.float32))
    if not any(map(len, labels)):
        labels[0] = np.array([[0, 0.5, 0.5, 0.3, 0.3]], np.float32)
    return labels


def noisy_detections(rng: np.random.Generator, labels: Truth, classes: int = 3, noise: float = 5.0) -> list[Detections]:
    """Labels moved a little, some doubled, some missing, and false alarms; every score is different."""
    scores = iter(rng.permutation(np.linspace(0.01, 0.99, 400)))
    found = []
    for truth in labels:
        boxes, kinds = [], []
        for kind, x, y, w, h in truth.tolist():
            corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * SIZE
            for _ in range(int(rng.integers(0, 3))):
                boxes.append(corners + rng.normal(0, noise, 4))
                kinds.append(int(kind) if rng.random() < 0.9 else int(rng.integers(classes)))
        for _ in range(int(rng.integers(0, 3))):
            low = rng.uniform(0, 70, 2)
            boxes.append(np.concatenate([low, low + rng.uniform(5, 30, 2)]))
            kinds.append(int(rng.integers(classes)))
        order_scores = np.array([next(scores) for _ in boxes])
        order = np.argsort(-order_scores)
        found.append(
            Detections(
                np.array(boxes, np.float64).reshape(-1, 4)[order],
                order_scores[order],
                np.array(kinds, np.int64)[order],
            )
        )
    return found


def perfect(labels: Truth, shift: float = 0.0) -> list[Detections]:
    found = []
    for truth in labels:
        half = truth[:, 3:] / 2
        boxes = np.concatenate([truth[:, 1:3] - half, truth[:, 1:3] + half], axis=1) * SIZE
        found.append(Detections(boxes + shift, np.full(len(truth), 0.9), truth[:, 0].astype(np.int64)))
    return found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), noise=st.sampled_from([1.0, 4.0, 10.0]))
def test_against_the_slow_scorer(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    labels = random_labels(rng)
    detections = noisy_detections(rng, labels, noise=noise)
    expected50, expected = slow_map(detections, labels)
    got = mean_average_precision(detections, labels, SIZE)
    assert got.map50 == pytest.approx(expected50, abs=2e-3)
    assert got.map50_95 == pytest.approx(expected, abs=2e-3)


def test_the_slow_scorer_has_seen_good_and_bad() -> None:
    rng = np.random.default_rng(1)
    labels = random_labels(rng, images=20)
    good, bad = (slow_map(noisy_detections(rng, labels, noise=noise), labels)[1] for noise in (0.5, 3.0))
    assert 0.02 < bad < 0.35 < good < 0.95


def test_perfect_detections_score_one() -> None:
    labels = random_labels(np.random.default_rng(0))
    got = mean_average_precision(perfect(labels), labels, SIZE)
    assert (got.map50, got.map50_95) == (pytest.approx(0.995, abs=0.006), pytest.approx(0.995, abs=0.006))


def test_a_shift_costs_the_strict_thresholds_first() -> None:
    labels = random_labels(np.random.default_rng(0), images=30)
    exact, near, far = (mean_average_precision(perfect(labels, shift), labels, SIZE) for shift in (0.0, 1.5, 4.0))
    assert near.map50 == pytest.approx(exact.map50, abs=1e-6)
    assert exact.map50_95 > near.map50_95 > far.map50_95 > 0
    assert far.map50 > far.map50_95


def test_nothing_found_and_nothing_to_find() -> None:
    labels = random_labels(np.random.default_rng(0))
    none = [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)) for _ in labels]
    for got in (
        mean_average_precision(none, labels, SIZE),
        mean_average_precision(perfect(labels), [np.zeros((0, 5), np.float32) for _ in labels], SIZE),
        mean_average_precision([], [], SIZE),
    ):
        assert (got.map50, got.map50_95) == (0.0, 0.0)


def test_a_class_that_is_never_found_counts_as_zero() -> None:
    labels = [np.array([[0, 0.3, 0.3, 0.2, 0.2], [2, 0.7, 0.7, 0.2, 0.2]], np.float32)]
    found = perfect(labels)[0]
    only_first = [Detections(found.boxes_xyxy[:1], found.scores[:1], found.classes[:1])]
    got = mean_average_precision(only_first, labels, SIZE)
    assert got.map50 == pytest.approx(0.5, abs=0.01)


def test_a_second_detection_of_one_label_is_wrong() -> None:
    truth = np.array([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    boxes = np.array([[0.0, 0.0, 10.0, 9.2], [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 7.2], [0.0, 0.0, 10.0, 10.0]])
    found = Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 0, 1]))
    correct = match(found, truth, np.array([0, 0]))
    # IoU 0.92 takes the label up to 0.9; at 0.95 it is still free for the second; the last is of another class
    assert correct.sum(axis=1).tolist() == [9, 1, 5, 0]
    assert correct[1].tolist() == [False] * 9 + [True]


def test_the_order_of_the_detections_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    labels = random_labels(rng)
    detections = noisy_detections(rng, labels)
    turned = [Detections(d.boxes_xyxy[::-1], d.scores[::-1], d.classes[::-1]) for d in detections]
    first, second = (mean_average_precision(each, labels, SIZE) for each in (detections, turned))
    assert first == second


def test_the_confidence_lies_between_the_right_and_the_wrong() -> None:
    labels = [np.array([[0, 0.3, 0.3, 0.2, 0.2]], np.float32)] * 20
    boxes = np.array([[20.0, 20.0, 40.0, 40.0], [60.0, 60.0, 90.0, 80.0]])
    scores = zip(np.linspace(0.6, 0.9, 20), np.linspace(0.05, 0.4, 20), strict=True)
    found = [Detections(boxes, np.array(pair), np.zeros(2, np.int64)) for pair in scores]
    assert 0.42 < mean_average_precision(found, labels, SIZE).confidence < 0.62
