"""The teacher's own figures, measured as a student's are: exported, scored at a fixed size, timed on the device."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nasdistill.data.views import open_views
from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import open_profiler
from nasdistill.measure.accuracy import mean_average_precision
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.costs import costs_of
from nasdistill.measure.detector import Detections, OnnxDetector
from nasdistill.prepare.pools import PoolPlan
from nasdistill.teacher.teacher import Teacher

Report = Callable[[str], None]


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
        return {**facts, **facts.pop("costs")}


def teacher_task(
    teacher: Teacher, class_order: Sequence[int], pool: PoolPlan, devices: Sequence[DeviceProfile], folder: Path
) -> Callable:
    """Work that exports, scores and times the teacher at the pool's size; `devices` begin with the main one."""
    return functools.partial(_measure, teacher, tuple(class_order), pool, tuple(devices), folder)


def _measure(
    teacher: Teacher,
    class_order: tuple[int, ...],
    pool: PoolPlan,
    devices: tuple[DeviceProfile, ...],
    folder: Path,
    report: Report,
) -> TeacherFigures:
    torch.set_num_threads(1)
    artifact = folder / "teacher.onnx"
    write_onnx(teacher.model, pool.image_size, artifact, devices[0].batch)
    detector, views = OnnxDetector(artifact), open_views(pool.folders.validation)
    to_data = {teacher_class: data_class for data_class, teacher_class in enumerate(class_order)}
    found: list[Detections] = []
    for start in range(0, len(views), 16):
        for detections in detector.detect_views(views.images[start : start + 16]):
            found.append(_in_data_classes(detections, to_data))
        report(f"{min(1.0, (start + 16) / len(views)):.3f}")
    accuracy = mean_average_precision(found, [views.boxes(index) for index in range(len(views))], pool.image_size)
    profilers = [open_profiler(device) for device in devices]
    further = {device.name: profiler for device, profiler in zip(devices[1:], profilers[1:], strict=True)}
    costs = costs_of(teacher.model, artifact, pool.image_size, profilers[0], further)
    artifact.unlink()
    return TeacherFigures(
        name=teacher.name,
        sha256=teacher.sha256,
        image_size=pool.image_size,
        map50=accuracy.map50,
        map50_95=accuracy.map50_95,
        costs=costs.figures,
    )


def _in_data_classes(detections: Detections, to_data: dict[int, int]) -> Detections:
    """Detections in the data's class order; what the data has no class for is left out."""
    kept = [index for index, found in enumerate(detections.classes) if int(found) in to_data]
    classes = [to_data[int(detections.classes[index])] for index in kept]
    return Detections(
        detections.boxes_xyxy[kept], detections.scores[kept], torch.tensor(classes, dtype=torch.int64).numpy()
    )
