"""The peer: Ultralytics' own trainer with its own distillation (`distill_model=`), and checks that it does what was asked.

Ultralytics builds a model from a YAML description and copies weights by name, finds labels by replacing `images` in a
path, keeps a cache file beside them, and goes by file names that it knows. So it gets a description of the student, both
models as checkpoints with names of our own, and a folder of links to the images.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("YOLO_OFFLINE", "true")  # before ultralytics is imported: it must not look for a network
os.environ.setdefault("YOLO_VERBOSE", "false")

import torch
import yaml
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils import ROOT

from nasdistill.data.dataset import Dataset
from nasdistill.data.labels import label_text
from nasdistill.records import Scalar
from nasdistill.students.yolo import DESCRIPTIONS, MOST_CHANNELS

BATCH_SIZE = 16
SAME = 1e-4  # of the teacher's outputs: it is saved and read again, nothing else


@dataclass
class PeerRun:
    """What a training of the peer did, as seen from inside it."""

    steps: int = 0
    seconds: float = 0.0
    """From the first step to the end of the last, by the clock; setting up and the final validation are not in it."""
    image_shapes: set[tuple[int, ...]] = field(default_factory=set)
    """Shapes of the batches that the model was given (the last of an epoch may be smaller)."""
    distillation_losses: list[float] = field(default_factory=list)
    last: Path = Path()
    """The last checkpoint: its averaged weights are what is scored."""


def description_of(family: str, arch: Mapping[str, Scalar], classes: int) -> dict[str, Any]:
    """Ultralytics' description of a student of depth and width alone: its own YAML with other multipliers."""
    found = deepcopy(yaml_model_load(ROOT / "cfg/models" / DESCRIPTIONS[family]))
    scale = [float(arch["depth"]), float(arch["width"]), MOST_CHANNELS]
    return {**found, "nc": classes, "scales": {"n": scale}, "scale": "n", "channels": 3}


def as_ultralytics(
    student: nn.Module, family: str, arch: Mapping[str, Scalar], names: tuple[str, ...]
) -> DetectionModel:
    """The student as Ultralytics builds it itself, with the weights of `student`.

    Raises:
        ValueError: Ultralytics' model has other tensors, so it would be another student.
    """
    model = DetectionModel(description_of(family, arch, len(names)), verbose=False)
    mine, theirs = student.state_dict(), model.state_dict()
    if {name: tensor.shape for name, tensor in mine.items()} != {name: tensor.shape for name, tensor in theirs.items()}:
        raise ValueError(f"Ultralytics builds another student from its description of {family} {dict(arch)}")
    model.load_state_dict(mine)
    model.names = dict(enumerate(names))
    return model


