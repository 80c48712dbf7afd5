"""What trials leave on their way, for a restart: scores (what early stopping decides by) and the training itself.

They lie in `trials/<n>/rungs.json` and, until the trial ends, `trials/<n>/rung.safetensors`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from nasdistill.records import RungScore
from nasdistill.store.atomic import write_text

RUNGS_NAME = "rungs.json"
TRAINING_NAME = "rung.safetensors"
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


def hand_over_training(earlier: Sequence[Path], trial_folder: Path) -> None:
    """Give a trial what its predecessors, oldest first, left to go on with: the newest is the furthest. Drop the others.

    A move, so that a trial interrupted again and again never leaves more than one such file behind.
    """
    left = [folder / TRAINING_NAME for folder in earlier if (folder / TRAINING_NAME).exists()]
    if left:
        os.replace(left.pop(), trial_folder / TRAINING_NAME)
    for path in left:
        path.unlink()


def drop_training(trial_folder: Path) -> None:
    """Nobody goes on with this trial's training."""
    (trial_folder / TRAINING_NAME).unlink(missing_ok=True)
