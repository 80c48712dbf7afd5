"""Every kind of teacher teaches every family of students: other channels, heads, bins and class orders."""

import copy
import functools
from typing import get_args

import numpy as np
import pytest
import torch
from small import ARCHS, NAMES, SIZE, images_of, opinionated
from ultralytics.nn.tasks import DetectionModel

from nasdistill.distill.connectors import Connectors
from nasdistill.distill.objective import DistillationLoss, LossChoice, LossWeights
from nasdistill.records import FeatureLoss
from nasdistill.space.families import FAMILIES
from nasdistill.space.rules import OneOf, Real, Whole
from nasdistill.students.families import build_student
from nasdistill.students.student import dense_output
from nasdistill.teacher.encoding import TargetBatch
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.online import targets_of
from nasdistill.teacher.teacher import LEVELS, RawOutput, Teacher, match_classes, raw_output

TEACHERS = {"yolov5": "yolov5n.yaml", "yolov8": "yolov8n.yaml", "yolo11": "yolo11n.yaml", "yolo26": "yolo26n.yaml"}
SCRAMBLED = ("spur", "extra class", "open", "Copper", "pin-hole", "short", "mousebite")
"""The teacher's classes: in another order, one written otherwise, one that the data does not have."""


@functools.cache
def teacher_of(kind: str) -> Teacher:
    torch.manual_seed(0)
    model = DetectionModel(TEACHERS[kind], nc=len(SCRAMBLED), verbose=False)
    return Teacher(opinionated(model, contrast=0.3), SCRAMBLED, f"{kind}.pt", "", SIZE)


@pytest.fixture(scope="module", params=TEACHERS)
def teacher(request: pytest.FixtureRequest) -> Teacher:
    return teacher_of(request.param)


def smallest(family: str) -> dict:
    """A small architecture of a family: named for these tests, or the least of each parameter that a file must name."""
    if family in ARCHS:
        return ARCHS[family]
    if "width" in FAMILIES[family].parameters:  # the least that is allowed leaves some layers without channels
        return {"depth": 0.5, "width": 0.0625} if family.startswith("yolo") else {"width": 0.25, "neck": 16}

    def least(rule: object) -> object:
        if isinstance(rule, OneOf):
            return rule.names[0]
        assert isinstance(rule, Real | Whole)
        return rule.low

    return {name: least(FAMILIES[family].parameters[name].rule) for name in FAMILIES[family].required}


@functools.cache
def said_by(kind: str) -> RawOutput:
    teacher = teacher_of(kind)
    return teacher(images_of(size=SIZE), match_classes(teacher, NAMES, "data.yaml"))


def targets_from(kind: str, form: TargetForm) -> TargetBatch:
    labels = [np.zeros((0, 5), "f4")] * 2
    return targets_of(said_by(kind), teacher_of(kind), SIZE, SIZE, form, len(NAMES), labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pair_has_finite_losses_and_gradients(family: str) -> None:
    student = build_student(family, smallest(family), NAMES)
    labels = {
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[2.0], [4.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.3, 0.5]]),
    }
    output = student.model.train()(images_of(size=SIZE))
    weights = LossWeights(label=1.0, detections=1.0)
    for kind in TEACHERS:
        teacher = teacher_of(kind)
        bins = teacher.reg_max == student.head.reg_max > 1
        targets = targets_from(kind, TargetForm(bins=bins, spatial=True, detections=True, maps=True))
        assert targets.detections.scores_bd.max() > 0, f"{kind}: a teacher that sees nothing would prove nothing"
        connectors = Connectors(student.pyramid_channels[:LEVELS], teacher.neck_channels)
        for feature in ("cbam", "pkd"):
            choice = LossChoice(feature, "l1_giou_ld" if bins else "l1_giou")
            parts = DistillationLoss(student, connectors, choice)(output, targets, labels, weights, 2.0)
            assert set(parts) == {"feature", "cls", "box", "detections", "label", "total"}
            assert all(torch.isfinite(part) and part > 0 for part in parts.values()), (kind, parts)
        student.model.zero_grad(set_to_none=True)
        parts["total"].backward(retain_graph=True)
        for name, parameter in student.model.named_parameters():
            if parameter.requires_grad and ".dfl." not in name:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), (kind, name)


@pytest.mark.parametrize("family", ["yolov5", "yolo26"])
def test_students_with_more_levels_than_the_teacher(family: str) -> None:
    """Neck maps are compared where both have them, answers everywhere; P6 and P7 of the head learn from the teacher."""
    student = build_student(family, {**smallest(family), "levels": 5}, NAMES)
    teacher = teacher_of(family)
    bins = teacher.reg_max > 1
    targets = targets_from(family, TargetForm(bins=bins, spatial=True, detections=True, maps=True, levels=5))
    output, weights = student.model.train()(images_of(size=SIZE)), LossWeights(detections=1.0)
    for feature in get_args(FeatureLoss):
        connectors = Connectors(student.pyramid_channels, teacher.neck_channels, generators=feature == "mgd")
        choice = LossChoice(feature, "l1_giou_ld" if bins else "l1_giou")
        parts = DistillationLoss(student, connectors, choice)(output, targets, {}, weights, 2.0)
        assert set(parts) == {"feature", "cls", "box", "detections", "total"}
        assert all(torch.isfinite(part) and part > 0 for part in parts.values()), (feature, parts)
    parts["total"].backward()
    assert [level[-1].weight.grad.abs().sum() > 0 for level in student.head.cv3] == [True] * 5


def test_classes_are_the_data_s_whatever_the_teacher_s_order(teacher: Teacher) -> None:
    """A twin of the teacher whose class outputs were put into the data's order says the same."""
    order = match_classes(teacher, NAMES, "data.yaml")
    assert [SCRAMBLED[index].lower() for index in order] == list(NAMES)
    twin = copy.deepcopy(teacher.model)
    twin.model[-1].nc = len(order)
    heads = [twin.model[-1].cv3]
    if getattr(twin.model[-1], "one2one_cv3", None) is not None:
        heads.append(twin.model[-1].one2one_cv3)
    for branch in (branch for head in heads for branch in head):
        branch[-1].weight = torch.nn.Parameter(branch[-1].weight[order])
        branch[-1].bias = torch.nn.Parameter(branch[-1].bias[order])
    with torch.no_grad():
        output = twin.eval()(images_of(size=SIZE))[1]
    expected = raw_output(dense_output(output), teacher.reg_max)
    found = teacher(images_of(size=SIZE), order)
    assert torch.allclose(found.logits_bac[..., : len(NAMES)], expected.logits_bac[..., : len(NAMES)], atol=1e-5)
    assert torch.equal(found.distances_ba4, expected.distances_ba4)
