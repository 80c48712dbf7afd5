"""What a trial leaves at its rungs: all scores so far, and the training as it was at the last one."""

import hashlib
from pathlib import Path

from nasdistill.config import TrainingSettings
from nasdistill.distill.checkpoint import read_facts, restore_training, save_training
from nasdistill.distill.stage import StageTraining
from nasdistill.records import RungScore, TrialConfig
from nasdistill.store.rungs import TRAINING_NAME, read_rung_scores, write_rung_scores


class RungFiles:
    """The files of one trial in `folder`, where a retried or resumed trial finds them.

    `stage` is the name of the stage that was under way, None where there is nothing to go on with, and `seconds` what had
    been spent on it by then. A file of another configuration or other settings is not used.
    """

    def __init__(self, folder: Path, config: TrialConfig, training: TrainingSettings) -> None:
        self._folder = folder
        text = f"{config.model_dump_json()} {training.model_dump_json()}"
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._training = folder / TRAINING_NAME
        facts = read_facts(self._training)
        known = facts if facts is not None and facts.get("key") == self._key else {}
        self.stage = known.get("stage")
        self.seconds = float(known.get("seconds", 0.0))

    def restore(self, training: StageTraining) -> None:
        """Bring a stage set up like the one that was under way to where that was."""
        restore_training(self._training, training)

    def save(self, training: StageTraining, score: RungScore) -> None:
        """Training first: a score on disk then always has the training that goes with it, or a later one."""
        facts = {"key": self._key, "stage": training.stage.name, "seconds": str(score.seconds)}
        save_training(self._training, training, facts)
        before = [one for one in read_rung_scores(self._folder) if one.rung < score.rung]
        write_rung_scores(self._folder, [*before, score])

    def remove(self) -> None:
        """Drop the training; the scores stay."""
        self._training.unlink(missing_ok=True)
