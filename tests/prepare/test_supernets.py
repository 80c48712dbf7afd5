"""What trials start from: slices of a teacher, which may know more classes than the data, and what is warmed for how long."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import NAMES, SIZE, images_of, opinionated
from ultralytics.nn.tasks import DetectionModel

from nasdistill.config import TrainingSettings
from nasdistill.data.views import open_views
from nasdistill.prepare.families import WarmPlan, in_data_order, plan_warming, warm_tasks
from nasdistill.prepare.inputs import Inputs, lineages
from nasdistill.prepare.pools import plan_pools, view_tasks
from nasdistill.space.parse import parse_space
from nasdistill.students.families import build_student
from nasdistill.students.importance import sorted_by_importance
from nasdistill.students.refit import Answers, views_to_ask
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


def plans_for(inputs: Inputs, space: str, folder: Path, core_seconds: float = 120.0) -> list[WarmPlan]:
    parsed = parse_space(space, "a.yaml")
    inputs = dataclasses.replace(inputs, space=parsed, lineages=tuple(lineages(parsed, NAMES)))
    training = TrainingSettings(max_views=64)
    pools = plan_pools(inputs, training, folder)
    return plan_warming(inputs.lineages, NAMES, inputs.teacher, pools, training, core_seconds, 2, folder)


def test_the_ends_of_a_continuous_range_are_exact() -> None:
    """A sum of steps ends beside 1.5 and 0.5: outside the range, or a whole step of channels wider."""
    text = "name: a\nfamilies: {yolov5: {depth: 0.33, width: {range: [%s]}}}\nimage_size: 64\n"
    for low, high in ((0.15, 1.5), (0.1, 0.5), (0.2, 1.0)):
        (line,) = lineages(parse_space(text % f"{low}, {high}", "a.yaml"), NAMES)
        widths = [arch["width"] for arch in line.archs]
        assert (min(widths), max(widths)) == (low, high)


def test_what_is_cut_from_the_teacher_is_not_warmed(inputs: Inputs, tmp_path: Path) -> None:
    families = "yolov5: {depth: 0.33, width: [0.0625, 0.125]}, mobilenetv3: {variant: [small_050, small_100], neck: 32}"
    space = f"name: a\nfamilies: {{{families}}}\nimage_size: 64\n"
    cut, warmed = sorted(plans_for(inputs, space, tmp_path), key=lambda plan: plan.seconds)
    assert (cut.lineage.family, cut.seconds, cut.supernet.origin) == ("yolov5", 0.0, "teacher-slices")
    # a fifth of the trials are likely to be its own: what is cut from the teacher counts for four
    assert (warmed.lineage.family, warmed.supernet.origin) == ("mobilenetv3", "warmed")
    assert (warmed.seconds, warmed.threads) == (12.0, 2)  # the only one to warm: both workers' cores are its own


def test_a_supernet_without_warming_is_the_teachers_slices(inputs: Inputs, tmp_path: Path) -> None:
    (plan,) = plans_for(inputs, "name: a\nfamilies: {yolov5: {depth: 0.33, width: 0.0625}}\nimage_size: 64\n", tmp_path)
    (task,) = warm_tasks([plan], NAMES, inputs.teacher, inputs.class_order, (), TrainingSettings(), tmp_path / "stop")
    assert task(lambda text: None).steps == 0
    assert not warm_tasks([plan], NAMES, inputs.teacher, inputs.class_order, (), TrainingSettings(), tmp_path / "stop")
    expected = build_student("yolov5", plan.lineage.largest, NAMES, seed=0)
    transplant(in_data_order(sorted_by_importance(inputs.teacher.model), inputs.class_order), expected.model)
    found = load_file(plan.path)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.model.state_dict().items())


def test_the_teacher_is_asked_once_for_each_size(inputs: Inputs, tmp_path: Path) -> None:
    space = parse_space(
        "name: a\nfamilies: {yolov5: {depth: 0.33, width: [0.0625, 0.125]}}\nimage_size: [64, 96]\n", "a.yaml"
    )
    inputs = dataclasses.replace(inputs, space=space, image_sizes=(64, 96), lineages=tuple(lineages(space, NAMES)))
    training = TrainingSettings(max_views=64)
    pools = [pool for pool in plan_pools(inputs, training, tmp_path) if pool.image_size in inputs.image_sizes]
    for task in view_tasks(pools, NAMES, 0):
        task(lambda text: None)
    (plan,) = plan_warming(inputs.lineages, NAMES, inputs.teacher, pools, training, 10.0, 2, tmp_path)
    for task in warm_tasks([plan], NAMES, inputs.teacher, inputs.class_order, pools, training, tmp_path / "stop"):
        task(lambda text: None)
    assert set(plan.answers) == {64, 96} and plan.supernet.answers == plan.answers
    for pool in pools:
        answers = Answers.of_tensors(load_file(plan.answers[pool.image_size]))
        shown = views_to_ask(len(open_views(pool.folders.views)), pool.image_size)
        widest = build_student("yolov5", {"depth": 0.33, "width": 0.125}, NAMES).model
        layers = dict(widest.named_modules())
        assert len(answers.said) > 70
        for name, said in answers.said.items():
            assert said.shape[0] == len(shown) and said.shape[2] == layers[name].out_channels
