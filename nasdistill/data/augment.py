"""One augmented view from letterboxed source images: Mosaic, MixUp, scale and shift, colour, flips, erasing.

Boxes travel as rows (n, 6) float64: class, x1, y1, x2, y2 in pixels, and the area that the whole object would have.
What is cut away shows in the ratio of the box's area to that number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nasdistill.data.images import PAD_GREY

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
LEAST_PIXELS, LEAST_SHARE = 2.0, 0.2  # a box narrower than this, or with less of its area left, is dropped
MOST_ERASED = 0.5  # a box with more of its area erased is dropped


class ViewPolicy(BaseModel):
    """How views are drawn from images; `p_` are probabilities a view."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p_mosaic: Probability = 0.5
    """Four images around a random centre (Bochkovskiy et al., YOLOv4, 2020)."""
    p_mixup: Probability = 0.1
    """A second view blended in (Zhang et al., mixup, 2018), its share drawn from beta(32, 32) as in Ultralytics."""
    p_cutmix: Probability = 0.0
    """A rectangle of 10 to 50 % of the view filled from a second view (Yun et al., CutMix, 2019)."""
    p_hsv: Probability = 0.5
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.015
    saturation: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    p_erase: Probability = 0.1
    """A rectangle overwritten (Zhong et al., Random Erasing, 2020) of 2 to 10 % of the view."""
    p_flip_horizontal: Probability = 0.5
    p_flip_vertical: Probability = 0.0
    scale: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """The view is scaled by a factor between 1 - scale and 1 + scale."""
    translate: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """The view is shifted by up to this share of its size."""
    close_share: Probability = 0.25
    """The last share of each image's views is drawn without Mosaic, MixUp and CutMix, close to what the
    detector will meet."""

    @property
    def is_light(self) -> bool:
        """Whether no view can be a Mosaic, MixUp or CutMix."""
        return not (self.p_mosaic or self.p_mixup or self.p_cutmix)


@dataclass(frozen=True)
class Source:
    """A letterboxed image (s, s, 3), where the image lies in the square (x1, y1, x2, y2), and its box rows (n, 6)."""

    image: np.ndarray
    inner: tuple[int, int, int, int]
    rows: np.ndarray


Sources = Callable[[int], Source]


def box_rows(boxes: np.ndarray, size: int) -> np.ndarray:
    """Rows (n, 6) in pixels from labels (n, 5) class, x, y, w, h in 0..1 of a square of `size`."""
    centre, half = boxes[:, 1:3].astype(np.float64) * size, boxes[:, 3:5].astype(np.float64) * size / 2
    area = (4 * half[:, 0] * half[:, 1])[:, None]
    return np.concatenate([boxes[:, :1], centre - half, centre + half, area], axis=1)


def draw_view(
    sources: Sources, count: int, index: int, closing: bool, policy: ViewPolicy, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One augmented view of image `index` of `count`.

    Returns the image uint8 (s, s, 3) and its labels (m, 5) float32: class, x, y, w, h in 0..1.
    """
    mixed = not closing and rng.random() < policy.p_mixup
    image, rows = _placed(sources, count, index, closing, policy, rng)
    if mixed:
        share = rng.beta(32.0, 32.0)
        other, other_rows = _placed(sources, count, int(rng.integers(count)), closing, policy, rng)
        image, rows = cv2.addWeighted(image, share, other, 1 - share, 0.0), np.concatenate([rows, other_rows])
    # no number is drawn where it is never done: views of policies without it stay what they were
    if not closing and policy.p_cutmix and rng.random() < policy.p_cutmix:
        other, other_rows = _placed(sources, count, int(rng.integers(count)), closing, policy, rng)
        image, rows = _cut_in(image, rows, other, other_rows, rng)
    if rng.random() < policy.p_hsv:
        image = _shift_colours(image, policy, rng)
    size = image.shape[0]
    if rng.random() < policy.p_flip_horizontal:
        image, rows = image[:, ::-1], rows[:, [0, 3, 2, 1, 4, 5]] * [1, -1, 1, -1, 1, 1] + [0, size, 0, size, 0, 0]
    if rng.random() < policy.p_flip_vertical:
        image, rows = image[::-1], rows[:, [0, 1, 4, 3, 2, 5]] * [1, 1, -1, 1, -1, 1] + [0, 0, size, 0, size, 0]
    image = np.ascontiguousarray(image)
    if rng.random() < policy.p_erase:
        rows = _erase(image, rows, rng)
    rows = _keep(rows)
    corners = rows[:, 1:5] / size
    labels = np.empty((len(rows), 5), np.float32)
    labels[:, 0] = rows[:, 0]
    labels[:, 1:3] = (corners[:, :2] + corners[:, 2:]) / 2
    labels[:, 3:5] = corners[:, 2:] - corners[:, :2]
    return image, labels


def _placed(
    sources: Sources, count: int, index: int, closing: bool, policy: ViewPolicy, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """An image or a mosaic of four, scaled and shifted into the view."""
    first = sources(index)
    size = first.image.shape[0]
    if not closing and rng.random() < policy.p_mosaic:
        others = [sources(int(k)) for k in rng.integers(count, size=3)]
        canvas, rows = _mosaic([first, *others], size, rng)
    else:
        canvas, rows = first.image, first.rows
    factor = rng.uniform(1 - policy.scale, 1 + policy.scale)
    shift = size * (0.5 + rng.uniform(-policy.translate, policy.translate, 2)) - factor * canvas.shape[0] / 2
    return _scale_and_shift(canvas, rows, factor, shift, size)


def _mosaic(tiles: list[Source], size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Four images on a canvas of twice the size, each with a corner at a random common centre."""
    canvas = np.full((2 * size, 2 * size, 3), PAD_GREY, np.uint8)
    # shares of the size, so that a view shows the same scene at every size
    centre_x, centre_y = (round(v * size) for v in rng.uniform(0.5, 1.5, 2))
    collected = []
    for place, tile in enumerate(tiles):
        left, top, right, bottom = tile.inner
        width, height = right - left, bottom - top
        x = centre_x - width if place % 2 == 0 else centre_x
        y = centre_y - height if place < 2 else centre_y
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + width, 2 * size), min(y + height, 2 * size)
        canvas[y1:y2, x1:x2] = tile.image[top + y1 - y : top + y2 - y, left + x1 - x : left + x2 - x]
        rows = tile.rows + [0, x - left, y - top, x - left, y - top, 0]
        rows[:, 1:5] = np.clip(rows[:, 1:5], [x1, y1, x1, y1], [x2, y2, x2, y2])
        collected.append(rows)
    return canvas, np.concatenate(collected)


