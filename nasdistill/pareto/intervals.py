"""How sure a score is: trials that were trained again with other seeds, and which neighbours on a front they leave apart.

Members of a front have two or three scores each, too few to tell a deviation of their own. So one deviation is pooled over
all trials that were repeated (Student's two-sample argument, carried to k groups as in a one-way analysis of variance):

    s^2 = sum_i sum_j (x_ij - mean_i)^2 / nu,    nu = sum_i (n_i - 1)
    interval of a mean          mean_i +- t(nu) * s * sqrt(1 / n_i)
    interval of a difference    mean_i - mean_k +- t(nu) * s * sqrt(1 / n_i + 1 / n_k)

with t(nu) the two-sided 95 % point of Student's t. Source: Montgomery, Design and Analysis of Experiments, chapter 3 (mean
square within treatments; least significant difference). It takes for granted that a seed moves all members about equally,
and it judges one mean, or one pair, at a time: of twenty neighbours that are equally good, about one is told apart all the
same. A trial's first score is part of its mean, although the trial is on the front because that score was high; so a mean
is still a little too good, the less so the more seeds it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nasdistill.records import TrialResult

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Standard deviation of a score from seed to seed, pooled, and its degrees of freedom (at least 1)."""

    deviation: float
    freedom: int

    def half_width(self, inverse_counts: float) -> float:
        """Half of the 95 % interval of a mean (`inverse_counts` 1/n) or of a difference of two means (1/n + 1/m)."""
        # Imported here: scipy costs 0.1 s, and most runs that are read have no repeats.
        from scipy.special import stdtrit

        return float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * self.deviation * math.sqrt(inverse_counts)


@dataclass(frozen=True)
class Interval:
    """The mean of a trial's scores over `seeds` seeds (2 or more) and half the width of its 95 % interval; mAP 0..1."""

    seeds: int
    mean: float
    half_width: float

    @property
    def low(self) -> float:
        """Lower end, not below 0."""
        return max(0.0, self.mean - self.half_width)

    @property
    def high(self) -> float:
        """Upper end, not above 1."""
        return min(1.0, self.mean + self.half_width)


@dataclass(frozen=True)
class Certainty:
    """What the repeats of a run say about one accuracy: nothing at all (`spread` None, the others empty) without any.

    `intervals` has an entry for each repeated trial. `ties` has one for each member of the front whose neighbour by latency
    can't be told apart from it in accuracy: the neighbours' trial numbers. Members without a repeat count with one score.
    """

    accuracy: str = "map50_95"
    spread: Spread | None = None
    intervals: dict[int, Interval] = field(default_factory=dict)
    ties: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def tied_with(self, trial: int, separator: str = ";") -> str:
        """The neighbours that can't be told apart from a trial, as text; empty when there are none."""
        return separator.join(map(str, self.ties.get(trial, ())))


def scores_of(result: TrialResult, accuracy: str = "map50_95") -> list[float]:
    """Every score of a complete trial in `accuracy`, that of its own artifact first.

    Raises ValueError when it has none.
    """
    first = getattr(result, accuracy)
    if first is None:
        raise ValueError(f"trial {result.trial} needs a finite {accuracy}, got None")
    return [float(first), *getattr(result, f"repeats_{accuracy}")]


def pooled_spread(groups: Sequence[Sequence[float]]) -> Spread | None:
    """The deviation within groups of scores; None when no group has two."""
    freedom = sum(len(group) - 1 for group in groups if group)
    if freedom < 1:
        return None
    squares = 0.0
    for group in groups:
        mean = math.fsum(group) / len(group) if group else 0.0
        squares += math.fsum((score - mean) ** 2 for score in group)
    return Spread(math.sqrt(squares / freedom), freedom)


def certainty(results: Sequence[TrialResult], members: Sequence[TrialResult], accuracy: str = "map50_95") -> Certainty:
    """Intervals of all repeated trials among `results`, and ties between neighbours of a front.

    `members` are the front in this accuracy, cheapest first. Latency plays no part: it is measured side by side on a quiet
    machine, and how far apart two medians must be is not known from what a run keeps.

    Raises InputError for an unknown accuracy.
    """
    # Imported here: the run folder's tables go through this module, and they need no numpy.
    from nasdistill.pareto.objectives import accuracy_objective

    accuracy_objective(accuracy)
    repeated = {r.trial: scores_of(r, accuracy) for r in results if r.state == "complete" and r.repeats_map50_95}
    spread = pooled_spread(list(repeated.values()))
    if spread is None:
        return Certainty(accuracy)
    intervals = {
        trial: Interval(len(scores), math.fsum(scores) / len(scores), spread.half_width(1 / len(scores)))
        for trial, scores in repeated.items()
    }
    ties: dict[int, tuple[int, ...]] = {}
    for one, other in pairwise(members):
        a, b = scores_of(one, accuracy), scores_of(other, accuracy)
        apart = abs(math.fsum(a) / len(a) - math.fsum(b) / len(b))
        if apart <= spread.half_width(1 / len(a) + 1 / len(b)):
            ties[one.trial] = (*ties.get(one.trial, ()), other.trial)
            ties[other.trial] = (*ties.get(other.trial, ()), one.trial)
    return Certainty(accuracy, spread, intervals, ties)
