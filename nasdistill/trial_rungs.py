"""A trial's way through a stage: trained, scored at each rung, kept so that another process can go on, or keep the best."""

import copy
import dataclasses
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nasdistill.distill.batchnorm import recalibrate
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.schedule import teacher_share_at, temperature_at
from nasdistill.distill.stage import Stage, StageRun, StageTraining
from nasdistill.measure.accuracy import Accuracy, score
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.detector import OnnxDetector
from nasdistill.pareto.limits import Limit
from nasdistill.records import RungScore, Scalar, TrialConfig
from nasdistill.rung_files import BestFiles, RungFiles
from nasdistill.store.atomic import replacing
from nasdistill.students.student import Student
from nasdistill.tasks import Report
from nasdistill.workbench import Workbench


@dataclass(frozen=True)
class TrialPlace:
    """Where a trial writes, its number, its flat parameters (for the result), and when it must stop."""

    trial: int
    folder: Path
    params: dict[str, Scalar]
    should_stop: Callable[[], bool] = lambda: False
    constraints: tuple[Limit, ...] = ()
    """On figures known before training: a student beyond one is rejected untrained."""
    best_by: str | None = None
    """The accuracy by which the student of the best rung of stage 2 is the trial's, where the end is not better."""


@dataclass(frozen=True)
class Way:
    """A trial's way through its stages and rungs."""

    config: TrialConfig
    bench: Workbench
    place: TrialPlace
    files: RungFiles
    figures: dict[str, Any]
    started: float
    report: Report

    def train(
        self, student: Student, connectors: Connectors, stage: Stage, best: BestFiles | None = None
    ) -> Generator[RungScore, None, StageRun]:
        """Run a stage, from where an earlier process left it, with a stop at each rung on the way.

        Of a student that is still to be pruned a rung is a place to go on from, and no score.
        """
        training = self._training(student, connectors, stage)
        if self.files.stage == stage.name:
            self.files.restore(training)
            self.report(f"goes on in {stage.name} at step {training.step} of {stage.steps}")
        settings = self.bench.assets.training
        for rung, epochs in enumerate(settings.rungs):
            at = epochs * self.bench.assets.steps_per_epoch - stage.first_step
            if not training.step < at <= stage.steps:
                continue
            training.run_to(at)
            if self.config.prune_ratio and stage.freeze_backbone:
                # Not pruned yet: this accuracy does not belong to the costs that are told.
                self.files.keep(training, time.monotonic() - self.started)
                continue
            score = self._score(student, rung, epochs, best)
            self.files.save(training, score)
            self.report(f"rung at epoch {epochs} of {settings.epochs}: mAP50 {score.map50:.4f}, {score.map50_95:.4f}")
            try:
                yield score
            except GeneratorExit:
                self.files.remove()
                if best is not None:
                    best.remove()
                (self.place.folder / "student.onnx").unlink()  # timed before training: no student of this run
                raise
        return training.run()

    def _training(self, student: Student, connectors: Connectors, stage: Stage) -> StageTraining:
        config, bench = self.config, self.bench
        bench.compute.place(student.model)
        bench.compute.place(connectors)
        return StageTraining(
            student,
            connectors,
            bench.feed(config.image_size),
            stage,
            lambda progress: temperature_at(progress, config),
            bench.compute,
            seed=bench.assets.training.seed + stage.first_step,
            should_stop=self.place.should_stop,
            teacher_share=lambda progress: teacher_share_at(progress, config),
        )

    def _score(self, student: Student, rung: int, epochs: int, best: BestFiles | None) -> RungScore:
        """The student as it is now, scored as at the end: a copy with its own BatchNorm statistics, exported, and kept if
        it is the best."""
        size, bench = self.config.image_size, self.bench
        copied = dataclasses.replace(student, model=copy.deepcopy(student.model))
        artifact = self.place.folder / "rung.onnx"
        accuracy = export_and_score(copied, size, artifact, bench)
        found = RungScore(
            trial=self.place.trial,
            rung=rung,
            epochs=epochs,
            fidelity=epochs / bench.assets.training.epochs,
            map50=accuracy.map50,
            map50_95=accuracy.map50_95,
            confidence=accuracy.confidence,
            seconds=time.monotonic() - self.started,
            **self.figures,
        )
        if best is not None:
            best.keep(found, artifact, lambda path, facts: save_weights(copied, path, facts))
        artifact.unlink(missing_ok=True)
        return found


def export_and_score(student: Student, size: int, artifact: Path, bench: Workbench) -> Accuracy:
    """Average the BatchNorm statistics of `student` anew (it changes), export it, and score what was exported."""
    recalibrate(student, bench.feed(size), bench.compute, light=True)
    write_onnx(student.model, size, artifact, bench.assets.device.batch)
    return score(OnnxDetector(artifact, bench.assets.threads), bench.validation(size))


def save_weights(student: Student, path: Path, facts: Mapping[str, str] | None = None) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"family": student.family, **(facts or {})})
