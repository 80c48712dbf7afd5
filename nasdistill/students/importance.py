"""Sorting a network's channels by importance, so that its first channels are its best ones.

A permutation of channels that is applied to every tensor of a dependency group changes nothing in what the network
computes; afterwards a slice of leading channels (slicing.py) is a slice of the important ones. Once-for-All sorts kernels
this way before it shrinks a width (Cai et al., ICLR 2020, sect. 3.2); the groups are Torch-Pruning's (DepGraph).
"""

import copy

import torch
import torch_pruning
from torch import nn
from ultralytics.nn.modules import Detect


@torch.no_grad()
def sorted_by_importance(model: nn.Module, image_size: int = 64) -> nn.Module:
    """A copy of an Ultralytics detection model with the channels of every group in falling order of importance.

    Importance is the L2 norm of all weights that a channel touches (producers, BatchNorm scale and consumers, each
    normalised over the group). The head's outputs keep their order.
    """
    model = copy.deepcopy(model).eval()
    head = model.model[-1]
    assert isinstance(head, Detect)
    outputs = {id(branch[-1]) for branch in (*head.cv2, *head.cv3)} | {id(layer) for layer in head.dfl.modules()}
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        graph = torch_pruning.DependencyGraph().build_dependency(
            model,
            torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device),
            output_transform=lambda output: [output[1]["boxes"], output[1]["scores"]],
        )
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    ignored = [module for module in model.modules() if id(module) in outputs]
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d]):
        scores = importance(group)
        if scores is None:
            continue
        order = torch.argsort(scores, descending=True, stable=True)
        for item in group:
            target, source = _moves(item.idxs, item.root_idxs, order.tolist())
            _permute(item.dep.target.module, item.dep.handler.__name__, target, source)
    return model


def _moves(channels: list[int], roots: list[int], order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Target and source channels of one layer, when channel r of the group's root is replaced by its channel order[r].

    `channels[j]` of the layer belongs to channel `roots[j]` of the root. A layer that reads the same map several times
    (SPPF) has several channels for each root channel: the first stays with the first, the second with the second.
    """
    copies: dict[int, list[int]] = {}
    for root, channel in sorted(zip(roots, channels, strict=True)):
        copies.setdefault(root, []).append(channel)
    target = [channel for root in copies for channel in copies[root]]
    source = [channel for root in copies for channel in copies[order[root]]]
    return torch.tensor(target), torch.tensor(source)


def _permute(module: nn.Module, side: str, target: torch.Tensor, source: torch.Tensor) -> None:
    """Move the channels `source` of one layer to `target`; `side` names what Torch-Pruning would prune there."""
    if isinstance(module, nn.BatchNorm2d):
        for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
            assert tensor is not None
            tensor.data[target] = tensor.data[source].clone()
    elif isinstance(module, nn.Conv2d):
        if side == "prune_in_channels" and module.groups == 1:
            module.weight.data[:, target] = module.weight.data[:, source].clone()
            return
        module.weight.data[target] = module.weight.data[source].clone()
        if module.bias is not None:
            module.bias.data[target] = module.bias.data[source].clone()
