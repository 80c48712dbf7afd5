"""What a trial leaves at its rungs: all scores so far, the training as it was at the last one, the student at the best."""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from nasdistill.config import TrainingSettings
from nasdistill.distill.checkpoint import read_facts, restore_training, save_training
from nasdistill.distill.stage import StageTraining
from nasdistill.records import RungScore, TrialConfig
from nasdistill.store.atomic import replacing
from nasdistill.store.rungs import TRAINING_NAME, read_rung_scores, write_rung_scores


class RungFiles:
    """The files of one trial in `folder`, where a retried or resumed trial finds them.

    `stage` is the name of the stage that was under way, None where there is nothing to go on with, and `seconds` what had
    been spent on it by then. A file of another configuration or other settings is not used.
    """

    def __init__(self, folder: Path, config: TrialConfig, training: TrainingSettings) -> None:
        self._folder = folder
        text = f"{config.model_dump_json()} {training.model_dump_json()}"
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self._training = folder / TRAINING_NAME
        known = _facts(self._training, self.key)
        self.stage = known.get("stage")
        self.seconds = float(known.get("seconds", 0.0))

    def restore(self, training: StageTraining) -> None:
        """Bring a stage set up like the one that was under way to where that was."""
        restore_training(self._training, training)

    def keep(self, training: StageTraining, seconds: float) -> None:
        """The training as it is, after so many seconds of the trial."""
        facts = {"key": self.key, "stage": training.stage.name, "seconds": str(seconds)}
        save_training(self._training, training, facts)

    def save(self, training: StageTraining, score: RungScore) -> None:
        """Training first: a score on disk then always has the training that goes with it, or a later one."""
        self.keep(training, score.seconds)
        before = [one for one in read_rung_scores(self._folder) if one.rung < score.rung]
        write_rung_scores(self._folder, [*before, score])

    def remove(self) -> None:
        """Drop the training; the scores stay."""
        self._training.unlink(missing_ok=True)


def _facts(path: Path, key: str) -> dict[str, str]:
    """What is told in a file of the training with this key; {} where there is none, or another's."""
    found = read_facts(path)
    return found if found is not None and found.get("key") == key else {}


SaveWeights = Callable[[Path, Mapping[str, str]], None]
"""Writes a student's weights to a file, with facts beside them."""


class BestFiles:
    """Artifact and weights of a training at the rung where `accuracy` was highest so far, in the trial's `folder`.

    Of a training with another `key` (see `RungFiles`) nothing is used.
    """

    def __init__(self, folder: Path, key: str, accuracy: str) -> None:
        self._folder, self._key, self._accuracy = folder, key, accuracy

    def value(self, scored: object) -> float:
        """What decides, of a score or a result."""
        return float(getattr(scored, self._accuracy))

    def score(self) -> RungScore | None:
        """What it scored there; None before the first rung."""
        found = [score for weights in self._folder.glob("best-*.safetensors") if (score := self._read(weights))]
        return max(found, key=self.value, default=None)

    def keep(self, score: RungScore, artifact: Path, save: SaveWeights) -> None:
        """Take over the `artifact` that was scored, and the weights, where that is the best so far."""
        before = self.score()
        if before is not None and before.rung != score.rung and self.value(before) >= self.value(score):
            return
        os.replace(artifact, self._named(score, "onnx"))
        save(self._named(score, "safetensors"), {"key": self._key, "score": score.model_dump_json()})
        self.remove(but=score)

    def take(self, score: RungScore) -> None:
        """Make what `score` is of the trial's own student; a trial that is killed now finds it again."""
        for suffix in ("onnx", "safetensors"):
            with replacing(self._folder / f"student.{suffix}") as temporary:
                shutil.copyfile(self._named(score, suffix), temporary)

    def remove(self, but: RungScore | None = None) -> None:
        """Drop what is left, `but` that of one score."""
        for path in self._folder.glob("best-*"):
            if but is None or path.stem != f"best-{but.rung}":
                path.unlink()

    def _named(self, score: RungScore, suffix: str) -> Path:
        return self._folder / f"best-{score.rung}.{suffix}"

    def _read(self, weights: Path) -> RungScore | None:
        if not weights.with_suffix(".onnx").is_file():
            return None
        try:
            return RungScore.model_validate_json(_facts(weights, self._key)["score"])
        except (KeyError, ValidationError):
            return None
