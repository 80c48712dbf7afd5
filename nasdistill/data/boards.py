"""Synthetic circuit boards: layouts of pads, vias, traces and copper areas.

Everything is drawn on a mask of twice the final resolution ("fine" pixels) and brought down by area averaging, so edges
are smooth and a defect's extent can be read from the mask. Lengths are in final pixels unless a name says `fine`.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

FINE = 2  # fine pixels to a final pixel
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
_DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))

Point = tuple[float, float]


@dataclass(frozen=True)
class Trace:
    """A straight piece of a trace between two neighbouring grid nodes; `inner`: it ends at no pad and no free end."""

    start: Point
    end: Point
    width: float
    net: int
    inner: bool


@dataclass
class Layout:
    """What the board should look like, before defects. Masks are (fine, fine) uint8, 0 or 255."""

    size: int
    pitch: float
    copper: np.ndarray
    finish: np.ndarray
    drills: np.ndarray
    silk: np.ndarray
    traces: list[Trace] = field(default_factory=list)
    gaps: list[tuple[Point, Point, float]] = field(default_factory=list)
    """Pairs of neighbouring points on two different nets and the trace width there: where a short may be."""


def fill_polygon(mask: np.ndarray, points: np.ndarray, value: int) -> None:
    """Fill the polygon `points` (k, 2), in final pixels, on a fine mask."""
    cv2.fillPoly(mask, [np.round(points * FINE * (1 << _SHIFT)).astype(np.int32)], value, cv2.LINE_8, _SHIFT)


def fill_circle(mask: np.ndarray, centre: Point, radius: float, value: int) -> None:
    """Fill a circle, in final pixels, on a fine mask."""
    scale = FINE * (1 << _SHIFT)
    x, y = round(centre[0] * scale), round(centre[1] * scale)
    cv2.circle(mask, (x, y), round(radius * scale), value, cv2.FILLED, cv2.LINE_8, _SHIFT)


def draw_layout(size: int, rng: np.random.Generator) -> Layout:
    """Lay out one board of `size` x `size` pixels: copper areas, chips with pads, buses, single traces, vias, text."""
    pitch = float(rng.uniform(18.0, 23.0)) * size / 256
    router = _Router(size, pitch, rng)
    for _ in range(rng.integers(0, 3)):
        router.place_area()
    for _ in range(rng.integers(0, 3)):
        router.place_chip()
    for _ in range(rng.integers(2, 5)):
        router.place_bus(lanes=int(rng.integers(2, 6)))
    for _ in range(rng.integers(6, 16)):
        router.place_trace()
    for _ in range(rng.integers(1, 7)):
        router.place_pad()
    router.place_text()
    return router.finish()


class _Router:
    """Grows nets on a square grid, one net a node, so that copper of two nets never touches."""

    def __init__(self, size: int, pitch: float, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pitch = pitch
        self.cells = int(size / pitch) + 3
        self.origin = rng.uniform(-pitch, 0, 2)
        fine = size * FINE
        copper, finish, drills, silk = (np.zeros((fine, fine), np.uint8) for _ in range(4))
        self.layout = Layout(size, pitch, copper, finish, drills, silk)
        self.owner = np.full((self.cells, self.cells), -1, np.int64)
        self.width_at = np.zeros((self.cells, self.cells))
        self.on_trace = np.zeros((self.cells, self.cells), bool)
        self.diagonals: set[tuple[int, int]] = set()
        self.nets = 0
        self.trace_width = pitch * rng.uniform(0.36, 0.48)
        self.square_vias = rng.random() < 0.2

    def at(self, node: tuple[int, int]) -> Point:
        return float(self.origin[0] + node[0] * self.pitch), float(self.origin[1] + node[1] * self.pitch)

    def free(self, node: tuple[int, int]) -> bool:
        return 0 <= node[0] < self.cells and 0 <= node[1] < self.cells and self.owner[node] < 0

    def new_net(self) -> int:
        self.nets += 1
        return self.nets - 1

    def random_node(self) -> tuple[int, int]:
        return int(self.rng.integers(self.cells)), int(self.rng.integers(self.cells))

    def place_area(self) -> None:
        """A filled copper area with cut corners, stitched with vias."""
        (i, j), (width, height) = self.random_node(), self.rng.integers(2, 6, 2)
        if not all(self.free((a, b)) for a in range(i, i + width) for b in range(j, j + height)):
            return
        net = self.new_net()
        self.owner[i : i + width, j : j + height] = net
        (x0, y0), (x1, y1) = self.at((i, j)), self.at((i + int(width) - 1, j + int(height) - 1))
        grow, cut = 0.42 * self.pitch, self.rng.uniform(0.2, 0.7) * self.pitch
        x0, y0, x1, y1 = x0 - grow, y0 - grow, x1 + grow, y1 + grow
        corners = [(x0 + cut, y0), (x1 - cut, y0), (x1, y0 + cut), (x1, y1 - cut)]
        corners += [(x1 - cut, y1), (x0 + cut, y1), (x0, y1 - cut), (x0, y0 + cut)]
        fill_polygon(self.layout.copper, np.array(corners), 255)
        if self.rng.random() < 0.3:
            fill_polygon(self.layout.finish, np.array(corners), 255)
        for a in range(i, i + int(width)):
            for b in range(j, j + int(height)):
                if self.rng.random() < 0.15:
                    self.drill(self.at((a, b)), self.pitch * 0.13)

    def place_chip(self) -> None:
        """Two rows of surface pads, each the start of a trace that leads away from the chip."""
        across = self.rng.random() < 0.5
        (i, j), count, depth = self.random_node(), int(self.rng.integers(3, 7)), int(self.rng.integers(3, 6))

        def node(k: int, row: int) -> tuple[int, int]:
            return (i + k, j + row) if across else (i + row, j + k)

        if not all(self.free(node(k, row)) for k in range(count) for row in range(depth)):
            return
        body = self.new_net()
        for k in range(count):
            for row in range(1, depth - 1):
                self.owner[node(k, row)] = body
        narrow, long = self.pitch * self.rng.uniform(0.26, 0.34), self.pitch * self.rng.uniform(0.5, 0.66)
        half = np.array([narrow, long] if across else [long, narrow])
        for row, outward in ((0, -1), (depth - 1, 1)):
            inward = np.array([0, -outward] if across else [-outward, 0]) * (long - 0.4 * self.pitch)
            nets = [self.new_net() for _ in range(count)]
            for k in range(count):
                self.pad_rectangle(tuple(np.array(self.at(node(k, row))) + inward), half)
                self.owner[node(k, row)] = nets[k]
            for k in range(count):
                net = nets[k]
                direction = _DIRECTIONS.index((0, outward) if across else (outward, 0))
                if self.rng.random() < 0.75:
                    self.walk(node(k, row), direction, net, self.trace_width, starts_at_pad=True)
        if self.rng.random() < 0.7:
            first, last = np.array(self.at(node(0, 1))), np.array(self.at(node(count - 1, depth - 2)))
            low, high = np.minimum(first, last) - self.pitch * 0.3, np.maximum(first, last) + self.pitch * 0.3
            corners = [tuple(int(v * FINE) for v in corner) for corner in (low, high)]
            cv2.rectangle(self.layout.silk, corners[0], corners[1], 255, FINE + 1)

    def place_bus(self, lanes: int) -> None:
        """Parallel traces that take the same turns."""
        direction = int(self.rng.integers(8))
        dx, dy = _DIRECTIONS[direction]
        side = (-dy, dx) if dx == 0 or dy == 0 else ((dx, 0) if self.rng.random() < 0.5 else (0, dy))
        start = self.random_node()
        turns = self.turns(int(self.rng.integers(5, self.cells + 3)), direction)
        width = self.trace_width * self.rng.uniform(0.9, 1.1)
        for lane in range(lanes):
            node = (start[0] + side[0] * lane, start[1] + side[1] * lane)
            if self.free(node):
                self.walk(node, direction, self.new_net(), width, turns=turns)

    def place_trace(self) -> None:
        """One trace, sometimes a wide one for power."""
        node = self.random_node()
        if self.free(node):
            wide = self.rng.random() < 0.25
            width = self.pitch * self.rng.uniform(0.6, 0.74) if wide else self.trace_width
            # a wide trace keeps to right angles: across a cell's corner it would come too near the next net
            direction = int(self.rng.integers(8))
            direction = direction - direction % 2 if wide else direction
            turns = [direction] * int(self.rng.integers(3, self.cells)) if wide else None
            self.walk(node, direction, self.new_net(), width, turns=turns)

    def place_pad(self) -> None:
        """A lone pad: a fiducial, a test point or a mounting pad."""
        node = self.random_node()
        if self.free(node):
            self.owner[node] = self.new_net()
            self.end_pad(node, self.trace_width)

    def turns(self, length: int, direction: int) -> list[int]:
        """Directions of `length` steps: straight runs with turns by 45 degrees."""
        taken = []
        for _ in range(length):
            taken.append(direction)
            if self.rng.random() < 0.16:
                direction = (direction + (1 if self.rng.random() < 0.5 else -1)) % 8
        return taken

    def walk(
        self,
        node: tuple[int, int],
        direction: int,
        net: int,
        width: float,
        turns: list[int] | None = None,
        starts_at_pad: bool = False,
    ) -> None:
        """Grow a net from `node` until it is blocked or long enough, then draw it with pads at its ends."""
        path = [node]
        for step in turns or self.turns(int(self.rng.integers(3, self.cells)), direction):
            dx, dy = _DIRECTIONS[step]
            following = (path[-1][0] + dx, path[-1][1] + dy)
            if not self.free(following) or following in path or self.crosses(path[-1], following):
                break
            path.append(following)
        if len(path) < (2 if starts_at_pad else 3):
            return
        points = [self.at(passed) for passed in path]
        for k, (a, b) in enumerate(zip(path, path[1:], strict=False)):
            if a[0] != b[0] and a[1] != b[1]:
                self.diagonals.add((a[0] + b[0], a[1] + b[1]))
            inner = 0 < k < len(path) - 2
            self.layout.traces.append(Trace(points[k], points[k + 1], width, net, inner))
        for passed in path:
            self.owner[passed], self.width_at[passed] = net, width
        for passed in path[1:-1]:
            self.on_trace[passed] = True
        scale = FINE * (1 << _SHIFT)
        line = np.round(np.array(points) * scale).astype(np.int32)
        cv2.polylines(self.layout.copper, [line], False, 255, max(1, round(width * FINE)), cv2.LINE_8, _SHIFT)
        if not starts_at_pad:
            self.end_pad(path[0], width)
        self.end_pad(path[-1], width)

    def crosses(self, a: tuple[int, int], b: tuple[int, int]) -> bool:
        """Whether a diagonal step would cross one that is there, or pass too near to a pad at the cell's corners."""
        if a[0] == b[0] or a[1] == b[1]:
            return False
        corners = [(a[0], b[1]), (b[0], a[1])]
        blocked = any(self.owner[c] >= 0 and not self.on_trace[c] for c in corners)
        return blocked or (a[0] + b[0], a[1] + b[1]) in self.diagonals  # diagonals of a cell share their middle

    def end_pad(self, node: tuple[int, int], width: float) -> None:
        """A via, a round or a square pad at the end of a trace; a small round one where a diagonal trace passes by."""
        kind, centre = self.rng.random(), self.at(node)
        radius = max(width * 0.5, self.pitch * self.rng.uniform(0.33, 0.41))
        if any((2 * node[0] + dx, 2 * node[1] + dy) in self.diagonals for dx, dy in _DIRECTIONS[1::2]):
            kind, radius = 0.7, max(width * 0.5, self.pitch * 0.31)
        if kind < 0.55:
            if self.square_vias:
                self.pad_rectangle(centre, np.array([radius, radius]))
            else:
                fill_circle(self.layout.copper, centre, radius, 255)
                fill_circle(self.layout.finish, centre, radius, 255)
            self.drill(centre, radius * self.rng.uniform(0.42, 0.52))
        elif kind < 0.8:
            fill_circle(self.layout.copper, centre, radius, 255)
            fill_circle(self.layout.finish, centre, radius, 255)
        else:
            self.pad_rectangle(centre, np.array([radius, radius * self.rng.uniform(0.75, 1.0)]))

    def pad_rectangle(self, centre: Point, half: np.ndarray) -> None:
        corners = np.array(centre) + np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
        fill_polygon(self.layout.copper, corners, 255)
        fill_polygon(self.layout.finish, corners, 255)

    def drill(self, centre: Point, radius: float) -> None:
        fill_circle(self.layout.drills, centre, radius, 255)

    def place_text(self) -> None:
        """Designators such as R12 in the silkscreen."""
        for _ in range(self.rng.integers(0, 4)):
            text = f"{'RCLUDQ'[self.rng.integers(6)]}{self.rng.integers(1, 99)}"
            x, y = self.rng.integers(0, self.layout.copper.shape[0], 2)
            cv2.putText(self.layout.silk, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, self.pitch / 26, 255, FINE)

    def finish(self) -> Layout:
        """Note where two nets run side by side, and take the drilled holes out of the copper."""
        layout = self.layout
        layout.copper[layout.drills > 0] = 0
        layout.silk[cv2.dilate(layout.finish | layout.drills, np.ones((2 * FINE + 1, 2 * FINE + 1), np.uint8)) > 0] = 0
        for i, j in zip(*np.nonzero(self.on_trace), strict=True):
            for di, dj in ((1, 0), (0, 1)):
                other = (int(i) + di, int(j) + dj)
                if max(other) < self.cells and self.on_trace[other] and self.owner[other] != self.owner[i, j]:
                    width = float(max(self.width_at[i, j], self.width_at[other]))
                    layout.gaps.append((self.at((int(i), int(j))), self.at(other), width))
        return layout


def down(mask: np.ndarray) -> np.ndarray:
    """A fine mask brought to final resolution by area averaging; uint8."""
    return np.asarray(cv2.resize(mask, (mask.shape[1] // FINE, mask.shape[0] // FINE), interpolation=cv2.INTER_AREA))
