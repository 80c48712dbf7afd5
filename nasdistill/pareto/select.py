"""Picking one trial of a front, by a rule that a person types: `knee`, `fastest`, `latency_ms<=5, map50>=0.6`, …"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from nasdistill.errors import InputError, NothingSucceededError
from nasdistill.pareto.front import eligible, front
from nasdistill.pareto.limits import LIMIT, Limit, limit_of
from nasdistill.pareto.objectives import DEFAULT, OBJECTIVES, Objectives, losses
from nasdistill.records import TrialResult

ALLOWED = (
    "knee (or best), fastest, most-accurate, limits such as latency_ms<=5 or map50>=0.6, or several joined by commas; "
    f"a limit is on {', '.join(OBJECTIVES)}, or on a further device's such as latency_ms@NAME"
)

_TIE = 1e-12


def select(
    results: Sequence[TrialResult],
    rule: str = "knee",
    objectives: Objectives = DEFAULT,
    devices: Sequence[str] | None = None,
) -> TrialResult:
    """The member of the front in these objectives that `rule` names.

    - `knee` or `best`: see `knee`. `fastest`: the least latency among the objectives, without one the least of the first
      cost. `most-accurate`: the highest accuracy.
    - limits (`latency_ms<=5`, `map50>=0.6`, `params_m<=2`, …), joined by commas or spaces, all hold at once. A limit on
      a cost says what can be paid, so the most accurate member within it is taken; when all limits are on accuracy,
      they say what is needed, so the fastest is taken. A word beside the limits decides otherwise: `fastest,
      params_m<=2`.

    Raises InputError with what is allowed for a rule that cannot be read, InputError with the closest member when none
    satisfies the limits, and NothingSucceededError when the front is empty.
    """
    pick, limits = parse_rule(rule, devices)
    members = front(results, objectives)
    if not members:
        raise NothingSucceededError("no trial of this run completed at full length, so there is none to choose")
    for limit in limits:
        if all(limit.objective.of(member) is None for member in members):
            raise InputError(f"rule {rule!r}: no trial of this run has {limit.objective.name}")
    within = [m for m in members if all(limit.allows(m) for limit in limits)]
    if not within:
        raise InputError(_none_within(limits, members, results))
    if pick == "knee":
        return knee(within, objectives)
    wanted = (objectives.speed or objectives.costs[0]) if pick == "fastest" else objectives.accuracy
    # Of several the first, which is the cheapest.
    return within[int(np.argmin(losses(within, [wanted])[:, 0]))]


def knee(members: Sequence[TrialResult], objectives: Objectives = DEFAULT) -> TrialResult:
    """The member furthest above the chord between the two ends of a front, all axes scaled to 0..1 over the front.

    `members` are a front. It is the point of diminishing returns: beyond it a millisecond buys less than on average.
    Two costs count as their mean, since they mostly grow together and accuracy would else weigh a third. Where several
    are equally far, the most accurate of them is taken; so a front without a bulge, one of two members included, gives
    its most accurate end, and a front of one gives that one. (Normal-boundary distance, Das 1999.)
    """
    points = losses(members, objectives)
    spread = np.ptp(points, axis=0)
    if len(members) < 3 or not (spread[0] > 0 and (spread[1:] > 0).any()):
        return members[int(np.argmin(points[:, 0]))]
    scaled = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    # The ends are (1, 0) and (0, 1); a point below the line loss + cost = 1 is above the chord.
    height = 1.0 - (scaled[:, 0] + scaled[:, 1:].mean(axis=1))
    highest = np.flatnonzero(height >= height.max() - _TIE)
    return members[int(highest[np.argmin(points[highest, 0])])]


def find_trial(results: Sequence[TrialResult], trial: int, objectives: Objectives = DEFAULT) -> TrialResult:
    """The complete trial with this number; InputError says what there is instead when it is unknown or not complete."""
    for result in results:
        if result.trial == trial:
            if result.state != "complete":
                hint = _front_hint(results, objectives)
                raise InputError(f"trial {trial} is {result.state} ({result.reason}), expected a complete one{hint}")
            return result
    if not results:
        raise InputError(f"no trial {trial}: this run has no trials")
    numbers = [r.trial for r in results]
    raise InputError(
        f"no trial {trial}: this run has {min(numbers)} to {max(numbers)}{_front_hint(results, objectives)}"
    )


def choose(
    results: Sequence[TrialResult],
    trial: str | int = "best",
    rule: str | None = None,
    objectives: Objectives = DEFAULT,
    devices: Sequence[str] | None = None,
) -> TrialResult:
    """What `--trial N|best` and `--select RULE` mean together: a number is looked up, `best` follows the rule.

    `devices` are the run's, the main one first, whose figures a rule may name; None takes the name of any.
    """
    text = str(trial).strip().lower()
    if text == "best":
        return select(results, rule or "knee", objectives, devices)
    if not text.isdecimal():
        raise InputError(f"--trial {trial!r}, expected a trial's number or best")
    if rule is not None:
        raise InputError(f"--trial {text} and --select {rule!r} both name a trial, expected one of them")
    return find_trial(results, int(text), objectives)


def parse_rule(rule: str, devices: Sequence[str] | None = None) -> tuple[str, tuple[Limit, ...]]:
    """A rule's pick (`knee`, `fastest` or `most-accurate`) and its limits. InputError says what is allowed."""
    limits: list[Limit] = []

    def take(match: re.Match[str]) -> str:
        name, comparison, number = match.groups()
        limits.append(limit_of(name, comparison, number, f"rule {rule!r}", devices))
        return " "

    words = LIMIT.sub(take, rule).replace(",", " ").lower().split()
    picks = ["knee" if word == "best" else word.replace("_", "-") for word in words]
    unknown = [
        word for word, pick in zip(words, picks, strict=True) if pick not in {"knee", "fastest", "most-accurate"}
    ]
    if unknown:
        raise InputError(f"rule {rule!r}: {unknown[0]!r} is not understood, expected {ALLOWED}")
    if len(set(picks)) > 1:
        raise InputError(f"rule {rule!r}: {' and '.join(picks)} contradict each other, expected one of them")
    if picks:
        return picks[0], tuple(limits)
    if not limits:
        raise InputError(f"rule {rule!r} is empty, expected {ALLOWED}")
    return ("most-accurate" if any(limit.objective.minimise for limit in limits) else "fastest"), tuple(limits)


def _none_within(limits: Sequence[Limit], members: Sequence[TrialResult], results: Sequence[TrialResult]) -> str:
    closest = min(members, key=lambda m: (sum(limit.miss(m) for limit in limits), m.trial))
    figures = {"latency_ms": None, "map50": None, "map50_95": None} | {limit.objective.name: None for limit in limits}
    values = ", ".join(f"{name} {closest.figure(name)}" for name in figures)
    line = f"no front member satisfies {', '.join(map(str, limits))}; the closest is trial {closest.trial} ({values})"
    # A limit on a figure that is no axis of the front can be met by a trial off the front: better told than hidden.
    beside = [r.trial for r in eligible(results) if all(limit.allows(r) for limit in limits)]
    if beside:
        line += f"; off the front, trial {beside[0]} does"
    return line


def _front_hint(results: Sequence[TrialResult], objectives: Objectives) -> str:
    numbers = [str(member.trial) for member in front(results, objectives)]
    return f"; on the front: {', '.join(numbers[:20])}" if numbers else ""
