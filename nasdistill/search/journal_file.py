"""The study in the run folder: a journal file that is repaired after a crash, or begun anew from the results."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection

from nasdistill.search.journal import STUDY_NAME, StudyJournal, study_in

JOURNAL_NAME = "study.journal"


def open_journal_file(path: Path, directions: Sequence[StudyDirection]) -> StudyJournal:
    """Open (or repair and open, or create) the journal at `path` for a study with these `directions`.

    A torn last line, as a crash leaves it, is cut off. A journal that is damaged elsewhere, or belongs to other
    objectives, is put aside as `<name>.damaged` and a new one begun: the results of the run hold everything needed to
    fill it again. That is also why a write that fails later on does not end the search.
    """
    # A killed process leaves its lock behind, and Optuna would wait half a minute for it. Only the process that runs
    # the search writes its journal.
    with contextlib.suppress(OSError):
        Path(f"{path}.lock").unlink()
    damaged = path.exists() and not _cut_torn_end(path)
    if not damaged:
        try:
            study = _open(path, directions)
            study.get_trials(deepcopy=False)
            return StudyJournal(study, lambda: _repaired(path, directions))
        except Exception:
            # Whatever a stranger's or half-lost journal makes Optuna raise: it has no one error for it.
            pass
    os.replace(path, f"{path}.damaged")
    return StudyJournal(_open(path, directions), lambda: _repaired(path, directions))


def _repaired(path: Path, directions: Sequence[StudyDirection]) -> optuna.Study:
    """The journal again after a write that failed (on a full disk) and may have left half a line."""
    _cut_torn_end(path)
    return _open(path, directions)


def _open(path: Path, directions: Sequence[StudyDirection]) -> optuna.Study:
    lock = JournalFileOpenLock(str(path))  # the default one is a symbolic link, which not every file system has
    return study_in(JournalStorage(JournalFileBackend(str(path), lock)), STUDY_NAME, directions)


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
