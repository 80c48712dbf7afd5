"""The six classic defects of bare circuit boards, put into a layout's copper, with their exact boxes.

After Tang et al., "On-line PCB Defect Detector On A New PCB Defect Dataset" (2019): open, short, mousebite, spur,
spurious copper, pin-hole. Each is a change of the copper mask; its box is read off the pixels that changed.
"""

import cv2
import numpy as np

from nasdistill.data.boards import FINE, Layout, down, fill_polygon

CLASS_NAMES = ("open", "short", "mousebite", "spur", "spurious_copper", "pin_hole")
BOX_MARGIN = 2  # pixels around what changed, as people draw boxes; it also covers blur and the shading of edges
_CHANGED = 64  # of 255: a pixel that a defect changes by a quarter or more belongs to it
_APART = 6  # pixels between the boxes of two defects
_TRIES = 12


def add_defects(layout: Layout, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Put `count` defects of random classes into a copy of the layout's copper.

    Returns the fine copper mask, and boxes (n, 5) float64: class, x1, y1, x2, y2 in pixels. A board without room for a
    defect gets fewer.
    """
    copper = layout.copper.copy()
    blocked = cv2.dilate(layout.silk, np.ones((3 * FINE, 3 * FINE), np.uint8)) > 0
    inside = _distance_to_edge(down(copper))
    outside = _distance_to_edge(255 - down(cv2.bitwise_or(copper, layout.drills)))
    boxes: list[tuple[float, ...]] = []
    for _ in range(count * 3):
        if len(boxes) == count:
            break
        kind = int(rng.integers(len(CLASS_NAMES)))
        for _ in range(_TRIES):
            drawn = _DRAW[kind](layout, inside, outside, rng)
            if drawn is None:
                break
            polygon, value = drawn
            box = _apply(copper, layout.drills, blocked, polygon, value)
            if box is not None:
                boxes.append((kind, *box))
                break
    return copper, np.array(boxes, dtype=np.float64).reshape(-1, 5)


def _distance_to_edge(mask: np.ndarray) -> np.ndarray:
    """For each fully covered final pixel its distance, in pixels, to the next one that is not."""
    return np.asarray(cv2.distanceTransform((mask == 255).astype(np.uint8), cv2.DIST_L2, 3))


def _apply(
    copper: np.ndarray, drills: np.ndarray, blocked: np.ndarray, polygon: np.ndarray, value: int
) -> tuple[float, float, float, float] | None:
    """Draw one polygon into `copper` and block its surroundings; None, with nothing drawn, when it does not fit."""
    size = copper.shape[0] // FINE
    low, high = np.floor(polygon.min(0)).astype(int) - 2, np.ceil(polygon.max(0)).astype(int) + 2
    if low.min() < 3 or high.max() > size - 3:
        return None
    rows, columns = slice(low[1] * FINE, high[1] * FINE), slice(low[0] * FINE, high[0] * FINE)
    if blocked[rows, columns].any():
        return None
    before = copper[rows, columns].copy()
    after = before.copy()
    fill_polygon(after, polygon - low, value)
    after[drills[rows, columns] > 0] = 0
    changed = cv2.absdiff(down(before), down(after)) >= _CHANGED
    if changed.sum() < 9:
        return None
    copper[rows, columns] = after
    ys, xs = np.nonzero(changed)
    x1, x2 = max(0, low[0] + int(xs.min()) - BOX_MARGIN), min(size, low[0] + int(xs.max()) + 1 + BOX_MARGIN)
    y1, y2 = max(0, low[1] + int(ys.min()) - BOX_MARGIN), min(size, low[1] + int(ys.max()) + 1 + BOX_MARGIN)
    apart = _APART * FINE
    blocked[max(0, y1 * FINE - apart) : y2 * FINE + apart, max(0, x1 * FINE - apart) : x2 * FINE + apart] = True
    return float(x1), float(y1), float(x2), float(y2)


def _blob(rng: np.random.Generator, centre: np.ndarray, along: float, across: float, angle: float) -> np.ndarray:
    """An irregular ellipse (18, 2) with half axes `along` and `across`, turned by `angle` radians."""
    turn = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    phases = rng.uniform(0, 2 * np.pi, 3)
    wobble = 1 + sum(a * np.sin(k * turn + p) for a, k, p in zip((0.12, 0.09, 0.06), (2, 3, 5), phases, strict=True))
    x, y = along * wobble * np.cos(turn), across * wobble * np.sin(turn)
    turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    return np.asarray(centre + turned)


def _on_trace(layout: Layout, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float] | None:
    """A random point on the middle line of an inner piece of trace, its direction, and the trace's width."""
    pieces = [trace for trace in layout.traces if trace.inner]
    if not pieces:
        return None
    trace = pieces[rng.integers(len(pieces))]
    start, end = np.array(trace.start), np.array(trace.end)
    along = (end - start) / np.linalg.norm(end - start)
    return start + (end - start) * rng.uniform(0.15, 0.85), along, trace.width


Drawn = tuple[np.ndarray, int] | None


def _open(layout: Layout, _inside: np.ndarray, _outside: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A trace that is cut through, with ragged ends."""
    found = _on_trace(layout, rng)
    if found is None:
        return None
    point, along, width = found
    side = np.array([-along[1], along[0]])
    half, reach = layout.pitch * rng.uniform(0.14, 0.32), width / 2 + 1.5
    offsets = np.linspace(-reach, reach, 5)
    skew = rng.uniform(-0.4, 0.4)
    near = [point + side * o + along * (half + o * skew + rng.normal(0, 0.5)) for o in offsets]
    far = [point + side * o - along * (half - o * skew + rng.normal(0, 0.5)) for o in offsets[::-1]]
    return np.array(near + far), 0


def _short(layout: Layout, _inside: np.ndarray, _outside: np.ndarray, rng: np.random.Generator) -> Drawn:
    """Copper between two nets that run side by side."""
    if not layout.gaps:
        return None
    a, b, _ = layout.gaps[rng.integers(len(layout.gaps))]
    start, end = np.array(a), np.array(b)
    along = (end - start) / np.linalg.norm(end - start)
    side = np.array([-along[1], along[0]])
    shift = side * rng.uniform(-0.25, 0.25) * layout.pitch
    half = layout.pitch * rng.uniform(0.11, 0.26)
    steps = np.linspace(0, 1, 6)
    widths = half * (1 + 0.5 * (2 * steps - 1) ** 2) + rng.normal(0, 0.5, 6)
    middle = start + shift + steps[:, None] * (end - start)
    return np.concatenate([middle + side * widths[:, None], (middle - side * widths[:, None])[::-1]]), 255


def _mousebite(layout: Layout, _inside: np.ndarray, _outside: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A bite out of a trace's edge that leaves it connected."""
    found = _on_trace(layout, rng)
    if found is None:
        return None
    point, along, width = found
    side = np.array([-along[1], along[0]]) * (1 if rng.random() < 0.5 else -1)
    depth = width * rng.uniform(0.4, 0.68)
    length = min(layout.pitch * 0.36, depth * rng.uniform(0.75, 1.3))
    centre = point + side * (width / 2)
    return _blob(rng, centre, max(length, 2.2), max(depth, 2.2), float(np.arctan2(along[1], along[0]))), 0


def _spur(layout: Layout, _inside: np.ndarray, outside: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A spike of copper that sticks out of a trace without reaching its neighbour."""
    found = _on_trace(layout, rng)
    if found is None:
        return None
    point, along, width = found
    side = np.array([-along[1], along[0]]) * (1 if rng.random() < 0.5 else -1)
    room = 0.0
    for reach in np.arange(2.0, layout.pitch * 0.9, 1.0):
        x, y = np.floor(point + side * (width / 2 + reach)).astype(int)
        if not (0 <= x < outside.shape[1] and 0 <= y < outside.shape[0]) or outside[y, x] < reach * 0.8:
            break
        room = float(reach)
    longest = min(room * 1.4, layout.pitch * 0.75)
    shortest = layout.pitch * 0.24
    if longest < shortest:
        return np.zeros((3, 2)), 255  # no room here: it falls outside the board, and another place is tried
    height = rng.uniform(shortest, longest)
    foot = layout.pitch * rng.uniform(0.14, 0.26)
    lean = rng.uniform(-0.35, 0.35) * height
    edge, base = point + side * (width / 2), point + side * (width / 2 - 1.5)
    tip = edge + side * height + along * lean
    bend = rng.uniform(0.45, 0.8)
    waist, swell = edge + (tip - edge) * 0.6, along * foot * bend
    ring = [base + along * foot * 1.3, edge + along * foot + side * 0.5, waist + swell, tip + along * foot * 0.35]
    ring += [tip - along * foot * 0.35, waist - swell, edge - along * foot + side * 0.5, base - along * foot * 1.3]
    return np.array(ring), 255


def _pick(distance: np.ndarray, least: float, rng: np.random.Generator) -> np.ndarray | None:
    """A random point, in final pixels, whose distance to the next edge is at least `least`."""
    ys, xs = np.nonzero(distance >= least)
    if not len(xs):
        return None
    index = rng.integers(len(xs))
    return np.array([xs[index], ys[index]]) + 0.5


def _spurious_copper(layout: Layout, _inside: np.ndarray, outside: np.ndarray, rng: np.random.Generator) -> Drawn:
    """An island of copper where there should be none."""
    along = layout.pitch * rng.uniform(0.17, 0.42)
    across = along * rng.uniform(0.6, 1.0)
    centre = _pick(outside, along * 1.25 + 1.5, rng)
    return None if centre is None else (_blob(rng, centre, along, across, rng.uniform(0, np.pi)), 255)


def _pin_hole(layout: Layout, inside: np.ndarray, _outside: np.ndarray, rng: np.random.Generator) -> Drawn:
    """A small hole in a pad, an area or a wide trace."""
    along = layout.pitch * rng.uniform(0.12, 0.24)
    across = along * rng.uniform(0.7, 1.0)
    centre = _pick(inside, along * 1.2 + 1.2, rng)
    return None if centre is None else (_blob(rng, centre, along, across, rng.uniform(0, np.pi)), 0)


_DRAW = (_open, _short, _mousebite, _spur, _spurious_copper, _pin_hole)
