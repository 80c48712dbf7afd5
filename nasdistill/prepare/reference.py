"""The teacher's own figures, measured as a student's are: exported, scored at a fixed size, timed on the device."""

import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from nasdistill.data.views import open_views
from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import open_profiler
from nasdistill.measure.accuracy import Accuracy, mean_average_precision
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.costs import costs_of
from nasdistill.measure.detector import CONFIDENCE, MAX_DETECTIONS, NMS_IOU, Detections, OnnxDetector
from nasdistill.prepare.pools import PoolPlan, hash_of
from nasdistill.store.atomic import write_text
from nasdistill.tasks import Report, Task
from nasdistill.teacher.teacher import Teacher

_VERSION = 1  # raise it when the same teacher would score otherwise on the same images
BATCH = 8
FEWEST_IMAGES = 8  # a worker's: opening a session takes as long as some
BYTES_A_PARAMETER = 16  # float32 weights, as many again while ONNX Runtime optimises, and room for the maps


@dataclass(frozen=True)
class TeacherFigures:
    """The teacher as a point beside the front: mAP 0..1 on the validation split, and its costs by name."""

    name: str
    sha256: str
    image_size: int
    map50: float
    map50_95: float
    costs: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `run.json`, the costs among them."""
        facts = asdict(self)
        costs: dict[str, float] = facts.pop("costs")
        return facts | costs


def measure_teacher(
    teacher: Teacher,
    class_order: Sequence[int],
    pool: PoolPlan,
    devices: Sequence[DeviceProfile],
    folder: Path,
    workers: int,
    run: Callable[[str, Sequence[Task[Any]]], list[Any]],
    cache: Path | None = None,
) -> TeacherFigures:
    """Export the teacher at the pool's size into `folder`, time it alone, then score it with all workers.

    `devices` begin with the main one; `run` runs tasks under a heading and returns what they return. The exported file
    is gone afterwards. What a teacher scores on these images is kept in `cache`, where there is one: it takes minutes of a
    large one.
    """
    artifact = folder / "teacher.onnx"
    try:
        costs: Mapping[str, float] = run(
            "timing the exported teacher",
            [functools.partial(_export_and_time, teacher, pool.image_size, tuple(devices), artifact)],
        )[0]
        order = tuple(class_order)
        known = None if cache is None else _known_file(cache, teacher, order, pool)
        accuracy = _known(known)
        if accuracy is None:
            shares = [
                functools.partial(_detect, artifact, pool.folders.validation, order, part)
                for part in _shares(len(pool.validation), workers, teacher.parameters_m)
            ]
            found: list[Detections] = sum(run("scoring the teacher", shares), [])
            views = open_views(pool.folders.validation)
            accuracy = mean_average_precision(
                found, [views.boxes(index) for index in range(len(views))], pool.image_size
            )
            if known is not None:
                write_text(known, json.dumps(asdict(accuracy)) + "\n")
    finally:
        artifact.unlink(missing_ok=True)
    return TeacherFigures(
        name=teacher.name,
        sha256=teacher.sha256,
        image_size=pool.image_size,
        map50=accuracy.map50,
        map50_95=accuracy.map50_95,
        costs=costs,
    )


def _known_file(cache: Path, teacher: Teacher, order: tuple[int, ...], pool: PoolPlan) -> Path:
    """Where the accuracy of this teacher on these images is kept, named by all that it depends on."""
    # the folder of the images is named by their content and size
    facts = [_VERSION, teacher.sha256, order, pool.folders.validation.name, CONFIDENCE, NMS_IOU, MAX_DETECTIONS]
    return cache / "teachers" / f"{hash_of(facts)[:20]}.json"


def _known(file: Path | None) -> Accuracy | None:
    if file is None:
        return None
    try:
        found = Accuracy(**json.loads(file.read_text(encoding="utf-8")))
        sound = all(0.0 <= value <= 1.0 for value in asdict(found).values())
    except (OSError, ValueError, TypeError):
        return None
    return found if sound else None


def _shares(images: int, workers: int, parameters_m: float) -> list[range]:
    """Consecutive parts of the images, at most one a worker, and no more than the memory holds teachers."""
    room = int(psutil.virtual_memory().available / (BYTES_A_PARAMETER * 1e6 * parameters_m))
    count = max(1, min(workers, room, images // FEWEST_IMAGES))
    edges = [images * part // count for part in range(count + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def _export_and_time(
    teacher: Teacher, size: int, devices: tuple[DeviceProfile, ...], artifact: Path, report: Report
) -> dict[str, float]:
    torch.set_num_threads(1)
    write_onnx(teacher.model, size, artifact, devices[0].batch)
    report("0.5")
    # a device that takes one size alone is meant for students: the teacher is timed at the size it looks at
    profilers = [open_profiler(device.model_copy(update={"image_size": None})) for device in devices]
    further = {device.name: profiler for device, profiler in zip(devices[1:], profilers[1:], strict=True)}
    return dict(costs_of(teacher.model, artifact, size, profilers[0], further).figures)


def _detect(
    artifact: Path, validation: Path, class_order: tuple[int, ...], part: range, report: Report
) -> list[Detections]:
    torch.set_num_threads(1)
    detector, views = OnnxDetector(artifact), open_views(validation)
    found: list[Detections] = []
    for start in part[::BATCH]:
        stop = min(start + BATCH, part.stop)
        found += detector.detect_views(views.images[start:stop], classes=class_order)
        report(f"{len(found) / len(part):.3f}")
    return found