def _scale_and_shift(
    image: np.ndarray, rows: np.ndarray, factor: float, shift: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Map pixel coordinates p (edges, not centres) to factor * p + shift, into a view of `size`."""
    # OpenCV's coordinates are pixel centres: the half pixel keeps images and boxes together
    offset = shift + 0.5 * factor - 0.5
    matrix = np.array([[factor, 0, offset[0]], [0, factor, offset[1]]])
    grey = (PAD_GREY, PAD_GREY, PAD_GREY)
    view = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=grey)
    moved = rows * [1, factor, factor, factor, factor, factor * factor] + [0, shift[0], shift[1], shift[0], shift[1], 0]
    moved[:, 1:5] = np.clip(moved[:, 1:5], 0, size)
    return view, _keep(moved)


def _keep(rows: np.ndarray) -> np.ndarray:
    """Drop boxes that are too small, or of which too little is left."""
    width, height = rows[:, 3] - rows[:, 1], rows[:, 4] - rows[:, 2]
    left = width * height / np.maximum(rows[:, 5], 1e-9)
    return np.asarray(rows[(width >= LEAST_PIXELS) & (height >= LEAST_PIXELS) & (left >= LEAST_SHARE)])


def _shift_colours(image: np.ndarray, policy: ViewPolicy, rng: np.random.Generator) -> np.ndarray:
    """Hue by a random shift, saturation and brightness by random factors, through tables (as in Ultralytics)."""
    gains = 1 + rng.uniform(-1, 1, 3) * [policy.hue, policy.saturation, policy.brightness]
    values = np.arange(256)
    tables = [
        (values + (gains[0] - 1) * 180) % 180,
        np.clip(values * gains[1], 0, 255),
        np.clip(values * gains[2], 0, 255),
    ]
    table = np.stack(tables, axis=1).astype(np.uint8)[None]
    return np.asarray(cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table), cv2.COLOR_HSV2RGB))


def _erase(image: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Overwrite a rectangle of `image` with one random colour; returns the rows of what can still be seen."""
    x, y, width, height = _rectangle(image.shape[0], (0.02, 0.1), rng)
    image[y : y + height, x : x + width] = rng.integers(0, 256, 3)
    return _uncovered(rows, x, y, width, height)


def _cut_in(
    image: np.ndarray, rows: np.ndarray, other: np.ndarray, other_rows: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of `image` filled with what `other` shows there, and the rows of what can be seen of both."""
    x, y, width, height = _rectangle(image.shape[0], (0.1, 0.5), rng)
    mixed = image.copy()
    mixed[y : y + height, x : x + width] = other[y : y + height, x : x + width]
    inside = other_rows.copy()
    inside[:, 1:5] = np.clip(inside[:, 1:5], [x, y, x, y], [x + width, y + height, x + width, y + height])
    return mixed, np.concatenate([_uncovered(rows, x, y, width, height), _keep(inside)])


def _rectangle(size: int, share: tuple[float, float], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of a rectangle in a view, of a random share of its area."""
    area, aspect = size * size * rng.uniform(*share), np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    width, height = (min(size, max(1, int(side))) for side in (np.sqrt(area * aspect), np.sqrt(area / aspect)))
    return int(rng.random() * (size - width + 1)), int(rng.random() * (size - height + 1)), width, height


def _uncovered(rows: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The rows of which a rectangle hides at most MOST_ERASED."""
    low = np.maximum(rows[:, 1:3], [x, y])
    high = np.minimum(rows[:, 3:5], [x + width, y + height])
    covered = np.clip(high - low, 0, None).prod(axis=1)
    return np.asarray(rows[covered <= MOST_ERASED * (rows[:, 3:5] - rows[:, 1:3]).prod(axis=1)])
