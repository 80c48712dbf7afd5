"""What a study is told of results, and how study and results are brought to the same state after a crash or a gap."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasdistill.pareto.objectives import Objective
from nasdistill.records import Scalar, TrialResult
from nasdistill.search.distributions import Distributions, Params, Space, key_of, point_of
from nasdistill.search.journal import REASON, TRIAL, StudyJournal
from nasdistill.search.known import FIDELITY, PARTIAL_VALUES
from nasdistill.search.worker import INTERRUPTED


def directions_of(objectives: Iterable[Objective]) -> list[StudyDirection]:
    return [StudyDirection.MINIMIZE if o.minimise else StudyDirection.MAXIMIZE for o in objectives]


def values_of(result: TrialResult, objectives: Sequence[Objective]) -> list[float] | None:
    """What Optuna is told of a trial: its objectives, or None (a failure) unless it is complete and they are finite."""
    if result.state != "complete":
        return None
    values = [objective.of(result) for objective in objectives]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    return [float(value) for value in values if value is not None]


def partial_of(result: TrialResult, objectives: Sequence[Objective]) -> dict[str, Any]:
    """User attributes of a trial stopped at a rung, which a sampler that knows fidelities learns from; {} of others."""
    values = [objective.of(result) for objective in objectives]
    if result.state != "stopped" or not 0.0 < result.fidelity < 1.0 or None in values:
        return {}
    return {FIDELITY: result.fidelity, PARTIAL_VALUES: [float(value) for value in values if value is not None]}


def ended(
    params: Params,
    distributions: Distributions,
    values: Sequence[float] | None,
    user_attributes: dict[str, Any],
    system_attributes: dict[str, Scalar] | None = None,
    constraints: dict[str, float] | None = None,
) -> FrozenTrial:
    """A finished trial that no study has yet: failed when `values` is None."""
    trial = create_trial(
        state=TrialState.FAIL if values is None else TrialState.COMPLETE,
        values=values,
        params=params,
        distributions=dict(distributions),
        user_attrs=user_attributes,
        system_attrs=system_attributes or {},
        constraints=constraints or None,
    )
    trial.datetime_start = trial.datetime_complete = datetime.now()
    return trial


def reconcile(
    journal: StudyJournal, results: Sequence[TrialResult], space: Space, objectives: Sequence[Objective]
) -> tuple[set[int], list[tuple[Params, int | None]]]:
    """Make the journal say what the results say.

    The answer is the trial numbers it knows, and the points that have no result, each with its trial's number.
    """
    by_number = {result.trial: result for result in results}
    journalled: set[int] = set()
    told: set[int] = set()
    unfinished: list[tuple[Params, int | None]] = []
    for frozen in journal.trials():
        number = frozen.user_attrs.get(TRIAL)
        result = by_number.get(number) if isinstance(number, int) else None
        if isinstance(number, int):
            journalled.add(number)
        if result is not None and (result.trial in told or not _same_point(space, frozen, result)):
            # A number is given anew when the journal was out of reach and its first trial had left no result.
            result = None
        if result is not None:
            told.add(result.trial)
        was_running = not frozen.state.is_finished()
        if was_running:
            # Its worker died with the driver, so whether the result reached the disk decides.
            values = None if result is None else values_of(result, objectives)
            reason = INTERRUPTED if result is None else f"{result.state}: {result.reason}"
            journal.finish(frozen._trial_id, values, reason)
        if result is None and (was_running or frozen.user_attrs.get(REASON) == INTERRUPTED):
            unfinished.append((dict(frozen.params), number if isinstance(number, int) else None))
    for result in results:
        found = point_of(space, result.params)
        if result.trial not in told and found is not None:
            journal.add(ended(*found, values_of(result, objectives), {TRIAL: result.trial}))
    return journalled, unfinished


def _same_point(space: Space, frozen: FrozenTrial, result: TrialResult) -> bool:
    found = point_of(space, result.params)
    # What lies outside the space (any more) cannot be compared; its number has to do.
    return found is None or key_of(found[0]) == key_of(frozen.params)
