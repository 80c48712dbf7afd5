"""The teacher as the rest sees it: a frozen detector with known classes, strides and an input size.

Its raw output is brought to one form for every family: class logits, and box distances (left, top, right, bottom from the
anchor point, in units of the level's stride), whether its head predicts distributions (DFL), plain distances or is NMS-free.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

from nasdistill.errors import InputError
from nasdistill.store.provenance import file_sha256
from nasdistill.students.student import dense_output, parameters_m
from nasdistill.teacher.checkpoint import read_checkpoint

MOST_NAMED = 10  # classes in a message
LEVELS = 3  # P3, P4, P5: those whose neck maps are looked at, which every teacher has


@dataclass(frozen=True)
class RawOutput:
    """What a detector says about a batch, before NMS. `a` counts anchor points, P3 first, row by row.

    logits_bac: class logits (b, a, classes). distances_ba4: (b, a, 4) ltrb in strides.
    features: the maps the head reads, each (b, c_l, s / stride_l, s / stride_l).
    boxes_bra: the raw box branch (b, 4 * reg_max, a), whose bins localisation distillation compares.
    """

    logits_bac: torch.Tensor
    distances_ba4: torch.Tensor
    features: list[torch.Tensor]
    boxes_bra: torch.Tensor


class Teacher:
    """A frozen detector. There is no way to train it: it holds no optimiser, and its model stays in eval mode."""

    def __init__(
        self, model: DetectionModel, names: Sequence[str], name: str, sha256: str, image_size: int | None
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self.names = tuple(names)
        self.name = name
        self.sha256 = sha256
        self.image_size = image_size
        self.forward_passes = 0
        layers: Any = model.model
        head = layers[-1]
        assert isinstance(head, Detect)
        self._head = head
        self.strides = tuple(int(stride) for stride in head.stride)

    @property
    def model(self) -> DetectionModel:
        """The detection model (for slicing and export; copy it before changing it)."""
        return self._model

    @property
    def parameters_m(self) -> float:
        """Parameters in millions."""
        return parameters_m(self._model)

    @property
    def classes(self) -> int:
        """Number of classes it predicts."""
        return int(self._head.nc)

    @property
    def reg_max(self) -> int:
        """Bins of each side of a box; 1: the head predicts distances themselves."""
        return int(self._head.reg_max)

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the maps that its head reads, P3 first."""
        return tuple(branch[0].conv.in_channels for branch in self._head.cv2)

    @property
    def neck_channels(self) -> tuple[int, ...]:
        """Channels of the maps that students learn from: those of LEVELS."""
        return self.channels[:LEVELS]

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, class_order: Sequence[int]) -> RawOutput:
        """Run on images (b, 3, s, s) in 0..1; `class_order[i]` is the teacher's index of the data's class i."""
        self.forward_passes += 1
        self._model.eval()
        output = dense_output(self._model(images)[1])
        with torch.autocast(images.device.type, enabled=False):
            return raw_output(output, self._head.reg_max, class_order)


def raw_output(output: Mapping[str, Any], reg_max: int, class_order: Sequence[int] | None = None) -> RawOutput:
    """Bring a Detect head's raw dict to the common form. Call it outside autocast: box decoding needs float32's mantissa."""
    logits = output["scores"].float().permute(0, 2, 1)
    if class_order is not None and list(class_order) != list(range(logits.shape[2])):
        logits = logits[..., list(class_order)]
    return RawOutput(logits, distances(output["boxes"], reg_max), list(output["feats"]), output["boxes"])


def distances(boxes_bra: torch.Tensor, reg_max: int) -> torch.Tensor:
    """Expected ltrb distances in strides (b, a, 4) from the raw box branch (b, 4 * reg_max, a).

    With bins, the expectation of the distribution (Li et al., Generalized Focal Loss, NeurIPS 2020, eq. 3); without
    (`reg_max` 1), the branch predicts them directly.
    """
    batch, _, anchors = boxes_bra.shape
    if reg_max == 1:
        return boxes_bra.float().permute(0, 2, 1)
    bins = torch.arange(reg_max, dtype=torch.float32, device=boxes_bra.device)
    probabilities = boxes_bra.float().view(batch, 4, reg_max, anchors).softmax(dim=2)
    return torch.einsum("bkra,r->bak", probabilities, bins)


def load_teacher(path: Path, model_yaml: Path | None = None, trust: bool = False) -> Teacher:
    """Load a teacher from its file (see `checkpoint.read_checkpoint`).

    Raises:
        InputError: the file is refused, or the model is no detector with a Detect head at strides 8, 16 and 32.
    """
    checkpoint = read_checkpoint(path, model_yaml, trust)
    head = checkpoint.model.model[-1] if hasattr(checkpoint.model, "model") else None
    if type(head).__name__ not in ("Detect", "v10Detect") or not isinstance(head, Detect):
        kind = type(head).__name__ if head is not None else type(checkpoint.model).__name__
        raise InputError(f"{path}: the teacher is no detector with a Detect head (found {kind})")
    if head.cv2 is None:
        raise InputError(
            f"{path}: the teacher was fused for use and has lost a branch of its head; give it as it was trained"
        )
    step = max(32, int(head.stride.max()))  # 64 with a P6
    # rounded up as Ultralytics does when it trains: the file keeps the size that was asked for
    size = checkpoint.image_size and -(-checkpoint.image_size // step) * step
    sha256 = file_sha256(path)
    if model_yaml is not None:  # the same tensors are another teacher under another description
        description = json.dumps(checkpoint.model.yaml, sort_keys=True, default=str)
        sha256 = hashlib.sha256(f"{sha256} {description}".encode()).hexdigest()
    teacher = Teacher(checkpoint.model, checkpoint.names, path.name, sha256, size)
    if teacher.strides[:LEVELS] != (8, 16, 32):
        raise InputError(f"{path}: the teacher's strides are {teacher.strides}; 8, 16, 32 are needed")
    return teacher


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def class_names(teacher: Teacher) -> tuple[str, ...]:
    """The teacher's class names, or numbered ones where its file has none (bare tensors)."""
    return teacher.names or tuple(f"class_{index}" for index in range(teacher.classes))


def match_classes(teacher: Teacher, data_names: Sequence[str], data: str) -> list[int]:
    """For each class of the data, the teacher's index of it, matched by name (case and outer blanks ignored).

    A teacher without names (bare tensors) is taken to use the data's order where the numbers of classes agree.

    Raises:
        InputError: a class of the data is unknown to the teacher, or two are the same one to it.
    """
    if not teacher.names:
        if teacher.classes != len(data_names):
            raise InputError(
                f"{data}: {len(data_names)} classes, but the teacher {teacher.name} has {teacher.classes} and no names "
                "to match them by"
            )
        return list(range(len(data_names)))
    known = {name.strip().lower(): index for index, name in enumerate(teacher.names)}
    missing = [name for name in data_names if name.strip().lower() not in known]
    if missing:
        raise InputError(
            f"{data}: the teacher {teacher.name} does not know the class{'es' if len(missing) > 1 else ''} "
            f"{_some(missing)}; it knows {_some(teacher.names)}; train it on these classes first, say with "
            f"yolo detect train model=yolo11s.pt data={data}"
        )
    order = [known[name.strip().lower()] for name in data_names]
    twice = [name for name, index in zip(data_names, order, strict=True) if order.count(index) > 1]
    if twice:
        raise InputError(f"{data}: the classes {', '.join(twice)} are one class of the teacher {teacher.name}")
    return order
