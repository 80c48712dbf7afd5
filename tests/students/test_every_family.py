"""Every family at its smallest and largest: it builds, learns, and what is exported and timed is what torch computes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import NAMES, images_of, label_batch
from torch import nn

from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import open_profiler
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.complexity import complexity
from nasdistill.measure.detector import OnnxDetector
from nasdistill.prepare.inputs import extremes
from nasdistill.records import Scalar
from nasdistill.space.families import FAMILIES
from nasdistill.space.loader import load_space
from nasdistill.students.families import build_student
from nasdistill.students.student import Student

SPACE = load_space("all-families")
HURRIED = DeviceProfile(name="hurried", runtime="onnxruntime", warmup_s=0.0, min_samples=4, max_seconds=0.05)
SMALLEST = [(family, extremes(SPACE, family)[0], 64) for family in FAMILIES]
LARGEST = [pytest.param(family, extremes(SPACE, family)[1], 128, marks=pytest.mark.slow) for family in FAMILIES]
# what the families' extremes leave out
STRUCTURES = [
    ("yolov5", {"depth": 0.33, "width": 0.0625, "levels": 5, "neck_type": "light", "activation": "hardswish"}, 128),
    ("yolov8", {"depth": 0.33, "width": 0.0625, "levels": 4, "neck_attention": "cbam", "activation": "relu6"}, 128),
    ("yolo11", {"depth": 0.5, "width": 0.125, "width_p2": 0.5, "width_p4": 1.5, "neck_type": "lateral"}, 64),
    ("yolo26", {"depth": 0.5, "width": 0.0625, "head": "nms", "attention": "none", "levels": 5}, 160),
    ("yolo11", {"depth": 0.5, "width": 0.0625, "least_channels": 32}, 64),
    ("mobilenetv3", {"variant": "small_050", "neck": 16, "neck_type": "light", "levels": 5}, 160),
    ("mobilevit", {"variant": "v2_050", "neck": 16, "neck_type": "lateral", "neck_attention": "cbam"}, 96),
]


def loss_of(student: Student, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Ultralytics' loss of the student in training mode; stochastic layers drop the same every time."""
    torch.manual_seed(0)
    loss: torch.Tensor = student.model.train().loss(batch)[0].sum()
    return loss


def settle(model: nn.Module, images: torch.Tensor) -> None:
    """BatchNorm statistics of these images, and probabilities around a half, where a difference shows most."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        model.train()(images)
    head = model.model[-1]
    for branch in (*head.cv3, *getattr(head, "one2one_cv3", ())):
        branch[-1].bias.data.zero_()
        branch[-1].weight.data.mul_(4)


@pytest.mark.parametrize(("family", "arch", "size"), SMALLEST + LARGEST + STRUCTURES)
def test_it_learns_and_its_export_says_the_same(
    family: str, arch: dict[str, Scalar], size: int, tmp_path: Path
) -> None:
    student = build_student(family, arch, NAMES)
    images = images_of(3, size=size, count=4)
    batch = label_batch(images)

    before = loss_of(student, batch)
    before.backward()
    trained = [parameter for parameter in student.model.parameters() if parameter.grad is not None]
    slope = sum(float(parameter.grad.square().sum()) for parameter in trained)
    with torch.no_grad():
        moved = 0.0
        # Steps that promise so much of the loss; a large one may change which anchors answer for an object
        for promised in (0.003, 0.001, 0.0003, 0.0001, 0.00003):
            for parameter in trained:
                parameter -= (promised - moved) * before / slope * parameter.grad
            moved, after = promised, loss_of(student, batch)
            if after < before:
                break
    assert torch.isfinite(after) and after < before

    settle(student.model, images)
    write_onnx(student.model, size, tmp_path / "student.onnx")
    with torch.no_grad():
        expected = student.model.eval()(images)[0].numpy()
    got = OnnxDetector(tmp_path / "student.onnx").raw(images.numpy())
    assert got.shape == expected.shape
    if got.shape[2] == 6:  # NMS-free: rows of almost equal probability may change places
        scale = np.array([size, size, size, size, 1.0, 1.0])
        away = np.abs((got[:, :, None] - expected[:, None]) / scale).max(axis=3).min(axis=1)
        assert expected[:, :, 4].std() > 1e-3
    else:
        scale = np.array([size] * 4 + [1.0] * len(NAMES))[:, None]
        away = np.abs(got - expected) / scale
        assert expected[:, 4:].std() > 1e-3
    assert away.max() < 1e-3

    latency = open_profiler(HURRIED).measure(tmp_path / "student.onnx", size)
    facts = complexity(student.model, size, tmp_path / "student.onnx")
    assert latency.median_ms > 0 and facts.gflops > 0 and facts.size_mb > 3.5 * facts.params_m
