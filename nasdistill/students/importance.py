"""How much each channel matters, and networks whose first channels are those that matter most.

A permutation of channels that is applied wherever they are read changes nothing in what a network computes; afterwards a
slice of leading channels (slicing.py) is a slice of the important ones. Once-for-All sorts kernels this way before it
shrinks a width (Cai et al., ICLR 2020, sect. 3.2).
"""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from ultralytics.nn.tasks import DetectionModel

from nasdistill.records import Importance
from nasdistill.students.channel_graph import ChannelGraph
from nasdistill.students.channels import trace_channels


class Place(NamedTuple):
    """Where a group's channels stand: `size` of them from `start` on along an axis of a tensor."""

    tensor: str
    axis: int
    start: int
    size: int


def places_of_groups(graph: ChannelGraph) -> dict[int, list[Place]]:
    """Every place at which the channels of each group stand."""
    places: dict[int, list[Place]] = {}
    for name, axes in graph.axes.items():
        for axis, runs in enumerate(axes):
            start = 0
            for run in runs:
                places.setdefault(run.group, []).append(Place(name, axis, start, run.size))
                start += run.size
    return places


@torch.no_grad()
def channel_scores(
    places: list[Place],
    state: Mapping[str, Tensor],
    criterion: Importance = "l2",
    gradients: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """How much the channels of one group matter, (channels,) >= 0.

    `l2`: the L2 norm of all weights that a channel touches, each tensor's normalised to a mean of 1. `bn_scale`: the
    absolute BatchNorm scales alone (Liu et al., Network Slimming, ICCV 2017); a group without any falls back to `l2`.
    `taylor`: the squared change of the loss that removing the channel would make, to first order: (sum of weight times
    gradient)^2 (Molchanov et al., CVPR 2019, eq. 8), summed over the tensors.

    Raises:
        ValueError: `taylor` without `gradients`.
    """
    weights = [place for place in places if place.tensor.endswith("weight") and place.tensor in state]
    if criterion == "taylor":
        if gradients is None:
            raise ValueError("importance 'taylor' needs gradients")
        changes = [_rows(state, place) * _rows(gradients, place) for place in weights if place.tensor in gradients]
        parts = [change.sum(dim=1) ** 2 for change in changes]
    else:
        scales = [place for place in weights if state[place.tensor].ndim == 1]
        chosen = scales if criterion == "bn_scale" and scales else weights
        norms = [_rows(state, place).norm(dim=1) for place in chosen]
        parts = [norm / norm.mean().clamp_min(1e-12) for norm in norms]
    if not parts:
        return torch.ones(places[0].size)
    return torch.stack(parts).sum(dim=0)


def _rows(state: Mapping[str, Tensor], place: Place) -> Tensor:
    """A group's channels at one place, (channels, everything else), in float32."""
    part = state[place.tensor].detach().narrow(place.axis, place.start, place.size)
    return part.movedim(place.axis, 0).reshape(place.size, -1).float()


@torch.no_grad()
def sorted_by_importance(model: DetectionModel) -> DetectionModel:
    """A copy of a detection model with the channels of every group in falling order of importance (`l2`).

    What it computes stays the same. Locked channels (inputs, outputs, attention) keep their order.
    """
    model = copy.deepcopy(model)
    graph, state = trace_channels(model), model.state_dict()
    for group, places in places_of_groups(graph).items():
        if group in graph.locked:
            continue
        order = torch.argsort(channel_scores(places, state), descending=True, stable=True)
        for name, axis, start, size in places:
            part = state[name].narrow(axis, start, size)
            part.copy_(part.index_select(axis, order.to(part.device)))
    return model
