"""Expected hypervolume improvement, exactly, for any mix of uncertain and known objectives.

Everything is minimised here. The part of objective space that the front leaves undominated is cut into boxes; the
improvement of a point is the sum of what it takes of each box, and for independent normal outcomes the expectation
factorises into one closed form a side (Yang, Emmerich, Deutz and Bäck, "Multi-objective Bayesian global optimization
using expected hypervolume improvement gradient", Swarm and Evolutionary Computation 44, 2019). An outcome known
beforehand, such as latency, is one of deviation 0: its factor is the length itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST_AT_ONCE = 2_000_000  # pairs of point and box
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Boxes:
    """Disjoint boxes that cover what `reference` bounds and no front point dominates: corners of shape (b, k)."""

    low: Array
    high: Array


def boxes(front: Array, reference: Array) -> Boxes:
    """Decompose the undominated space below `reference` (k,), given points (n, k); dominated ones do no harm.

    The first k - 2 objectives of the list are cut into slabs, the last two into strips: O(n^(k-1)) boxes.
    """
    inside = front[(front < reference).all(axis=1)] if len(front) else front.reshape(0, len(reference))
    pairs = _decompose(inside, reference)
    return Boxes(np.array([low for low, _ in pairs]), np.array([high for _, high in pairs]))


def expected_improvement(mean: Array, deviation: Array, cells: Boxes) -> Array:
    """Expected hypervolume improvement (m,) of m points with independent normal outcomes (m, k); deviation may be 0."""
    # With three objectives there are boxes by the ten thousand: points are taken as many at a time as memory likes.
    most = max(1, _MOST_AT_ONCE // max(1, len(cells.low)))
    if len(mean) > most:
        parts = range(0, len(mean), most)
        return np.concatenate([expected_improvement(mean[i : i + most], deviation[i : i + most], cells) for i in parts])
    product = np.ones((len(mean), len(cells.low)))
    for side in range(mean.shape[1]):
        # E[(high - max(low, Y))+] = E[(high - Y)+] - E[(low - Y)+]; many boxes share their edges
        edges, where = np.unique(np.concatenate([cells.low[:, side], cells.high[:, side]]), return_inverse=True)
        below = _expected_below(mean[:, side, None], deviation[:, side, None], edges[None, :])
        lower, upper = where[: len(cells.low)], where[len(cells.low) :]
        product *= np.maximum(below[:, upper] - below[:, lower], 0.0)
    total: Array = product.sum(axis=1)
    return total


def _expected_below(mean: Array, deviation: Array, edge: Array) -> Array:
    """E[(edge - Y)+] for normal Y; 0 at an edge of minus infinity."""
    from scipy.special import ndtr

    finite = np.where(np.isfinite(edge), edge, 0.0)
    gap = finite - mean
    safe = np.maximum(deviation, 1e-300)
    z = np.clip(gap / safe, -40.0, 40.0)
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    smooth = gap * ndtr(z) + safe * density
    value = np.where(deviation > 0.0, smooth, np.maximum(gap, 0.0))
    return np.where(np.isfinite(edge), value, 0.0)


def _decompose(points: Array, reference: Array) -> list[tuple[list[float], list[float]]]:
    if len(reference) == 1:
        best = min([float(reference[0]), *points[:, 0].tolist()])
        return [([-np.inf], [best])]
    # A slab between two neighbouring values of the first objective is dominated by the points at or before it.
    values = sorted(set(points[:, 0].tolist()))
    starts = [-np.inf, *values]
    ends = [*values, float(reference[0])]
    found: list[tuple[list[float], list[float]]] = []
    for start, end in zip(starts, ends, strict=True):
        active = points[points[:, 0] <= start]
        for low, high in _decompose(active[:, 1:], reference[1:]):
            found.append(([start, *low], [end, *high]))
    return found
