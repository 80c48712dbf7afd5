"""A teacher trained further on the labels of its own data, by the trainer that students have: one that stays above them.

    python -m benchmarks.strengthen_teacher --data ../shared/data/deeppcb/data.yaml \
        --teacher ../shared/weights/pcb_teacher.pt --minutes 35 --to teacher.pt

It starts from its own weights with everything free: `short`'s optimiser and learning rate of a student that keeps all of the
teacher's channels, many views of each image, light ones at the end. Time is the clock's. It becomes an ordinary checkpoint,
which `nasdistill search --teacher` reads, and is scored as students are: exported at a fixed size, on the val split.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks._losses import LABELS
from benchmarks._training import MOST_VIEWS, Setting, open_setting
from nasdistill.config import SHORT, TrainingSettings
from nasdistill.distill.batchnorm import recalibrate
from nasdistill.distill.compute import choose_compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.stage import Stage, StageTraining
from nasdistill.errors import InputError
from nasdistill.measure.accuracy import Accuracy, score
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.detector import OnnxDetector
from nasdistill.prepare.inputs import cache_folder
from nasdistill.prepare.length import step_seconds
from nasdistill.store.atomic import replacing
from nasdistill.students.student import Student, dress
from nasdistill.workbench import Workbench

REPORTS = 20


def trainable(setting: Setting) -> Student:
    """A copy of the teacher in the place of a student.

    Raises:
        InputError: it names its classes in another order than the data set.
    """
    names = setting.inputs.dataset.names
    if setting.inputs.teacher.names != tuple(names):
        raise InputError(f"the teacher's classes are {setting.inputs.teacher.names}, the data set's {tuple(names)}")
    model = copy.deepcopy(setting.inputs.teacher.model).requires_grad_(True)
    return Student(dress(model, names), "teacher", backbone_layers=0)


def train(setting: Setting, seconds: float) -> tuple[Student, int]:
    """Train for as many steps as fit in `seconds`; the student that the teacher has become, and the steps."""
    recipe, channels = setting.training.recipe.from_teacher(1.0), setting.inputs.teacher.neck_channels
    feed, compute = setting.feed(with_targets=False), choose_compute(setting.training.precision)
    steps = max(1, int(seconds / step_seconds(trainable(setting), channels, feed, compute, recipe)))
    stage = Stage(
        "everything free",
        steps,
        recipe.stage2_learning_rate,
        LABELS.weights,
        freeze_backbone=False,
        first_step=0,
        all_steps=steps,
        batch_size=recipe.batch_size,
        optimizer=recipe.optimizer,
        closing_steps=round(steps * recipe.closing_share),
    )
    student = trainable(setting)
    torch.manual_seed(setting.training.seed)
    connectors = Connectors(student.pyramid_channels, channels)
    compute.place(student.model)
    compute.place(connectors)
    training = StageTraining(student, connectors, feed, stage, lambda _: 1.0, compute, seed=setting.training.seed)
    started = time.monotonic()
    for share in range(1, REPORTS + 1):
        parts = training.run_to(round(steps * share / REPORTS)).losses
        print(f"step {training.step} of {steps}, {time.monotonic() - started:.0f} s {parts or ''}", flush=True)
    recalibrate(student, feed, compute, light=True)
    return student, steps


def scored(setting: Setting, student: Student, folder: Path) -> Accuracy:
    """As an artifact of the teacher's size, on the val split."""
    size = setting.pools[0].image_size
    write_onnx(student.model, size, folder / "teacher.onnx", 1)
    bench = Workbench(dataclasses.replace(setting.assets({}, setting.training), threads=torch.get_num_threads()))
    return score(OnnxDetector(folder / "teacher.onnx", torch.get_num_threads()), bench.validation(size))


def main(argv: Sequence[str] | None = None) -> None:
    """Train, keep the checkpoint, and print what it is worth as one JSON line."""
    parser = argparse.ArgumentParser(description="Train a teacher further, on labels.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=256, help="[default: 256]")
    parser.add_argument("--minutes", type=float, default=35.0, help="of training [default: 35]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--views-per-image", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16, help="images a step [default: 16]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, required=True, help="where the checkpoint goes (.pt)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    training = TrainingSettings(
        recipe=SHORT.model_copy(update={"batch_size": options.batch}),
        views_per_image=options.views_per_image,
        max_views=MOST_VIEWS,
        seed=options.seed,
    )
    size = [options.image_size]
    setting = open_setting(options.data, options.teacher, cache_folder(), training, size, form=None)
    with tempfile.TemporaryDirectory() as folder:
        before = scored(setting, trainable(setting), Path(folder))
        student, steps = train(setting, 60 * options.minutes)
        after = scored(setting, student, Path(folder))
    with replacing(options.to) as temporary:
        torch.save({"model": student.model, "train_args": {"imgsz": options.image_size}}, temporary)
    facts = {"steps": steps, "minutes": options.minutes, "views_per_image": options.views_per_image}
    told = {"before": before.map50_95, "after": after.map50_95, "map50": after.map50}
    print(json.dumps({"checkpoint": str(options.to), **facts, **told}))


if __name__ == "__main__":
    main()
