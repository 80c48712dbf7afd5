"""Label files: a line an object, `class x y w h` in 0..1, or `class x1 y1 x2 y2 x3 y3 …` for an outline."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOLERANCE = 0.01  # boxes that rounding has pushed out of the image by this much are clipped, as in Ultralytics


@dataclass(frozen=True)
class LabelForm:
    """What the label lines of a data set hold: classes 0..`classes` - 1, and perhaps numbers of keypoints after a box."""

    classes: int
    keypoint_values: int = 0


def read_labels(path: Path, form: LabelForm) -> tuple[np.ndarray, int, list[str]]:
    """Read one label file.

    Returns the boxes (n, 5) float32 class, x, y, w, h in 0..1, the number of label lines, and what was wrong with the
    ones that were skipped. A missing file means background: no boxes, no lines. A line that is there twice counts once.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return np.zeros((0, 5), np.float32), 0, []
    except (OSError, UnicodeDecodeError) as error:
        return np.zeros((0, 5), np.float32), 1, [f"{path}: the label file cannot be read ({error})"]
    rows: list[tuple[float, ...]] = []
    problems: list[str] = []
    lines = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        lines += 1
        try:
            rows.append(parse_label(line, form))
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
    boxes = np.array(list(dict.fromkeys(rows)), dtype=np.float32).reshape(-1, 5)
    return boxes, lines, problems


def parse_label(line: str, form: LabelForm) -> tuple[float, float, float, float, float]:
    """One label line as class, x, y, w, h; an outline becomes its bounding box, keypoints are left out.

    As in Ultralytics, a box or outline may reach over the edge, where it is cut.

    Raises ValueError with the reason when the class or the box is bad.
    """
    words = line.split()
    if form.keypoint_values and len(words) == 5 + form.keypoint_values:
        words = words[:5]
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"not all numbers: {line.strip()[:60]!r}") from None
    if not all(map(math.isfinite, values)):
        raise ValueError(f"a value is not finite: {line.strip()[:60]!r}")
    label = values[0]
    if label != int(label) or not 0 <= label < form.classes:
        raise ValueError(f"class {words[0]} is not one of 0..{form.classes - 1}")
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise ValueError(f"expected a class and 4 numbers, or an outline of 3 points or more; got {len(values)} values")
    if len(values) == 5:
        _, x, y, w, h = values
    else:
        xs, ys = values[1::2], values[2::2]
        x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
        w, h = max(xs) - min(xs), max(ys) - min(ys)
    low, high = min(x, y, w, h), max(x, y, w, h)
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(f"box value {low if low < -TOLERANCE else high:g} outside 0..1")
    if w <= 0 or h <= 0:
        raise ValueError(f"box has no area: width {w:g}, height {h:g}")
    x1, x2 = max(0.0, x - w / 2), min(1.0, x + w / 2)
    y1, y2 = max(0.0, y - h / 2), min(1.0, y + h / 2)
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"box lies outside the image: centre {x:g}, {y:g}, width {w:g}, height {h:g}")
    if x1 == x - w / 2 and x2 == x + w / 2 and y1 == y - h / 2 and y2 == y + h / 2:
        return label, x, y, w, h  # not recomputed: labels come back exactly as written
    return label, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def label_text(rows_n5: np.ndarray) -> str:
    """The content of a label file: a line `class x y width height` for each row (n, 5), as `read_labels` returns them."""
    return "".join(f"{int(row[0])} " + " ".join(f"{value:.6f}" for value in row[1:]) + "\n" for row in rows_n5)
