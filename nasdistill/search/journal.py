"""The Optuna study on disk: a journal beside the run's results that any Optuna tool can read.

Only this file writes it, two lines a trial: what was started and how it ended. The study that the sampler thinks with
lives in memory (`proposals.py`), so that a parameter costs no fsync and drafts that were never run leave no trace here.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasdistill.records import Scalar

STUDY_NAME = "nasdistill"
# User attributes of a trial in the journal: our trial number, where its parameters came from, and why it failed.
TRIAL, ORIGIN, REASON = "trial", "origin", "reason"


class StudyJournal:
    """Opens (or repairs and opens, or creates) the journal at `path` for a study with these `directions`.

    A torn last line, as a crash leaves it, is cut off. A journal that is damaged elsewhere, or belongs to other
    objectives, is put aside as `<name>.damaged` and a new one begun: `was_damaged` tells, and the results of the run
    hold everything needed to fill it again.
    """

    def __init__(self, path: Path, directions: Sequence[StudyDirection]) -> None:
        self.path = path
        # A killed process leaves its lock behind, and Optuna would wait half a minute for it. Only the driver of a run
        # writes its journal.
        with contextlib.suppress(OSError):
            Path(f"{path}.lock").unlink()
        self.was_damaged = path.exists() and not _cut_torn_end(path)
        if not self.was_damaged:
            try:
                self._study = _open(path, directions)
                self._study.get_trials(deepcopy=False)
            except Exception:
                # Whatever a stranger's or half-lost journal makes Optuna raise: it has no one error for it.
                self.was_damaged = True
        if self.was_damaged:
            os.replace(path, f"{path}.damaged")
            self._study = _open(path, directions)
        self._storage = self._study._storage

    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=True)

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
        return self._storage.create_new_trial(self._study._study_id, template)

    def finish(self, trial_id: int, values: Sequence[float] | None, reason: str = "") -> None:
        """End a running trial: complete with `values`, or failed with a `reason`."""
        if values is None:
            self._storage.set_trial_user_attr(trial_id, REASON, reason)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        else:
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, list(values))

    def add(self, trial: FrozenTrial) -> None:
        """Take over a trial that has already ended."""
        self._study.add_trial(trial)


def _open(path: Path, directions: Sequence[StudyDirection]) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=directions, load_if_exists=True)
    if study.directions != list(directions):
        raise ValueError(f"{path} holds a study of other objectives: {study.directions}")
    return study


def _cut_torn_end(path: Path) -> bool:
    """Drop what a crash left unfinished at the end of the journal. False when it is damaged before its last line."""
    content = path.read_bytes()
    good = 0
    for line in content.splitlines(keepends=True):
        try:
            whole = line.endswith(b"\n") and isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            break
        good += len(line)
    if b"\n" in content[good:].rstrip(b"\x00\n"):
        return False
    if good < len(content):
        with open(path, "r+b") as file:
            file.truncate(good)
            file.flush()
            os.fsync(file.fileno())
    return True
