"""The teacher's own figures."""

from pathlib import Path

import pytest

from nasdistill.config import TrainingSettings
from nasdistill.prepare import reference
from nasdistill.prepare.inputs import Inputs
from nasdistill.prepare.pools import plan_pools, view_tasks
from nasdistill.prepare.reference import measure_teacher


def test_several_workers_find_what_one_does(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FEWEST_IMAGES", 1)
    plans = plan_pools(inputs, TrainingSettings(views_per_image=1, max_views=4), tmp_path / "cache")
    own = next(plan for plan in plans if plan.image_size == inputs.teacher_size)
    for task in view_tasks([own], inputs.dataset.names, 0, workers=4):
        task(lambda text: None)
    headings: dict[str, int] = {}

    def run(text: str, tasks: list) -> list:
        headings[text] = len(tasks)
        return [task(lambda done: None) for task in tasks]

    found = [
        measure_teacher(inputs.teacher, inputs.class_order, own, inputs.devices, tmp_path, workers, run)
        for workers in (1, 3)
    ]
    assert headings == {"timing the exported teacher": 1, "scoring the teacher": 3}
    assert (found[0].map50, found[0].map50_95) == (found[1].map50, found[1].map50_95)
    assert found[0].costs["latency_ms"] > 0
    assert not list(tmp_path.glob("*.onnx"))
    for _ in range(2):  # kept, and found again
        headings.clear()
        found.append(
            measure_teacher(
                inputs.teacher, inputs.class_order, own, inputs.devices, tmp_path, 1, run, tmp_path / "cache"
            )
        )
    assert headings == {"timing the exported teacher": 1} and found[3].map50_95 == found[0].map50_95
    (kept,) = (tmp_path / "cache" / "teachers").iterdir()
    kept.write_text(kept.read_text()[:-5])
    measure_teacher(inputs.teacher, inputs.class_order, own, inputs.devices, tmp_path, 1, run, tmp_path / "cache")
    assert "scoring the teacher" in headings


def test_a_device_for_one_size_of_students_times_the_teacher_at_its_own(inputs: Inputs, tmp_path: Path) -> None:
    device = inputs.device.model_copy(update={"image_size": 64})
    costs = reference._export_and_time(inputs.teacher, 96, (device,), tmp_path / "teacher.onnx", lambda text: None)
    assert costs["latency_ms"] > 0


def test_shares_are_all_images_once_and_fit_the_memory() -> None:
    for images, workers in ((148, 16), (148, 2), (7, 4), (1, 1)):
        parts = reference._shares(images, workers, 1.0)
        assert [index for part in parts for index in part] == list(range(images))
        assert len(parts) <= workers and min(map(len, parts)) >= min(images, reference.FEWEST_IMAGES)
    assert len(reference._shares(148, 16, 1e6)) == 1  # no machine holds two such teachers
