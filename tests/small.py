"""A small world for tests of training: boards of 96 px, a random teacher with opinions, and its targets."""

import copy
import functools
from pathlib import Path

import torch
from torch import nn

from nasdistill.data.augment import ViewPolicy
from nasdistill.data.dataset import load_dataset
from nasdistill.data.views import Views, build_views, letterboxed_split
from nasdistill.distill.compute import Compute
from nasdistill.distill.feed import Feed
from nasdistill.students.families import build_student
from nasdistill.students.student import Student
from nasdistill.teacher.forms import TargetForm
from nasdistill.teacher.targets import PLAIN, create_targets, fill_targets, open_targets, seal_targets
from nasdistill.teacher.teacher import Teacher

torch.set_num_threads(1)  # what is this small only gets slower with more
NAMES = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
SIZE = 96
CPU = Compute(torch.device("cpu"), None)
TINY_YOLOV5 = {"depth": 0.33, "width": 0.0625}
ARCHS = {
    "yolov5": TINY_YOLOV5,
    "mobilenetv3": {"variant": "small_050", "neck": 32},
    "efficientnet_lite0": {"neck": 32},
}
"""The smallest architecture of each family in these tests."""


def tiny_student(family: str = "yolov5", seed: int = 0) -> Student:
    """The family's smallest student here, with random weights."""
    return copy.deepcopy(_student(family, seed))


@functools.cache
def _student(family: str, seed: int) -> Student:
    return build_student(family, ARCHS[family], NAMES, seed)


def randomise_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm weights and statistics that differ from channel to channel, as training does.

    The statistics are those of random images, so that signals reach the head instead of dying out on the way.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.weight.data.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
        norm.bias.data.copy_(torch.randn(norm.num_features, generator=generator) * 0.3)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images_of(seed, count=4))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def opinionated(model: nn.Module, seed: int = 0, contrast: float = 0.8) -> nn.Module:
    """Make a random detector say something: scores from 0 to 1 and boxes of all sizes, differing over the image."""
    randomise_norms(model, seed)
    head = model.model[-1]
    generator = torch.Generator().manual_seed(seed + 1)
    for boxes, scores in zip(head.cv2, head.cv3, strict=True):
        for layer, gain in ((boxes[-1], 0.15), (scores[-1], contrast)):
            layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=generator) * gain)
        boxes[-1].bias.data.zero_()
        scores[-1].bias.data.fill_(-2.0)
    return model


def small_teacher(seed: int = 7) -> Teacher:
    """A YOLOv5 of width 0.125 (P3 to P5: 32, 64, 128 channels) that sees faint objects where there are none."""
    return Teacher(copy.deepcopy(_teacher_model(seed)), NAMES, "small.pt", "0" * 64, SIZE)


@functools.cache
def _teacher_model(seed: int) -> nn.Module:
    student = build_student("yolov5", {"depth": 0.33, "width": 0.125}, NAMES, seed)
    return opinionated(student.model, seed, contrast=0.1)


def training_views(demo_yaml: Path, folder: Path, count: int = 24) -> Views:
    """Augmented views of the demo boards, 96 px."""
    data = load_dataset(demo_yaml)
    return build_views(data.splits["train"], data.names, SIZE, count, ViewPolicy(), 0, folder)


def validation_views(demo_yaml: Path, folder: Path) -> Views:
    """The demo's validation boards, letterboxed to 96 px."""
    data = load_dataset(demo_yaml)
    return letterboxed_split(data.splits["val"], data.names, SIZE, folder)


def fill_all(folder: Path, teacher: Teacher, views: Views, form: TargetForm = PLAIN) -> None:
    """Compute the targets of all views, in this process, and seal them."""
    ranges = create_targets(folder, teacher, len(views), views.size, len(NAMES), form)
    fill_targets({views.size: folder}, teacher, views, range(len(NAMES)), ranges, CPU.device, None, form=form)
    seal_targets(folder, "key", teacher)


def small_feed(demo_yaml: Path, folder: Path, teacher: Teacher, count: int = 24, form: TargetForm = PLAIN) -> Feed:
    """Views and targets in `folder`, opened."""
    views = training_views(demo_yaml, folder / "views", count)
    fill_all(folder / "targets", teacher, views, form)
    return Feed(views, open_targets(folder / "targets"))


def raw_heads(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The raw `boxes` and `scores` of a model in eval mode."""
    with torch.no_grad():
        output = model.eval()(images)[1]
    return {name: output[name] for name in ("boxes", "scores")}


def images_of(seed: int = 0, size: int = 64, count: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random images (count, 3, size, size) in 0..1."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def label_batch(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of every size, so that each level of the pyramid has some to learn."""
    places = [(x, y, side, side) for side in (0.1, 0.3, 0.5, 0.7, 0.9) for x in (0.3, 0.6) for y in (0.3, 0.6)]
    boxes = torch.tensor(places).repeat(len(images), 1)
    return {
        "img": images,
        "batch_idx": torch.arange(len(images)).repeat_interleave(len(places)).float(),
        "cls": (torch.arange(len(boxes)) % len(NAMES)).float()[:, None],
        "bboxes": boxes,
    }
