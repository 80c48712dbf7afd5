"""What a trial leaves at its rungs: all scores so far, and the training as it was at the last one."""

import hashlib
from pathlib import Path

from nasdistill.config import TrainingSettings
from nasdistill.distill.checkpoint import read_facts, restore_training, save_training
from nasdistill.distill.stage import StageTraining
from nasdistill.records import RungScore, TrialConfig
from nasdistill.store.rung_scores import read_rung_scores, write_rung_scores

CHECKPOINT_NAME = "rung.safetensors"


class RungFiles:
    """The files of one trial in `folder`, which a retried trial finds there, a resumed one in `earlier`.

    `stage` is the name of the stage that was under way, None where there is nothing to go on with. A file of another
    configuration or other settings is left alone.
    """

    def __init__(self, folder: Path, earlier: Path | None, config: TrialConfig, training: TrainingSettings) -> None:
        self._folder = folder
        text = f"{config.model_dump_json()} {training.model_dump_json()}"
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._candidates = [place / CHECKPOINT_NAME for place in (folder, earlier) if place is not None]
        self._found, self.stage = self._look()

    def _look(self) -> tuple[Path | None, str | None]:
        for path in self._candidates:
            facts = read_facts(path)
            if facts is not None and facts.get("key") == self._key:
                return path, facts["stage"]
        return None, None

    def restore(self, training: StageTraining) -> None:
        """Bring a stage set up like the one that was under way to where that was."""
        assert self._found is not None
        restore_training(self._found, training)

    def save(self, training: StageTraining, score: RungScore) -> None:
        """Training first: a score on disk then always has the training that goes with it, or a later one."""
        facts = {"key": self._key, "stage": training.stage.name}
        save_training(self._folder / CHECKPOINT_NAME, training, facts)
        before = [one for one in read_rung_scores(self._folder) if one.rung < score.rung]
        write_rung_scores(self._folder, [*before, score])

    def remove(self) -> None:
        """Drop the training; the scores stay."""
        for path in self._candidates:
            path.unlink(missing_ok=True)
