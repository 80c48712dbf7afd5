"""Structured channel pruning with Torch-Pruning's dependency graph (Fang et al., DepGraph, CVPR 2023).

Uniform: every prunable layer loses the same share of its channels, so the pruned student's shapes, and with them its
latency, are known before any training. The head's outputs keep their shape.
"""

import copy
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch_pruning
from torch import nn

from nasdistill.errors import TrialError
from nasdistill.students.student import Student, parameters_m

CHANNEL_MULTIPLE = 4
TIME_LIMIT_S = 60


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a student. `achieved` is the share of channels removed, averaged over layers, 0..1."""

    student: Student
    achieved: float


def prune(student: Student, ratio: float, image_size: int = 64) -> Pruned:
    """Return a copy of `student` with about `ratio` (0 <= ratio < 1) of each layer's channels removed, weakest L2 first.

    Channel counts are rounded to the nearest multiple of CHANNEL_MULTIPLE, at least one: a narrow layer may keep all its
    channels. What was achieved is returned. The copy's shapes depend on the shapes of `student` and on
    `ratio` alone, not on its weights or on what is frozen. `student` itself is not changed.

    Raises:
        TrialError: the dependency graph cannot follow the model within TIME_LIMIT_S.
    """
    model = copy.deepcopy(student.model)
    if ratio <= 0.0:
        return Pruned(replace(student, model=model), 0.0)
    before = parameters_m(model)
    example = torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device)
    head = model.model[-1]
    outputs = [branch[-1] for branch in (*head.cv2, *head.cv3)]
    channels_before = _channels(model)
    was_training = model.training
    # the graph is traced with autograd: layers that stage 1 froze would be invisible, and stay as wide as they are
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    model.requires_grad_(True)
    with _time_limit(TIME_LIMIT_S), torch.enable_grad():
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example,
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=ratio,
            # BasePruner keeps mutable defaults between calls, so every dict is passed. Its own `round_to` rounds down:
            # 15 % of 8 channels would take 4 of them
            pruning_ratio_dict=_rounded_ratios(model, ratio),
            ignored_layers=[*outputs, head.dfl],
            channel_groups={},
            num_heads={},
            output_transform=lambda output: [output[1]["boxes"], output[1]["scores"]],  # it traces in eval mode
        )
        pruner.step()
    model.train(was_training)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model.zero_grad(set_to_none=True)
    if parameters_m(model) > before:
        raise TrialError(f"pruning added parameters ({before:.3f} to {parameters_m(model):.3f} M)")
    channels_after = _channels(model)
    losses = [1.0 - channels_after[name] / count for name, count in channels_before.items()]
    return Pruned(replace(student, model=model), sum(losses) / len(losses))


def _rounded_ratios(model: nn.Module, ratio: float) -> dict[nn.Module, float]:
    """The ratio of each convolution that leaves a multiple of CHANNEL_MULTIPLE nearest to 1 - ratio of its channels."""
    ratios: dict[nn.Module, float] = {}
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            multiples = max(1, round(layer.out_channels * (1.0 - ratio) / CHANNEL_MULTIPLE))
            kept = min(layer.out_channels, multiples * CHANNEL_MULTIPLE)
            ratios[layer] = 1.0 - (kept + 0.01) / layer.out_channels if kept < layer.out_channels else 0.0
    return ratios


def _channels(model: nn.Module) -> dict[str, int]:
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Give up on a dependency graph that hangs (seen on attention blocks). Only the main thread can be interrupted."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def give_up(signum: int, frame: object) -> None:
        raise TrialError(f"pruning did not end within {seconds} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
