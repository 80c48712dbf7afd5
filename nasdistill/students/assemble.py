"""Putting a student together: layers, one after the other, into an Ultralytics detection model.

Ultralytics' own parser builds models from YAML; it knows neither timm's backbones nor per-stage widths, and it changes
class attributes (the head's kind, the activation) for the whole process. Here the same modules are put together directly;
a test holds the result against what the parser builds from Ultralytics' own files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from ultralytics.nn.modules import Concat, Conv, Detect, Index
from ultralytics.nn.tasks import BaseModel, DetectionModel
from ultralytics.utils.torch_utils import initialize_weights

from nasdistill.space.families import STRIDES

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
}


@dataclass
class Layers:
    """The layers so far: each with its source (an earlier layer, or several) and the channels of its output."""

    modules: list[nn.Module] = field(default_factory=list)
    sources: list[int | list[int]] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The index of the latest layer."""
        return len(self.modules) - 1

    def add(self, module: nn.Module, channels: int, source: int | list[int] = -1) -> int:
        """Append a layer that reads `source` (-1: the layer before it) and returns `channels` channels; its index."""
        self.modules.append(module)
        self.sources.append(source)
        self.channels.append(channels)
        return self.last

    def conv(self, channels: int, kernel: int = 1, stride: int = 1, source: int = -1) -> int:
        """Append convolution, BatchNorm and activation."""
        return self.add(Conv(self.channels[source], channels, kernel, stride), channels, source)

    def upsample(self) -> int:
        """Append nearest-neighbour upsampling to twice the size."""
        return self.add(nn.Upsample(None, 2, "nearest"), self.channels[-1])

    def concat(self, *others: int) -> int:
        """Append the concatenation of the latest layer and `others`."""
        return self.add(Concat(1), self.channels[-1] + sum(self.channels[other] for other in others), [-1, *others])

    def pyramid(self, backbone: nn.Module, channels: Sequence[int]) -> list[int]:
        """Append a backbone that returns one map a level, and a layer that picks each; the indices of the latter."""
        source = self.add(backbone, 0)
        return [self.add(Index(level), count, source) for level, count in enumerate(channels)]


class _DenseHead(Detect):
    legacy = True


class _DepthwiseHead(Detect):
    legacy = False


def detect(
    channels: Sequence[int], classes: int, dense: bool = False, reg_max: int = 16, end2end: bool = False
) -> Detect:
    """Ultralytics' Detect head on maps of `channels`; `dense` is the class branch of YOLOv5 and YOLOv8, else depthwise.

    `end2end` adds a second branch, which answers once for each object (YOLO26); `head.end2end` says which one is deployed.
    """
    head = (_DenseHead if dense else _DepthwiseHead)(classes, reg_max, end2end, tuple(channels))
    head.__class__ = (
        Detect  # which branch it is matters only while it is built; Ultralytics asks `type(head) is Detect`
    )
    return head


def assemble(layers: Layers, outputs: Sequence[int], head: Detect, activation: str = "silu") -> DetectionModel:
    """The detection model of `layers` whose `head` reads the layers `outputs`, P3 first.

    Changes the layers: Ultralytics' default activation becomes `activation`, BatchNorm gets Ultralytics' settings (a
    pyramid backbone keeps those that its own weights were trained with).
    """
    layers.add(head, 0, list(outputs))
    # Ultralytics' class without its constructor, which would parse a YAML
    model: DetectionModel = DetectionModel.__new__(DetectionModel)
    BaseModel.__init__(model)
    save: set[int] = set()
    for index, (module, source) in enumerate(zip(layers.modules, layers.sources, strict=True)):
        module.i, module.f, module.type = index, source, type(module).__name__
        save.update(index + s if s < -1 else s for s in ([source] if isinstance(source, int) else source) if s != -1)
        if index == 0 and hasattr(module, "channels"):
            continue
        initialize_weights(module)
        if activation != "silu":
            _activate(module, ACTIVATIONS[activation])
    model.model = nn.Sequential(*layers.modules)
    model.save = sorted(save)
    model.inplace = True
    model.yaml = {"nc": head.nc, "channels": 3}
    head.inplace = True
    head.stride = model.stride = torch.tensor(STRIDES[: head.nl], dtype=torch.float32)
    head.bias_init()
    return model


def _activate(layer: nn.Module, activation: type[nn.Module]) -> None:
    for module in layer.modules():
        if isinstance(module, Conv) and isinstance(module.act, nn.SiLU):
            module.act = activation()
