"""A student: an Ultralytics detection model with the facts that the trial needs about it.

Every family ends in Ultralytics' `Detect`, so Ultralytics' loss, validator and exporter work on each of them unchanged.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

# Ultralytics' own gains for its v8 detection loss (ultralytics/cfg/default.yaml).
LOSS_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}


@dataclass(frozen=True)
class Student:
    """A built student.

    `backbone_layers` is the number of leading entries of `model.model` that stage 1 freezes. `model.model[-1]` is the
    Detect head; in training mode the model maps images (b, 3, s, s) in 0..1 to a dict with `boxes` (b, 4 * reg_max, a),
    `scores` (b, classes, a) and `feats`, the pyramid maps that the head reads; an NMS-free head (YOLO26) has two of them,
    `one2many` and `one2one` (see `dense_output`).
    """

    model: DetectionModel
    family: str
    backbone_layers: int

    @property
    def head(self) -> Detect:
        """The Detect head."""
        head = self.model.model[-1]
        assert isinstance(head, Detect)
        return head

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps that the head reads, P3 first."""
        return tuple(branch[0].conv.in_channels for branch in self.head.cv2)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of those maps in input pixels, P3 first."""
        return tuple(int(stride) for stride in self.head.stride)

    def backbone(self) -> list[nn.Module]:
        """The modules that stage 1 freezes."""
        return list(self.model.model[: self.backbone_layers])


def in_float32(output: Mapping[str, Any]) -> dict[str, Any]:
    """The raw outputs for Ultralytics' losses, which decode boxes: float32.

    Of `feats` they read the shape, and the type of the anchor points, which bfloat16 rounds from cell 128 on.
    """
    if "one2many" in output:
        return {name: in_float32(head) for name, head in output.items()}
    return {"boxes": output["boxes"].float(), "scores": output["scores"].float(), "feats": shapes_of(output["feats"])}


def shapes_of(features: Sequence[Tensor]) -> list[Tensor]:
    """Float32 stand-ins, which take no memory, for what reads only the shapes of `features`."""
    return [level.new_zeros((), dtype=torch.float32).expand(level.shape) for level in features]


def dense_output(output: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `boxes`, `scores` and `feats` of a raw output: of an NMS-free head, those of its one-to-many branch.

    That branch answers at every anchor point of an object, as the teacher does; the other is taught, by the labels, to
    answer once.
    """
    found: Mapping[str, Any] = output.get("one2many", output)
    return found


def without_training_parts(model: nn.Module) -> nn.Module:
    """A copy of a detection model, in eval mode, without what only training needs.

    Parallel branches are merged into one convolution (RepViT), an NMS-free head loses its one-to-many branch. The outputs
    are those of `model` in eval mode, up to rounding. BatchNorm stays: the exporter folds it.
    """
    copied = copy.deepcopy(model).eval()
    for module in list(copied.modules()):
        if callable(getattr(module, "reparameterize", None)):
            module.reparameterize()
        elif isinstance(module, Detect):
            module.fuse()
    return copied


def dress(model: DetectionModel, names: Sequence[str]) -> DetectionModel:
    """Give a bare model what Ultralytics' loss and exporter look for: class names and loss gains. Changes `model`."""
    model.names = dict(enumerate(names))
    model.args = SimpleNamespace(**LOSS_GAINS)
    model.task = "detect"
    return model


def parameters_m(model: nn.Module) -> float:
    """Parameters in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A block in which torch's random numbers start from `seed`; the state outside is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
