"""Images made from noise, by descending on their pixels until the teacher takes them for what it was trained on."""

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from ultralytics.utils.loss import v8DetectionLoss

from nasdistill.data_free.layouts import Layouts
from nasdistill.data_free.priors import NormStatistics, grey_distance, total_variation
from nasdistill.errors import InputError
from nasdistill.records import Record
from nasdistill.students.student import LOSS_GAINS, dense_output, in_float32
from nasdistill.teacher.teacher import Teacher

Weight = Annotated[float, Field(ge=0.0, le=1000.0)]
COARSE = 16  # cells of the noise that an image starts from, in pixels
LUMINANCE, COLOUR = 0.3, 0.1  # deviations of that noise: brightness, and each channel's own


class InversionSettings(Record):
    """How images are made. The measurements behind the values are in docs/decisions.md."""

    steps: Annotated[int, Field(ge=1, le=10_000)] = 80
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Of Adam on the pixels (0..1), at first; it falls to 0 along a cosine."""
    statistics: Weight = 10.0
    """Weight of the distance between the statistics that BatchNorm layers see and those they remember."""
    detection: Weight = 1.0
    """Weight of the teacher's own training loss, with the boxes and classes asked for in the place of labels."""
    variation: Weight = 3.0
    """Weight of the total variation."""
    grey: Weight = 0.0
    """Weight of the distance from middle grey."""
    shift: Annotated[int, Field(ge=0, le=64)] = 16
    """Images are shifted by up to so many pixels in every step, each way, so that no pattern follows the teacher's grid."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 16


class Inversion:
    """Makes batches of images that a teacher takes for its own: DeepInversion (Yin et al., CVPR 2020) with a detector's
    loss in the place of a classifier's (DIODE: Chawla et al., WACV 2021).

    The teacher must be on `device` already; its weights are not changed.

    Raises:
        InputError: the teacher has no BatchNorm layer to read anything from.
    """

    def __init__(
        self, teacher: Teacher, settings: InversionSettings, device: torch.device, autocast: torch.dtype | None
    ) -> None:
        self._model = teacher.model.eval()
        self._settings = settings
        self._device, self._autocast = device, autocast
        self._statistics = NormStatistics(teacher.model)
        if not len(self._statistics):
            raise InputError(
                f"--data none: the teacher {teacher.name} has no BatchNorm layers (a fused model?), and it is from their "
                "statistics that images are synthesised; give the checkpoint as it was trained"
            )
        self._criterion = v8DetectionLoss(_ForLoss(self._model))

    def __call__(
        self, layouts: Layouts, count: int, size: int, seed: int, before_step: Callable[[int], None] = lambda step: None
    ) -> Tensor:
        """`count` images of `size` pixels with the objects of `layouts`: (count, 3, size, size) uint8 RGB, on the CPU.

        The same arguments on the same machine give the same bytes. `before_step` may raise, to stop.
        """
        settings = self._settings
        generator = torch.Generator().manual_seed(seed)
        layouts = layouts.to(self._device)
        images = starting_noise(count, size, generator).to(self._device).requires_grad_(True)
        optimiser = torch.optim.Adam([images], lr=settings.learning_rate, betas=(0.5, 0.9))
        for step in range(settings.steps):
            before_step(step)
            optimiser.param_groups[0]["lr"] = settings.learning_rate * cosine(step / settings.steps)
            right, down = torch.randint(-settings.shift, settings.shift + 1, (2,), generator=generator).tolist()
            mirrored = bool(torch.rand((), generator=generator) < 0.5)
            view = torch.roll(images, (down, right), (2, 3))
            parts = self.losses(
                view.flip(3) if mirrored else view, layouts.moved(right / size, down / size, mirrored), images
            )
            optimiser.zero_grad(set_to_none=True)
            parts["total"].backward()
            optimiser.step()
            with torch.no_grad():
                images.clamp_(0.0, 1.0)
        return (images.detach() * 255.0).round().to(torch.uint8).cpu()

    def losses(self, view_bchw: Tensor, layouts: Layouts, images_bchw: Tensor | None = None) -> Mapping[str, Tensor]:
        """Named parts (unweighted scalars) and their weighted `total`, of images in 0..1.

        `view_bchw` is what the teacher sees, with the objects of `layouts`; the priors are those of `images_bchw`, the
        images before they were shifted (default: the same).
        """
        settings = self._settings
        images_bchw = view_bchw if images_bchw is None else images_bchw
        with (
            torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None),
            self._statistics.watching(),
        ):
            output = dense_output(self._model(view_bchw.contiguous(memory_format=torch.channels_last))[1])
        parts = {
            "statistics": self._statistics.loss(),
            "detection": self._detection(output, layouts, len(view_bchw)),
            "variation": total_variation(images_bchw),
            "grey": grey_distance(images_bchw),
        }
        total = sum((getattr(settings, name) * part for name, part in parts.items()), view_bchw.new_zeros(()))
        return {**parts, "total": total}

    def _detection(self, output: Mapping[str, Any], layouts: Layouts, count: int) -> Tensor:
        """Ultralytics' loss of the teacher's dense head, an image."""
        labels = {
            "batch_idx": layouts.image_n.float(),
            "cls": layouts.classes_n[:, None].float(),
            "bboxes": layouts.boxes_n4,
        }
        loss: Tensor = self._criterion.loss(in_float32(output), labels)[0].sum() / count
        return loss


def starting_noise(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, 3, size, size) in 0..1: soft blobs, more of brightness than of colour, as photographs have them.

    From white noise, much of it stays in the image: the statistics do not tell it from texture.
    """
    cells = max(1, size // COARSE)
    brightness = LUMINANCE * torch.randn(count, 1, cells, cells, generator=generator)
    colour = COLOUR * torch.randn(count, 3, cells, cells, generator=generator)
    coarse = 0.5 + brightness + colour
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False).clamp(0.0, 1.0)


def cosine(progress: float) -> float:
    """From 1 at progress 0 down to 0 at 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


class _ForLoss(nn.Module):
    """What Ultralytics' loss reads of a model: its layers and its own gains, which a checkpoint may lack."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.model
        self.args = SimpleNamespace(**LOSS_GAINS)
