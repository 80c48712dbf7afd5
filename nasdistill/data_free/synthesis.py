"""A data set made of a teacher alone: synthesised images with the teacher's own detections as labels, in the cache.

A folder `<key>/<split>/<batch>/{images,labels}` holds what one batch made; it is built beside and renamed, so a killed
process loses the batch it was at and nothing else. `data-<train>-<val>.yaml` names the batches of a data set of that many;
a larger one later goes on from there.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from filelock import FileLock
from torch import Tensor

from nasdistill.data.labels import LabelForm, label_text, read_labels
from nasdistill.data_free.inversion import Inversion, InversionSettings
from nasdistill.data_free.layouts import draw_layouts
from nasdistill.errors import InputError
from nasdistill.store.arrays import check_space
from nasdistill.store.atomic import write_text
from nasdistill.teacher.detections import SURE, final_detections
from nasdistill.teacher.teacher import Teacher, class_names

VERSION = 2  # raise it when the same arguments would give other images
STREAMS = {"train": 0, "val": 1}  # seeds of different splits never give the same image
MOST_OBJECTS = 100  # of an image that become labels
Report = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What is to be made: for which teacher, of which size, how, from which seed."""

    teacher: Teacher
    size: int
    seed: int
    settings: InversionSettings
    device: torch.device
    autocast: torch.dtype | None

    @property
    def key(self) -> str:
        """sha256 (hex) of all that the images depend on; how many there are is none of it."""
        facts = [VERSION, self.teacher.sha256, self.size, self.seed, self.settings.model_dump(), str(self.autocast)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """The data set's class names."""
        return class_names(self.teacher)

    def folder(self, cache: Path) -> Path:
        """Where the images lie."""
        return cache / "synthetic" / self.key[:20]

    def batches_there(self, cache: Path, batches: tuple[int, int]) -> int:
        """How many of so many batches of `train` and `val` have been made already."""
        numbered = ((split, batch) for split, count in zip(STREAMS, batches, strict=True) for batch in range(count))
        return sum(_batch_folder(self.folder(cache), split, batch).is_dir() for split, batch in numbered)


def synthesise(
    what: Synthesis,
    cache: Path,
    train_batches: int,
    val_batches: int,
    deadline: float | None = None,
    on_progress: Report = lambda share: None,
) -> tuple[Path, int, int]:
    """Make what is not there yet; returns the data.yaml and the batches of `train` and `val` that it names.

    The validation batches come first. After `deadline` (`time.monotonic()` seconds) no training batch is begun, but there
    is at least one. Safe when two processes ask for the same.

    Raises:
        InputError: the teacher has no BatchNorm layers, sees nothing in its own images, or the disk is too small.
    """
    folder = what.folder(cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    inversion = Inversion(what.teacher, what.settings, what.device, what.autocast)
    with FileLock(folder.with_name(folder.name + ".lock")):
        folder.mkdir(exist_ok=True)
        total, done = train_batches + val_batches, 0
        left = total - what.batches_there(cache, (train_batches, val_batches))
        check_space(folder, left * what.settings.batch_size * what.size**2 * 3, "synthesised images")
        made = {"train": 0, "val": 0}
        for split, count in (("val", val_batches), ("train", train_batches)):
            for batch in range(count):
                if not _batch_folder(folder, split, batch).is_dir():
                    if split == "train" and batch and deadline is not None and time.monotonic() >= deadline:
                        break
                    begun = done / total
                    _make_batch(what, inversion, folder, split, batch, lambda part: on_progress(begun + part / total))  # noqa: B023
                made[split] += 1
                done += 1
                on_progress(done / total)
        for split, count in made.items():
            if not len(known_sizes(folder, split, count, len(what.names))):
                raise InputError(
                    f"--data none: the teacher {what.teacher.name} sees no object in {count * what.settings.batch_size} "
                    f"images synthesised from it ({split}); give images with --data"
                )
        return _write_yaml(what, folder, made), made["train"], made["val"]


def known_sizes(folder: Path, split: str, batches: int, classes: int) -> np.ndarray:
    """Widths and heights (k, 2), in 0..1, of what the teacher has seen in the first `batches` batches of a split."""
    rows = [np.zeros((0, 5), np.float32)]
    for batch in range(batches):
        for file in sorted((_batch_folder(folder, split, batch) / "labels").iterdir()):
            rows.append(read_labels(file, LabelForm(classes))[0])
    return np.concatenate(rows)[:, 3:]


def _make_batch(
    what: Synthesis, inversion: Inversion, folder: Path, split: str, batch: int, on_progress: Report
) -> None:
    teacher, count, steps = what.teacher, what.settings.batch_size, what.settings.steps
    rng = np.random.default_rng([what.seed, STREAMS[split], batch])
    layouts = draw_layouts(count, teacher.classes, rng, known_sizes(folder, split, batch, teacher.classes))
    seed = int(rng.integers(2**62))
    images = inversion(layouts, count, what.size, seed, lambda step: on_progress(step / steps))
    labels = pseudo_labels(teacher, images, what.device, what.autocast)
    write_batch(_batch_folder(folder, split, batch), images, labels, first=batch * count)


def write_batch(folder: Path, images_bchw: Tensor, labels: Sequence[np.ndarray], first: int = 0) -> None:
    """Write images (b, 3, s, s) uint8 and their labels, as from `pseudo_labels`, to `folder`, which appears once complete.

    They are numbered from `first` on.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    for kind in ("images", "labels"):
        (building / kind).mkdir(parents=True)
    try:
        for index, (image, rows) in enumerate(zip(images_bchw, labels, strict=True), first):
            _write_png(building / "images" / f"{index:06d}.png", image)
            (building / "labels" / f"{index:06d}.txt").write_text(label_text(rows), encoding="utf-8")
        os.replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


@torch.no_grad()
def pseudo_labels(
    teacher: Teacher, images_bchw: Tensor, device: torch.device, autocast: torch.dtype | None
) -> list[np.ndarray]:
    """The teacher's final detections (scores from 0.25 on) in images (b, 3, s, s) uint8, as labels.

    For each image (k, 5) float32: class, centre x, y, width, height in 0..1.
    """
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        raw = teacher(images_bchw.to(device).float().div_(255.0), range(teacher.classes))
    size = images_bchw.shape[-1]
    found = final_detections(raw.logits_bac, raw.distances_ba4, teacher.strides, size, MOST_OBJECTS)
    labels = []
    for image in range(len(images_bchw)):
        sure = found.scores_bd[image] >= SURE
        rows = torch.cat([found.classes_bd[image, sure, None].float(), found.boxes_bd4[image, sure]], dim=1)
        labels.append(rows.cpu().numpy())
    return labels


def check_names(names: Sequence[str], teacher: str) -> None:
    """Say now what a data set made of this teacher could not be called.

    Raises:
        InputError: a class name is empty or there twice.
    """
    wrong = [name for index, name in enumerate(names) if not name.strip() or name in names[:index]]
    if wrong:
        raise InputError(f"--data none: the teacher {teacher} has the class name {wrong[0]!r} twice, or empty")


def _batch_folder(folder: Path, split: str, batch: int) -> Path:
    return folder / split / f"{batch:04d}"


def _write_png(path: Path, image_chw: Tensor) -> None:
    bgr = np.ascontiguousarray(image_chw.numpy()[::-1].transpose(1, 2, 0))
    encoded, png = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert encoded
    path.write_bytes(png.tobytes())


def _write_yaml(what: Synthesis, folder: Path, made: dict[str, int]) -> Path:
    path = folder / f"data-{made['train']}-{made['val']}.yaml"
    content: dict[str, object] = {
        split: [f"{split}/{batch:04d}/images" for batch in range(count)] for split, count in made.items()
    }
    content["names"] = list(what.names)
    text = "# synthesised from a teacher alone; labels are its own detections; paths are relative to this file\n"
    with contextlib.suppress(OSError):
        if path.read_text(encoding="utf-8").startswith(text):
            return path
    write_text(path, text + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path
