"""The Pareto front of a run: the trials that no other trial beats in accuracy and cost at once."""

from __future__ import annotations

from collections.abc import Sequence

from nasdistill.pareto.objectives import DEFAULT, Objectives, losses
from nasdistill.records import TrialResult

FULL_FIDELITY = 1.0


def eligible(results: Sequence[TrialResult]) -> list[TrialResult]:
    """The results that may be compared: complete trials that trained for the run's full length, by trial number.

    Scores of different fidelity are never compared, so one below 1.0 is left out even when nothing else is there.
    """
    full = [r for r in results if r.state == "complete" and r.fidelity >= FULL_FIDELITY]
    return sorted(full, key=lambda r: r.trial)


def front(results: Sequence[TrialResult], objectives: Objectives = DEFAULT) -> list[TrialResult]:
    """The non-dominated trials among the eligible `results`, cheapest first.

    With one cost that is the least accurate first as well; of two costs the first counts. A trial is dominated when
    another is at least as good in all objectives and better in one. Of several trials at exactly the same point only the
    one with the lowest number is kept (moocore's `keep_weakly=False`): a front is read as a list of choices, and two
    equal choices are one. O(n log n).

    Raises ValueError when an eligible trial lacks a figure.
    """
    # Imported here: moocore costs 0.1 s, and reading commands such as --help go through this package.
    import moocore

    candidates = eligible(results)
    if not candidates:
        return []
    points = losses(candidates, objectives)
    kept = moocore.is_nondominated(points, keep_weakly=False)
    order = sorted(range(len(candidates)), key=lambda i: (*points[i, 1:], candidates[i].trial))
    return [candidates[i] for i in order if kept[i]]
