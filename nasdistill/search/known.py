"""What a study says to a sampler: its points, their values and fidelity, what is running and what is taken."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasdistill.search.candidates import Point, Tree

Array = np.ndarray[Any, np.dtype[np.float64]]

PROPOSAL = "latency_first:proposal"
"""System attribute of a trial: all parameters proposed for it, so that other workers see them while it runs."""
ELSEWHERE = "elsewhere"
"""User attribute of a trial of an earlier run that was shorter or longer: its point may be tried again."""
FIDELITY, PARTIAL_VALUES = "fidelity", "partial_values"
"""User attributes of a trial that ended early, or was longer: the share of full training it had, and its objectives."""


@dataclass(eq=False)
class Candidate:
    """A complete point, the key by which it is the same as another, and (once asked for) its row of numbers."""

    point: Point
    key: Hashable
    row: Array | None = None
    version: int = -1


@dataclass
class Known:
    """What the study says, everything to be minimised."""

    points: list[Candidate]
    """Those with values, complete ones first."""
    values: Array
    """(n, k) for `points`."""
    fidelity: Array
    """(n,) for `points`; 1 is full training."""
    feasible: np.ndarray[Any, np.dtype[np.bool_]]
    pending: list[Candidate]
    taken: set[Hashable]
    signs: Array
    """(k,) -1 for objectives that the study maximises, else 1."""


class StudyReader:
    """Reads a study's trials as points of a space; finished ones are looked at once."""

    def __init__(self, tree: Tree, canonical: Callable[[Mapping[str, Any]], Hashable]) -> None:
        self._tree = tree
        self._canonical = canonical
        self._finished: dict[int, Candidate | None] = {}

    def candidate(self, point: Point) -> Candidate:
        return Candidate(point, self._canonical(point))

    def read(self, study: Study, current: FrozenTrial) -> Known:
        """Everything but `current`, which is being suggested."""
        sign = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
        rows: list[tuple[Candidate, Array, float, bool]] = []
        pending: list[Candidate] = []
        taken: set[Hashable] = set()
        for trial in study.get_trials(deepcopy=False):
            if trial.number == current.number:
                continue
            point = self._of_trial(trial)
            if point is None:
                continue
            if not trial.user_attrs.get(ELSEWHERE):
                taken.add(point.key)
            if trial.state == TrialState.COMPLETE:
                feasible = all(value <= 0.0 for value in trial.constraints.values())
                rows.append((point, sign * np.array(trial.values), 1.0, feasible))
            elif not trial.state.is_finished():
                pending.append(point)
            elif float(trial.user_attrs.get(FIDELITY, 0.0)) > 0.0 and PARTIAL_VALUES in trial.user_attrs:
                values = sign * np.array(trial.user_attrs[PARTIAL_VALUES], dtype=float)
                fidelity = float(trial.user_attrs[FIDELITY])
                rows.append((point, values, fidelity, fidelity != 1.0))  # of full length, but it may break a limit
        rows = [row for row in rows if np.isfinite(row[1]).all()]
        rows.sort(key=lambda row: row[2] != 1.0)
        return Known(
            points=[row[0] for row in rows],
            values=np.array([row[1] for row in rows]).reshape(len(rows), len(sign)),
            fidelity=np.array([row[2] for row in rows]),
            feasible=np.array([row[3] for row in rows], dtype=bool),
            pending=pending,
            taken=taken,
            signs=sign,
        )

    def _of_trial(self, trial: FrozenTrial) -> Candidate | None:
        """The trial's complete point; None when it has none (yet), or one outside the space."""
        finished = trial.state.is_finished()
        if finished and trial._trial_id in self._finished:
            return self._finished[trial._trial_id]
        point = {**trial.system_attrs.get(PROPOSAL, {}), **trial.params}
        if not finished:
            point.update(trial.system_attrs.get("fixed_params", {}))
        names = self._tree.distributions(point)
        found = None if names is None else self.candidate({name: point[name] for name in names})
        if finished:
            self._finished[trial._trial_id] = found
        return found


def unique(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate a key, in order."""
    return list({candidate.key: candidate for candidate in candidates}.values())
