"""Cutting a smaller network of a family out of a larger one, channel for channel.

A smaller network takes the first channels of every layer of the larger one ("weight sharing by leading channels":
Yu et al., Slimmable Neural Networks, ICLR 2019; Cai et al., Once-for-All, ICLR 2020). Where channels are concatenated or
split, the first ones *of each run* are taken (students/channels.py), and of repeated blocks the first ones, so the slice is
exact: the cut network computes what the large one computes with the other channels masked and the other blocks skipped.
Where an operation's sizes change that is not followed (attention with other heads, a channel shuffle, variants of timm
that differ in more than widths), the same cut is a starting point that is not exact, and its plan says where.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from nasdistill.students.channel_graph import ChannelGraph, Runs
from nasdistill.students.channels import trace_channels

_WEIGHTED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


class Piece(NamedTuple):
    """`length` channels of an axis: where they start in the large tensor and in the small one."""

    large: int
    small: int
    length: int


Pieces = tuple[Piece, ...]


@dataclass(frozen=True)
class SlicePlan:
    """How the tensors of a small network are read out of a large one's state.

    Attributes:
        pieces: tensor name -> for each of its leading axes that differ, the pieces to take; () takes the tensor whole.
        missing: tensors that the large network lacks, or that are larger in the small one: they keep their values.
        inexact: operations that compute something else at the small network's sizes.
    """

    pieces: Mapping[str, tuple[Pieces, ...]]
    missing: tuple[str, ...]
    inexact: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Every tensor of the small network comes from the large one."""
        return not self.missing

    @property
    def exact(self) -> bool:
        """The small network computes what the large one does with its other channels masked, other blocks skipped."""
        return not self.missing and not self.inexact

    def cut(self, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The small network's tensors as views (or concatenated views) of `state`; gradients flow back to it."""
        return {name: _cut(state[name], axes) for name, axes in self.pieces.items()}


def _cut(tensor: torch.Tensor, axes: tuple[Pieces, ...]) -> torch.Tensor:
    for axis, pieces in enumerate(axes):
        if pieces == (Piece(0, 0, tensor.shape[axis]),):
            continue
        parts = [tensor.narrow(axis, piece.large, piece.length) for piece in pieces]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
    return tensor


def plan_slices(large: DetectionModel, small: DetectionModel) -> SlicePlan:
    """Plan how `small` is cut out of `large`, two networks of one family."""
    large_graph, small_graph = trace_channels(large), trace_channels(small)
    inexact = {
        place
        for place, sizes in small_graph.unfollowed.items()
        if large_graph.unfollowed.get(place) not in (None, sizes)
    }
    large_state, small_state = large.state_dict(), small.state_dict()
    owners = dict(small.named_modules())
    # a shortcut that only one of them has (of modules that both have)
    inexact |= {place for place in large_graph.sums ^ small_graph.sums if place.rpartition(":")[0] in owners}
    pieces, missing = {}, []
    for name, tensor in small_state.items():
        other = large_state.get(name)
        axes = None if other is None else _axes_between(name, other, tensor, large_graph, small_graph, owners)
        if axes is None or other is None or any(b > a for a, b in zip(other.shape, tensor.shape, strict=True)):
            missing.append(name)
            continue
        whole = tuple(_whole(axis, size) for axis, size in zip(axes, tensor.shape, strict=False))
        pieces[name] = whole
        if whole != axes or (name not in small_graph.axes and other.shape != tensor.shape):
            inexact.add(name)
    return SlicePlan(pieces, tuple(missing), tuple(sorted(inexact)))


def _axes_between(
    name: str,
    large: torch.Tensor,
    small: torch.Tensor,
    large_graph: ChannelGraph,
    small_graph: ChannelGraph,
    owners: Mapping[str, nn.Module],
) -> tuple[Pieces, ...] | None:
    """The pieces along each leading axis; () where nothing differs, None where the tensors have nothing in common."""
    if large.ndim != small.ndim:
        return None
    if name in large_graph.axes and name in small_graph.axes:
        theirs, ours = large_graph.axes[name], small_graph.axes[name]
        if len(theirs) != len(ours) or large.shape[len(ours) :] != small.shape[len(ours) :]:
            return None
        return tuple(pair_runs(runs, own) for runs, own in zip(theirs, ours, strict=True))
    if large.shape == small.shape:
        return ()
    return _leading_axes(large.shape, small.shape, owners.get(name.rpartition(".")[0]))


def _leading_axes(large: torch.Size, small: torch.Size, owner: nn.Module | None) -> tuple[Pieces, ...] | None:
    """For tensors that were not followed: leading channels of known layers, leading rows of anything else."""
    free = 2 if isinstance(owner, _WEIGHTED) else 1
    if large[free:] != small[free:]:
        return None
    return tuple((Piece(0, 0, min(a, b)),) for a, b in zip(large[:free], small[:free], strict=True))


def pair_runs(large: Runs, small: Runs) -> Pieces:
    """The channels that two axes have in common: the first of each run, by place or, where a network has more, by origin."""
    starts, at = [], 0
    for run in large:
        starts.append(at)
        at += run.size
    if len(large) == len(small):
        chosen = list(range(len(large)))
    else:
        places: dict[str, list[int]] = {}
        for place, run in enumerate(large):
            places.setdefault(run.origin, []).append(place)
        chosen = [places[run.origin].pop(0) if places.get(run.origin) else -1 for run in small]
    pieces, at = [], 0
    for place, run in zip(chosen, small, strict=True):
        if place >= 0:
            pieces.append(Piece(starts[place], at, min(run.size, large[place].size)))
        at += run.size
    return _merged(pieces)


def _merged(pieces: list[Piece]) -> Pieces:
    """Pieces that continue one another are one."""
    merged: list[Piece] = []
    for piece in pieces:
        if merged and merged[-1].large + merged[-1].length == piece.large:
            last = merged[-1]
            if last.small + last.length == piece.small:
                merged[-1] = Piece(last.large, last.small, last.length + piece.length)
                continue
        merged.append(piece)
    return tuple(merged)


def _whole(pieces: Pieces, size: int) -> Pieces:
    """The same pieces where they fill an axis of `size`, else its leading channels (attention with other heads)."""
    return pieces if sum(piece.length for piece in pieces) == size else (Piece(0, 0, size),)


def load_slice(large_state: Mapping[str, torch.Tensor], large: DetectionModel, small: DetectionModel) -> SlicePlan:
    """Copy into `small` what it inherits from `large_state`, the state of a network shaped like `large`.

    What the plan calls missing keeps its value. Changes `small`; returns the plan.
    """
    plan = plan_slices(large, small)
    small.load_state_dict({name: t.detach().clone() for name, t in plan.cut(large_state).items()}, strict=False)
    return plan


@torch.no_grad()
def transplant(source: DetectionModel, target: DetectionModel) -> float:
    """Copy into `target` the channels that both networks have, layer by layer (the first of each run).

    Unlike `load_slice`, either network may be wider or deeper; what `source` lacks keeps its value. Changes `target`.

    Returns:
        The share of `target`'s parameters that were copied, 0..1.
    """
    source_graph, target_graph, owners = trace_channels(source), trace_channels(target), dict(target.named_modules())
    source_state, copied, total = source.state_dict(), 0, 0
    for name, tensor in target.state_dict().items():
        total += tensor.numel()
        other = source_state.get(name)
        if other is None:
            continue
        axes = _axes_between(name, other, tensor, source_graph, target_graph, owners)
        if axes is not None:
            copied += copy_pieces(other, tensor, axes)
    return copied / total


def related(first: DetectionModel, second: DetectionModel) -> float:
    """The share of convolutions that are the same in both networks, widths aside, of those the shallower one has, 0..1.

    Two are the same when they have the same name and kernel and read the same runs of channels: what a C3 block and a C2f
    block call `cv2` is not. Above 0.9 both networks are of one family.
    """
    graphs, states = (
        (trace_channels(first).axes, trace_channels(second).axes),
        (first.state_dict(), second.state_dict()),
    )
    convolutions = [{name for name in axes if len(axes[name]) == 2} for axes in graphs]

    def same(name: str) -> bool:
        one, two = graphs[0][name], graphs[1][name]
        kernels = states[0][name].shape[2:] == states[1][name].shape[2:]
        return kernels and all(pair_runs(large, small) for large, small in zip(one, two, strict=True))

    return sum(map(same, convolutions[0] & convolutions[1])) / max(1, min(len(names) for names in convolutions))


def copy_pieces(source: torch.Tensor, target: torch.Tensor, axes: tuple[Pieces, ...]) -> int:
    """Copy every combination of the axes' pieces into `target`; returns how many values were copied."""
    if not axes:
        target.copy_(source)
        return target.numel() if target.ndim else 0
    first, *rest = axes
    copied = 0
    for large, small, length in first:
        rows, into = source[large : large + length], target[small : small + length]
        for column in rest[0] if rest else [None]:
            if column is None:
                into.copy_(rows)
                copied += into.numel()
            else:
                part = into[:, column.small : column.small + column.length]
                part.copy_(rows[:, column.large : column.large + column.length])
                copied += part.numel()
    return copied
