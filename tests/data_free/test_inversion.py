"""Images that a teacher takes for its own."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from small import NAMES, opinionated, small_teacher
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou
from zoo import yaml_student

from nasdistill.data_free.inversion import Inversion, InversionSettings, cosine, starting_noise
from nasdistill.data_free.layouts import Layouts, draw_layouts
from nasdistill.data_free.synthesis import pseudo_labels
from nasdistill.errors import InputError
from nasdistill.prepare.inputs import DEMO_TEACHER
from nasdistill.teacher.teacher import Teacher, load_teacher

CPU = torch.device("cpu")
QUICK = InversionSettings(steps=3, learning_rate=0.05, batch_size=2)


def seen(labels: Sequence[np.ndarray], layouts: Layouts) -> int:
    """How many of the objects asked for are among the labels: class and place, IoU from 0.5 on."""
    found = 0
    for image, kind, box in zip(layouts.image_n, layouts.classes_n, layouts.boxes_n4, strict=True):
        rows = torch.from_numpy(labels[int(image)])
        rows = rows[rows[:, 0] == kind]
        overlap = box_iou(box_convert(box[None], "cxcywh", "xyxy"), box_convert(rows[:, 1:], "cxcywh", "xyxy"))
        found += bool((overlap >= 0.5).any())
    return found


def as_floats(images: Tensor) -> Tensor:
    return images.float() / 255


def test_the_demo_teacher_sees_what_was_asked_for_and_nothing_in_noise() -> None:
    teacher = load_teacher(DEMO_TEACHER)
    size = 128
    layouts = draw_layouts(2, teacher.classes, np.random.default_rng(0), np.array([[0.12, 0.12]]))
    small = (layouts.boxes_n4[:, 2:] < 0.2).all(dim=1)  # what this teacher was trained on
    layouts = Layouts(layouts.image_n[small], layouts.classes_n[small], layouts.boxes_n4[small])
    inversion = Inversion(teacher, InversionSettings(steps=25, batch_size=2), CPU, None)
    noise = (starting_noise(2, size, torch.Generator().manual_seed(0)) * 255).round().to(torch.uint8)
    images = inversion(layouts, 2, size, seed=0)
    assert images.shape == (2, 3, size, size) and images.dtype == torch.uint8
    assert seen(pseudo_labels(teacher, noise, CPU, None), layouts) == 0
    assert seen(pseudo_labels(teacher, images, CPU, None), layouts) >= len(layouts) / 3


def test_the_statistics_come_closer_to_those_of_training() -> None:
    teacher = small_teacher()
    settings = InversionSettings(steps=8, learning_rate=0.05, batch_size=2, detection=0.0, variation=0.0, shift=0)
    inversion, layouts = Inversion(teacher, settings, CPU, None), draw_layouts(2, 6, np.random.default_rng(0))
    noise = starting_noise(2, 64, torch.Generator().manual_seed(0))
    images = inversion(layouts, 2, 64, seed=0)
    with torch.no_grad():
        before, after = (inversion.losses(batch, layouts)["statistics"] for batch in (noise, as_floats(images)))
    assert after < 0.7 * before


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_teacher_as_it_was() -> None:
    teacher = small_teacher()
    before = copy.deepcopy(teacher.model.state_dict())
    layouts = draw_layouts(2, 6, np.random.default_rng(0))
    first = Inversion(teacher, QUICK, CPU, None)(layouts, 2, 64, seed=3)
    again = Inversion(teacher, QUICK, CPU, None)(layouts, 2, 64, seed=3)
    other = Inversion(teacher, QUICK, CPU, None)(layouts, 2, 64, seed=4)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(torch.equal(value, before[name]) for name, value in teacher.model.state_dict().items())
    assert not teacher.model.training


@pytest.mark.parametrize("family", ["yolov5", "yolov8", "yolo11", "yolo26"])
def test_every_kind_of_head_can_be_inverted(family: str) -> None:
    model = opinionated(yaml_student(family, 0.33, 0.125).model)
    teacher = Teacher(model, NAMES, f"{family}.pt", "0" * 64, 64)
    inversion, layouts = Inversion(teacher, QUICK, CPU, None), draw_layouts(2, 6, np.random.default_rng(0))
    start = starting_noise(2, 64, torch.Generator().manual_seed(0)).requires_grad_()
    for part in ("detection", "statistics"):
        (gradient,) = torch.autograd.grad(inversion.losses(start, layouts)[part], start)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0, f"the pixels hear of {part}"


def test_a_fused_teacher_is_refused_in_one_line() -> None:
    teacher = small_teacher()
    for parent in list(teacher.model.modules()):
        for name, module in parent.named_children():
            if isinstance(module, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    with pytest.raises(InputError, match=r"--data none: the teacher small\.pt has no BatchNorm layers"):
        Inversion(teacher, QUICK, CPU, None)


def test_the_rate_falls_along_a_cosine() -> None:
    assert (cosine(0.0), cosine(0.5), cosine(1.0)) == pytest.approx((1.0, 0.5, 0.0))
