"""The artifact: the ONNX file that is scored, timed and handed out."""

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from nasdistill.store.atomic import replacing
from nasdistill.students.student import without_training_parts

OPSET = 17
INPUT, OUTPUT = "images", "output0"  # the names Ultralytics' own exports use


def write_onnx(model: nn.Module, image_size: int, path: Path, batch: int = 1) -> None:
    """Export an Ultralytics detection model as float32 ONNX with a fixed input (batch, 3, image_size, image_size) in 0..1.

    The output (batch, 4 + classes, a) holds boxes as centre x, y, width, height in input pixels and class probabilities,
    before NMS, as Ultralytics' own export does; an NMS-free model gives (batch, detections, 6): x1, y1, x2, y2, probability,
    class, best first. The file says what it is in the words of Ultralytics' exports, so that `YOLO("student.onnx")` runs it
    with the right size and class names. `model` is not changed; in the exported copy BatchNorm is folded and branches that
    only training needs are merged or gone.
    """
    exported: Any = without_training_parts(model).cpu().float()
    for parameter in exported.parameters():
        parameter.requires_grad_(False)
    exported = exported.fuse(verbose=False)
    head = exported.model[-1]
    head.export, head.format, head.dynamic, head.shape = True, "onnx", False, None
    images = torch.zeros(batch, 3, image_size, image_size)
    with replacing(path) as temporary, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # the tracing exporter's deprecation and tracer notes; 0.7 s against 10 s and more
        exported(images)  # anchors are made outside the trace
        torch.onnx.export(
            exported,
            (images,),
            str(temporary),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            do_constant_folding=True,
        )
        whole = onnx.load(str(temporary))
        onnx.helper.set_model_props(whole, _metadata(exported, image_size, batch))
        onnx.save(whole, str(temporary))


def _metadata(model: Any, image_size: int, batch: int) -> dict[str, str]:
    """Ultralytics' keys, all but the date: the same student is the same file."""
    names = model.names
    return {
        "description": "a detector exported by nasdistill",
        "license": "AGPL-3.0-or-later",
        "task": "detect",
        "stride": str(int(max(model.stride))),
        "batch": str(batch),
        "imgsz": str([image_size, image_size]),
        "channels": "3",
        "names": str(names if isinstance(names, dict) else dict(enumerate(names))),
        "end2end": str(bool(getattr(model, "end2end", False))),
    }
