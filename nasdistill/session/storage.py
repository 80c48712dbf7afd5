"""Where a run's Optuna study is kept (`--storage`): chosen, checked, recorded without its password, opened."""

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import Objective
from nasdistill.search.database import check_database, open_database, without_password
from nasdistill.search.journal import StudyJournal
from nasdistill.search.journal_file import JOURNAL_NAME, open_journal_file
from nasdistill.search.reconcile import directions_of
from nasdistill.store.run_folder import RunFolder

STORAGE_VARIABLE = "NASDISTILL_STORAGE"
RUN_FOLDER = "journal"
"""What `--storage` says for the run folder's own file."""


def check_storage(asked: str | None, recorded: Mapping[str, Any]) -> str | None:
    """The URL of the database to use, tried once; None for the file in the run folder. `recorded` is run.json.

    Where nothing is asked for, the environment's NASDISTILL_STORAGE says it for a new run; and for one whose study is there,
    it has the password that run.json leaves out.

    Raises:
        InputError: a database that cannot be used, or a resumed run whose URL has to be given again.
    """
    variable, study = os.environ.get(STORAGE_VARIABLE) or None, _study_of(recorded)
    if asked is None and (not study.get("storage") or _names(variable, study)):
        asked = variable
    url = asked or _recorded_url(recorded)
    if url is None or url == RUN_FOLDER:
        return None
    check_database(url)
    return url


def open_journal(
    run: RunFolder, url: str | None, objectives: Iterable[Objective], warn: Callable[[str], None]
) -> StudyJournal:
    """The run's study, at `url` or in its folder; run.json then says where it is, for other Optuna programs.

    In a database that runs share, its name is the run's with an id, kept for good.

    Raises:
        InputError: the database cannot be used.
    """
    directions = directions_of(objectives)
    if url is None:
        run.update_run(study={**_study_of(run.read_run()), "storage": JOURNAL_NAME})
        return open_journal_file(run.path / JOURNAL_NAME, directions)
    name = _study_of(run.read_run()).get("name") or f"{run.path.resolve().name[:100]}-{uuid.uuid4().hex[:8]}"
    shown = without_password(url)
    run.update_run(study={"storage": shown, "complete": shown == url, "name": name})
    return open_database(url, name, directions, warn)


def _recorded_url(recorded: Mapping[str, Any]) -> str | None:
    study = _study_of(recorded)
    if study.get("storage") in (None, JOURNAL_NAME):
        return None
    if study.get("complete"):
        return str(study["storage"])
    raise InputError(
        f"the study of this run is in {study['storage']}, whose password is not kept: give the URL again with --storage "
        f"or NASDISTILL_STORAGE, or go on in the run folder with --storage {RUN_FOLDER}"
    )


def _names(url: str | None, study: Mapping[str, Any]) -> bool:
    """Whether this is where the study is, password or not."""
    if url is None or url == RUN_FOLDER:
        return False
    try:
        return bool(without_password(url) == study["storage"])
    except InputError:  # of another program, or of no use: it is not asked for here
        return False


def _study_of(recorded: Mapping[str, Any]) -> dict[str, Any]:
    study = recorded.get("study")
    return dict(study) if isinstance(study, dict) else {}
