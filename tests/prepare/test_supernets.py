"""What a supernet is cut from: a teacher that may know more classes than the data, in another order."""

import copy

import pytest
import torch
from small import NAMES, SIZE, images_of, opinionated
from ultralytics.nn.tasks import DetectionModel

from nasdistill.prepare.families import in_data_order
from nasdistill.students.families import build_student
from nasdistill.students.slicing import transplant
from nasdistill.students.student import dense_output

MORE = ("person", *reversed(NAMES), "dog")
ORDER = [MORE.index(name) for name in NAMES]


@pytest.mark.parametrize("family", ["yolov5", "yolov8", "yolo11", "yolo26"])
def test_a_student_cut_from_a_teacher_of_more_classes_says_what_the_teacher_says(family: str) -> None:
    arch = {"depth": 0.33 if family in ("yolov5", "yolov8") else 0.5, "width": 0.25}
    teacher = opinionated(DetectionModel(f"{family}n.yaml", nc=len(MORE), verbose=False))
    student = build_student(family, arch, NAMES)
    whole = copy.deepcopy(teacher)
    assert transplant(in_data_order(teacher, ORDER), student.model) == pytest.approx(1.0, abs=1e-4)
    images = images_of(count=1, size=SIZE)
    with torch.no_grad():
        said, expected = student.model.train()(images), whole.train()(images)
    branches = said if "one2many" in said else {"only": said}
    for name, branch in branches.items():
        of_teacher = expected.get(name, expected)
        torch.testing.assert_close(branch["scores"], of_teacher["scores"][:, ORDER])
        torch.testing.assert_close(branch["boxes"], of_teacher["boxes"])
    assert dense_output(said)["scores"].shape[1] == len(NAMES)
