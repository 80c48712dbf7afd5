"""Detectors straight from Ultralytics' model files, for tests of what must work on any family."""

import copy
import functools

import torch
from small import NAMES
from torch import nn
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from nasdistill.students.assemble import Layers, assemble, detect
from nasdistill.students.backbones import TimmBackbone
from nasdistill.students.necks import add_neck
from nasdistill.students.student import Student, dress, seeded

BACKBONE_LAYERS = {"yolov5": 10, "yolov8": 10, "yolo11": 11, "yolo26": 11}


def yaml_student(name: str, depth: float, width: float, seed: int = 0) -> Student:
    """An Ultralytics architecture (`yolov8`, …) at any depth and width."""
    return copy.deepcopy(_yaml_student(name, depth, width, seed))


@functools.cache
def _yaml_student(name: str, depth: float, width: float, seed: int) -> Student:
    description = yaml_model_load(f"{name}.yaml")
    description["scales"], description["scale"] = {"elastic": [depth, width, 1024]}, "elastic"
    description["nc"] = len(NAMES)
    with seeded(seed):
        model = DetectionModel(description, nc=len(NAMES), verbose=False)
    return Student(dress(model, NAMES), name, BACKBONE_LAYERS[name])


def timm_student(timm_name: str, neck: int = 32, seed: int = 0) -> Student:
    """Any timm backbone with five levels, under the PAN neck."""
    return copy.deepcopy(_timm_student(timm_name, neck, seed))


@functools.cache
def _timm_student(timm_name: str, neck: int, seed: int) -> Student:
    with seeded(seed):
        backbone, layers = TimmBackbone(timm_name), Layers()
        outputs = add_neck(layers, layers.pyramid(backbone, backbone.channels), neck, "pan")
        model = assemble(layers, outputs, detect([layers.channels[output] for output in outputs], len(NAMES)))
    return Student(dress(model, NAMES), timm_name, 1)


@torch.no_grad()
def raw_outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """All raw boxes and scores of the head (both heads of an end-to-end one), with BatchNorm's running statistics."""
    model.eval().model[-1].training = True
    output = model(images)
    return [
        head[name] for head in (output.values() if "one2one" in output else [output]) for name in ("boxes", "scores")
    ]
