"""Structured channel pruning along the channel graph (students/channels.py), for every family alike.

Channels that stand together everywhere lose the same members (Fang et al., DepGraph, CVPR 2023). How many depends on
shapes and ratios alone, so the pruned student's shapes, and with them its latency, are known before any training; which
ones depends on their importance. The head's outputs keep their shape, and so does what the graph cannot follow: attention,
channel shuffles, banks of experts. The achieved ratio is returned beside the asked one. Torch-Pruning does the surgery on
layers; its own graph fails on YOLOv8 and YOLO11 and hangs on YOLO26 (docs/decisions.md).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch_pruning
from torch import Tensor, nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

from nasdistill.errors import TrialError
from nasdistill.records import Importance, TrialConfig
from nasdistill.space.rounding import pruning_factors
from nasdistill.students.channels import strides_of, trace_channels
from nasdistill.students.importance import Place, channel_scores, places_of_groups
from nasdistill.students.student import Student

CHANNEL_MULTIPLE = 4
HIGHEST_RATIO = 0.95
STAGES = ("early", "backbone", "neck", "head")
EARLY_STRIDE = 4
"""The backbone's layers at this stride and finer ones are the early ones: a few percent of a student's parameters."""


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How a student is pruned.

    Attributes:
        ratio: share of each layer's channels to remove, 0 <= ratio < 1.
        factors: what `ratio` is multiplied by in each of STAGES, of which `early` are the backbone's first layers
            (EARLY_STRIDE) and `backbone` its others; 1 where a stage is not named. The product is at most HIGHEST_RATIO.
        importance: which channels go first, those that matter least by `l2`, `bn_scale` or `taylor`.
        channel_multiple: what is left of a layer is rounded to the nearest multiple of this, at least one.
    """

    ratio: float
    factors: Mapping[str, float] = field(default_factory=dict)
    importance: Importance = "l2"
    channel_multiple: int = CHANNEL_MULTIPLE

    def ratio_of(self, stage: str) -> float:
        """The ratio in one of STAGES."""
        return min(self.ratio * self.factors.get(stage, 1.0), HIGHEST_RATIO)


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a student. `achieved` is the share of channels removed, averaged over layers, 0..1."""

    student: Student
    achieved: float


def pruning_of(config: TrialConfig, channel_multiple: int) -> Pruning:
    """What a trial prunes; `channel_multiple` is its device's."""
    return Pruning(
        ratio=config.prune_ratio,
        factors=pruning_factors(config.prune_early, config.prune_backbone, config.prune_neck, config.prune_head),
        importance=config.prune_importance,
        channel_multiple=channel_multiple,
    )


def prune(student: Student, pruning: Pruning, gradients: Mapping[str, Tensor] | None = None) -> Pruned:
    """Return a copy of `student` with about `pruning.ratio` of each layer's channels removed, the least important first.

    A narrow layer may keep all its channels, and layers that are not followed do; what was achieved is returned. The
    copy's shapes depend on the shapes of `student` and on `pruning`'s numbers alone, not on weights or on what is frozen.
    `student` itself is not changed.

    Args:
        student: what is pruned.
        pruning: how much and by which criterion.
        gradients: of the loss by parameter name, for `taylor`; without them (before any training) `l2` decides.

    Raises:
        TrialError: the pruned network does not run.
    """
    model = copy.deepcopy(student.model)
    if not any(pruning.ratio_of(stage) > 0.0 for stage in STAGES):
        return Pruned(replace(student, model=model), 0.0)
    graph = trace_channels(model)
    state, before = model.state_dict(), _channels(model)
    criterion: Importance = "l2" if pruning.importance == "taylor" and gradients is None else pruning.importance
    strides = strides_of(model, graph)
    cuts: dict[tuple[str, int], list[int]] = {}
    for group, places in places_of_groups(graph).items():
        if group in graph.locked or group in graph.fixed:
            continue
        kept = channels_left(
            places[0].size, pruning.ratio_of(_stage(places, student, strides)), pruning.channel_multiple
        )
        scores = channel_scores(places, state, criterion, gradients)
        weakest = torch.argsort(scores, descending=True, stable=True)[kept:].tolist()
        if weakest:
            for name, axis, start, _ in places:
                cuts.setdefault((name, axis), []).extend(start + channel for channel in weakest)
    _operate(model, cuts)
    try:
        trace_channels(model)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrialError(f"{student.family} cannot be pruned: what is left does not run ({reason})") from error
    after = _channels(model)
    losses = [1.0 - after[name] / count for name, count in before.items()]
    return Pruned(replace(student, model=model), sum(losses) / len(losses))


def channels_left(channels: int, ratio: float, multiple: int) -> int:
    """What `ratio` leaves of a number of channels: the nearest multiple, at least one of it, at most what there is.

    A ratio of 0 leaves all of them, whatever they are a multiple of.
    """
    if ratio <= 0.0:
        return channels
    return min(channels, max(1, round(channels * (1.0 - ratio) / multiple)) * multiple)


def why_not_prunable(model: DetectionModel) -> str | None:
    """None when some layer of the backbone or neck can lose channels, else the reason why none can."""
    graph = trace_channels(model)
    head = f"model.{len(model.model) - 1}."
    prunable = graph.prunable()
    for group, places in places_of_groups(graph).items():
        if group in prunable and not all(place.tensor.startswith(head) for place in places):
            return None
    names = sorted(
        {place.split(":")[0] for place in graph.unfollowed if not place.startswith(head) and place != "images"}
    )
    return f"its channels cannot be followed through {', '.join(names[:3]) or 'any layer'}"


def _stage(places: list[Place], student: Student, strides: Mapping[str, int]) -> str:
    """Where a group is made: the earliest layer that it is an output of."""
    made = [place for place in places if place.axis == 0] or places
    layer = min(int(place.tensor.split(".")[1]) for place in made)
    if layer < student.backbone_layers:
        found = [strides[place.tensor] for place in made if place.tensor in strides]
        return "early" if found and max(found) <= EARLY_STRIDE else "backbone"
    return "head" if isinstance(student.model.model[layer], Detect) else "neck"


def _operate(model: nn.Module, cuts: Mapping[tuple[str, int], list[int]]) -> None:
    """Remove channels (tensor name, axis) -> indices from the layers that own the tensors. Changes `model`."""
    modules = dict(model.named_modules())
    for (name, axis), channels in cuts.items():
        owner, _, tensor = name.rpartition(".")
        if tensor != "weight":  # biases and statistics go with their weights
            continue
        layer, channels = modules[owner], sorted(channels)
        trainable = {name: parameter.requires_grad for name, parameter in layer.named_parameters()}
        if isinstance(layer, nn.BatchNorm2d):
            torch_pruning.prune_batchnorm_out_channels(layer, channels)
        elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
            torch_pruning.prune_depthwise_conv_out_channels(layer, channels)
        elif isinstance(layer, nn.Conv2d) and axis == 0:
            torch_pruning.prune_conv_out_channels(layer, channels)
        elif isinstance(layer, nn.Conv2d):
            torch_pruning.prune_conv_in_channels(layer, channels)
        else:
            raise TrialError(f"{name}: layers of type {type(layer).__name__} cannot be pruned")
        for parameter_name, parameter in layer.named_parameters():
            parameter.requires_grad_(trainable[parameter_name])
            parameter.grad = None


def _channels(model: nn.Module) -> dict[str, int]:
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
