"""Size of a student: parameters, floating-point operations, bytes on disk."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasdistill.students.student import parameters_m, without_training_parts


@dataclass(frozen=True)
class Complexity:
    """Parameters in millions, operations of one image in 10^9 (a multiply-add counts two), artifact in 10^6 bytes."""

    params_m: float
    gflops: float
    size_mb: float


def complexity(model: nn.Module, image_size: int, artifact: Path) -> Complexity:
    """Measure `model`, as it is deployed, at a square input of `image_size` pixels, and its exported file."""
    deployed = without_training_parts(model).cpu()  # attention is counted by kernels of its own on a GPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deployed(torch.zeros(1, 3, image_size, image_size))
    return Complexity(parameters_m(deployed), counter.get_total_flops() / 1e9, artifact.stat().st_size / 1e6)
