"""Which trials may go on at a rung: successive halving for several objectives. Plain numbers, no Ray.

A rung is a point of a trial's training, in epochs, where it is scored and compared with all trials that came so far.
Asynchronous successive halving (Li et al., "A system for massively parallel hyperparameter tuning", MLSys 2020) keeps
the best 1/eta by one metric. Here trials are ranked by non-dominated rank, then by spread (crowding distance; Deb et al.,
"A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002), as Schmucker et al. do for ASHA ("Multi-objective
asynchronous successive halving", arXiv 2106.12639), with three differences: nothing within a small slack of the rung's
front is stopped, since it may be on the final one; from rung to rung, as scores say more, the slack and the share that goes
on beside the front shrink; and a rung decides nothing until a few trials have reached it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

ETA = 3
MOST_RUNGS = 2  # before the end: low fidelity says little about the top half, and every score costs seconds
FEWEST_TRIALS = 3  # a rung with fewer than so many decides nothing
SLACK = 0.03  # of the spread of scores at a rung: how far beyond its front nobody is stopped (docs/decisions.md)


def rung_epochs(epochs: int) -> tuple[int, ...]:
    """After which epochs a trial of `epochs` is scored, ascending: a third of it and a ninth, whole epochs, at least 1."""
    found: list[int] = []
    length = epochs
    while len(found) < MOST_RUNGS and length // ETA >= 1:
        length //= ETA
        found.append(length)
    return tuple(reversed(found))


def ranks(losses: Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Non-dominated rank of each of n points to minimise, shape (n, k): 0 is the front, 1 the front without it, and so on."""
    import moocore

    return np.asarray(moocore.pareto_rank(losses), dtype=np.int64)


def crowding(losses: Array) -> Array:
    """Crowding distance (n,) of the points of one rank, shape (n, k): infinite at the ends, larger where it is emptier."""
    count, sides = losses.shape
    distance = np.zeros(count)
    for side in range(sides):
        order = np.argsort(losses[:, side], kind="stable")
        values = losses[order, side]
        extent = values[-1] - values[0]
        distance[order[[0, -1]]] = math.inf
        if extent > 0 and count > 2:
            distance[order[1:-1]] += (values[2:] - values[:-2]) / extent
    return distance


def order_of(losses: Array) -> list[int]:
    """Indices of the points (n, k), the most promising first: by rank, within a rank the most solitary first."""
    rank = ranks(losses)
    order: list[int] = []
    for level in range(int(rank.max(initial=-1)) + 1):
        members = np.flatnonzero(rank == level)
        order += [int(members[i]) for i in np.argsort(-crowding(losses[members]), kind="stable")]
    return order


class Rungs:
    """Scores by rung, and the decision who goes on.

    Args:
        uncertain: indices of the objectives that more training changes, such as accuracy; the others, such as latency,
            are exact at every rung.
        keep: share of the first rung that always goes on; 1/3 is what successive halving with eta 3 promotes.
        slack: how much worse than the first rung's front a trial may be in the uncertain objectives, as a share of their
            spread at the rung, and still go on. Both are a third (1/ETA) of that at the second rung, and so on.
        fewest: trials that must have reached a rung before it stops any.
    """

    def __init__(
        self,
        uncertain: Sequence[int] = (0,),
        keep: float = 1.0 / ETA,
        slack: float = SLACK,
        fewest: int = FEWEST_TRIALS,
    ) -> None:
        if not 0.0 < keep <= 1.0:
            raise ValueError(f"keep={keep}, expected a share above 0, at most 1")
        if slack < 0.0:
            raise ValueError(f"slack={slack}, expected at least 0")
        self._uncertain, self._keep, self._slack, self._fewest = tuple(uncertain), keep, slack, fewest
        self._scores: dict[int, dict[int, tuple[float, ...]]] = {}

    def note(self, rung: int, trial: int, losses: Sequence[float]) -> None:
        """What `trial` scored at a rung: finite losses to minimise, as many for every trial. A second time replaces it.

        Raises ValueError for what is no finite number: such a trial has failed and has no place among scores.
        """
        if not all(math.isfinite(value) for value in losses):
            raise ValueError(f"trial {trial} scored {tuple(losses)} at rung {rung}")
        self._scores.setdefault(rung, {})[trial] = tuple(float(value) for value in losses)

    def goes_on(self, rung: int, trial: int) -> bool:
        """Whether a trial noted at the rung is worth more training, by all that have been there so far."""
        there = self._scores[rung]
        if len(there) < self._fewest:
            return True
        own, losses, narrower = list(there).index(trial), np.array(list(there.values())), float(ETA) ** -rung
        hoped = losses[own].copy()
        for side in self._uncertain:
            hoped[side] -= narrower * self._slack * np.ptp(losses[:, side])
        dominated = ((losses <= hoped).all(axis=1) & (losses < hoped).any(axis=1)).any()
        return not dominated or own in order_of(losses)[: math.ceil(narrower * self._keep * len(losses))]

    def reached(self, rung: int) -> int:
        """How many trials have been scored at the rung."""
        return len(self._scores.get(rung, {}))