def link_dataset(dataset: Dataset, folder: Path) -> Path:
    """A data.yaml in `folder` with links to the train and val images and their labels, written anew; its path."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        found = dataset.splits[split]
        for index, (image, boxes) in enumerate(zip(found.image_paths, found.boxes, strict=True)):
            name = f"{index:06d}"
            link = folder / "images" / split / f"{name}{image.suffix}"
            if not link.exists():
                link.symlink_to(image.resolve())
            (folder / "labels" / split / f"{name}.txt").write_text(label_text(boxes))
    path = folder / "data.yaml"
    splits = {"train": "images/train", "val": "images/val"}
    path.write_text(yaml.safe_dump({"path": str(folder), **splits, "names": dict(enumerate(dataset.names))}))
    return path


def training_options(size: int, seconds: float, seed: int, work: Path, batch: int = BATCH_SIZE) -> dict[str, Any]:
    """Ultralytics' own defaults for so many seconds by the clock, less what does not train: validation and plots.

    On a CPU no data-loading workers either, so that its cores train; on a GPU it has its eight, and mixed precision.
    """
    gpu = torch.cuda.is_available()
    return {
        "imgsz": size,
        "batch": batch,
        "time": seconds / 3600,
        "device": 0 if gpu else "cpu",
        "workers": 8 if gpu else 0,
        "seed": seed,
        "val": False,
        "plots": False,
        "amp": gpu,  # its default, which comes to this
        "project": str(work),
        "exist_ok": True,
        "verbose": False,
    }


@contextlib.contextmanager
def without_amp_check() -> Iterator[None]:
    """Mixed precision as Ultralytics would have it, without its check, which takes a model from the network."""
    with mock.patch("ultralytics.engine.trainer.check_amp", return_value=torch.cuda.is_available()):
        yield


def train_with_ultralytics(
    student: DetectionModel,
    teacher: nn.Module,
    data: Path,
    size: int,
    seconds: float,
    seed: int,
    work: Path,
) -> PeerRun:
    """Train `student` with Ultralytics' distillation for `seconds` by the clock, with its own defaults.

    Its defaults choose the optimiser, rates, warm-up, augmentation, averaging of weights, and the weight and form of the
    distillation loss. `training_options` says what is off. On a CPU it trains in float32, which is all it allows there.

    Raises:
        AssertionError: it started from other weights, another teacher or another batch or input size than it was given,
            or its distillation loss was not a positive number.
    """
    student_file, teacher_file = work / "student-start.pt", work / "peer-teacher.pt"
    torch.save({"model": deepcopy(student), "train_args": {}}, student_file)
    torch.save({"model": deepcopy(teacher), "train_args": {}}, teacher_file)
    run = PeerRun()
    began = 0.0

    def begin(trainer: Any) -> None:
        nonlocal began
        torch.set_num_threads(1)
        check_models(trainer.model, student, teacher, size)
        trainer.model.register_forward_pre_hook(
            lambda module, given: run.image_shapes.add(tuple(given[0]["img"].shape))
        )
        began = time.perf_counter()

    def count(trainer: Any) -> None:
        run.steps += 1
        run.distillation_losses.append(float(trainer.loss_items["dis_loss"]))
        run.seconds = time.perf_counter() - began

    model = YOLO(student_file)
    model.add_callback("on_train_start", begin)
    model.add_callback("on_train_batch_end", count)
    with without_amp_check():
        model.train(
            data=str(data),
            distill_model=str(teacher_file),
            name=f"peer-{seed}",
            **training_options(size, seconds, seed, work),
        )
    run.last = Path(model.trainer.last)
    _check_run(run, size)
    return run


def check_models(wrapped: nn.Module, student: nn.Module, teacher: nn.Module, size: int) -> None:
    """That Ultralytics' pair of models is `student` with its weights and `teacher` with its answers.

    Raises:
        AssertionError: it is not.
    """
    started = wrapped.student_model.state_dict()
    for name, tensor in student.state_dict().items():
        assert torch.equal(started[name].cpu(), tensor.float()), f"the peer starts from other weights: {name}"
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = deepcopy(wrapped.teacher_model).cpu()(images)[0]
        ours = deepcopy(teacher).cpu().eval()(images)[0]
    assert torch.allclose(theirs, ours, rtol=SAME, atol=SAME), "the peer's teacher answers differently from ours"
    assert not any(parameter.requires_grad for parameter in wrapped.teacher_model.parameters())


def _check_run(run: PeerRun, size: int) -> None:
    assert run.steps > 0, "the peer made no step in its time"
    assert {shape[1:] for shape in run.image_shapes} == {(3, size, size)}, f"the peer saw {run.image_shapes}"
    assert max(shape[0] for shape in run.image_shapes) == BATCH_SIZE, f"the peer's batches are {run.image_shapes}"
    assert all(loss > 0 for loss in run.distillation_losses), "the peer did not distil"


def scored_model(run: PeerRun) -> DetectionModel:
    """The trained student of a run, as Ultralytics reads its checkpoint."""
    model: DetectionModel = YOLO(str(run.last)).model.float().eval()
    return model
