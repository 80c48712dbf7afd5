"""The Optuna study of a run, for other Optuna tools to read: what was started and how it ended, two writes a trial.

Only the process that runs the search writes it. The study that the sampler thinks with lives in memory
(`proposals.py`), so that a parameter costs no write and drafts that were never run leave no trace here. Where the study
is kept: `journal_file.py` (the run folder, by default) and `database.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasdistill.records import Scalar

STUDY_NAME = "nasdistill"
# User attributes of a trial in the study: our trial number, where its parameters came from, and why it failed.
TRIAL, ORIGIN, REASON = "trial", "origin", "reason"

_log = logging.getLogger(__name__)
_NOT_WRITTEN = -1
T = TypeVar("T")


class StudyJournal:
    """A study that a run writes to.

    With `reopen` (for a study that is kept elsewhere) a failing write doesn't end the search: `warn` is told once, the
    study is `lost` and hears nothing more until `recover`. The results of the run hold everything that it then lacks.
    Without, errors are raised as they are.
    """

    def __init__(
        self,
        study: optuna.Study,
        reopen: Callable[[], optuna.Study] | None = None,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        self._study = study
        self._reopen = reopen
        self._warn = warn
        self.lost = False

    def trials(self) -> list[FrozenTrial]:
        """All trials there are; none while the study is lost."""
        return self._kept(lambda: self._study.get_trials(deepcopy=True), [])

    def start(
        self,
        params: Mapping[str, Scalar],
        distributions: Mapping[str, BaseDistribution],
        attributes: Mapping[str, Any],
        system_attributes: Mapping[str, Any],
    ) -> int:
        """Note a trial as running; the answer is its id for `finish`."""
        template = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(attributes),
            system_attrs=dict(system_attributes),
            intermediate_values={},
        )
        return self._kept(lambda: self._study._storage.create_new_trial(self._study._study_id, template), _NOT_WRITTEN)

    def finish(self, trial_id: int, values: Sequence[float] | None, reason: str = "") -> None:
        """End a running trial: complete with `values`, or failed with a `reason`."""

        def write() -> None:
            storage = self._study._storage
            if values is None:
                storage.set_trial_user_attr(trial_id, REASON, reason)
                storage.set_trial_state_values(trial_id, TrialState.FAIL)
            else:
                storage.set_trial_state_values(trial_id, TrialState.COMPLETE, list(values))

        self._kept(write, None)

    def add(self, trial: FrozenTrial) -> None:
        """Take over a trial that has already ended."""
        self._kept(lambda: self._study.add_trial(trial), None)

    def recover(self) -> bool:
        """Open a lost study again; False when that fails as well. What it lacks is for the caller to bring."""
        if self.lost and self._reopen is not None:
            try:
                self._study = self._reopen()
            except Exception as error:
                _log.debug("the study cannot be opened again: %s", error)
            else:
                self.lost = False
        return not self.lost

    def _kept(self, access: Callable[[], T], otherwise: T) -> T:
        if self.lost:
            return otherwise
        try:
            return access()
        except Exception as error:
            # A database fails in as many ways as there are drivers, a study that someone deletes is a KeyError.
            if self._reopen is None:
                raise
            self.lost = True
            self._warn(
                f"the study is not written any more ({first_line(error)}); the search goes on, and its results are in "
                "the run folder"
            )
            return otherwise


def study_in(storage: BaseStorage, name: str, directions: Sequence[StudyDirection]) -> optuna.Study:
    """The study of that name, made if need be. Raises ValueError when it has other objectives."""
    # Optuna reports all that it does; a search says itself what a person must know.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    if study.directions != list(directions):
        raise ValueError(f"the study '{name}' has other objectives: {study.directions}")
    return study


def first_line(error: BaseException) -> str:
    """What a storage error is about: that of the driver below, where Optuna wraps it."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
