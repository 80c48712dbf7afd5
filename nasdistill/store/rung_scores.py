"""The scores of trials on their way, in `trials/<n>/rungs.json`: what early stopping decides by, also after a restart."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from nasdistill.records import RungScore
from nasdistill.store.atomic import write_text

RUNGS_NAME = "rungs.json"
_SCORES = TypeAdapter(list[RungScore])


def write_rung_scores(trial_folder: Path, scores: Sequence[RungScore]) -> None:
    """Keep all scores of one trial so far."""
    write_text(trial_folder / RUNGS_NAME, _SCORES.dump_json(list(scores), indent=1).decode() + "\n")


def read_rung_scores(trial_folder: Path) -> list[RungScore]:
    """The scores of one trial; none where there is no file, or a damaged one: a score lost is training not compared."""
    try:
        return _SCORES.validate_json((trial_folder / RUNGS_NAME).read_bytes())
    except (OSError, ValidationError):
        return []


def all_rung_scores(run: Path) -> list[RungScore]:
    """The scores of all trials of a run folder, by trial and rung."""
    files = sorted(run.glob(f"trials/*/{RUNGS_NAME}"))
    return [score for file in files for score in read_rung_scores(file.parent)]
