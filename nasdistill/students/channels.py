"""Which channels of a network belong together: one traced graph for slicing, sorting and pruning.

The model is run once on shapes alone (torch's meta device) while every elementary operation is watched. Each convolution
output channel gets a number; concatenations, chunks, slices, elementwise sums, depthwise convolutions and normalisations
hand the numbers on, so that at the end every axis of every weight is a row of *runs*: channels that stay side by side
wherever they are read. The idea of one dependency graph for all structural changes is DepGraph's (Fang et al., CVPR 2023).

An operation that is not followed (attention, channel shuffle, convolutions with computed weights) *locks* the channels it
reads and writes: they are neither sorted nor pruned, and a slice across it is exact only where its sizes stay the same. A
new layer type needs no entry here: what cannot be followed is locked by itself. `MODULE_RULES` is for those of which more
is known than their operations tell.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import Attention
from ultralytics.nn.tasks import DetectionModel

from nasdistill.students.channel_graph import ChannelGraph
from nasdistill.students.tracer import Tracer


def trace_channels(model: DetectionModel) -> ChannelGraph:
    """Follow the channels of `model` through one training pass on shapes; `model` is not changed.

    Raises:
        RuntimeError, ValueError: the model's layers do not fit one another.
    """
    twin, images = _on_shapes(model)
    tracer = Tracer({id(t): name for name, t in (*twin.named_parameters(), *twin.named_buffers())})
    with torch.no_grad(), _watched(twin, tracer), tracer:
        tracer.channels.lock(tracer.numbers(images, "images"))
        twin(images)
    return tracer.graph()


def strides_of(model: DetectionModel, graph: ChannelGraph) -> dict[str, int]:
    """How many pixels of the image apart the outputs of each convolution of `model` are, by its weight's name.

    Convolutions that say one thing of the whole image, as in squeeze and excitation, have none, nor has attention.
    """
    found = {name: _traced_size(model) // width for name, width in graph.widths.items()}
    return {name: stride for name, stride in found.items() if stride <= model.stride.max()}


def _on_shapes(model: DetectionModel) -> tuple[DetectionModel, Tensor]:
    """A copy of `model` without contents, in training mode, and images of the smallest size that its strides take."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().to("meta")) for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}  # what the copy takes instead of contents
    twin = copy.deepcopy(model, memo).float().train()
    size = _traced_size(model)
    return twin, torch.zeros(2, 3, size, size, device="meta")


def _traced_size(model: DetectionModel) -> int:
    return max(64, 2 * int(model.stride.max()))


@contextmanager
def _watched(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Hooks that tell the tracer which module runs, and give those with a rule of their own to it."""

    def enter(name: str) -> Callable:
        return lambda module, args: tracer.places.append(name)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        tracer.places.pop()

    def sleep(module: nn.Module, args: Any) -> None:
        tracer.asleep += 1

    def wake(name: str, rule: Callable) -> Callable:
        def follow(module: nn.Module, args: Any, output: Any) -> None:
            tracer.asleep -= 1
            if not tracer.asleep:
                rule(tracer, name, module, args[0], output)

        return follow

    handles = []
    for name, module in model.named_modules():
        handles += [module.register_forward_pre_hook(enter(name))]
        if type(module) in MODULE_RULES:
            handles += [module.register_forward_pre_hook(sleep)]
            handles += [module.register_forward_hook(wake(name, MODULE_RULES[type(module)]))]
        handles += [module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attention(tracer: Tracer, name: str, module: Attention, source: Tensor, output: Tensor) -> None:
    """Ultralytics' self-attention: heads of (key, key, head) channels, one after the other.

    Leading heads of the same size compute what they compute in the whole; heads of another size do not.
    """
    row = tracer.numbers(source)
    head = 2 * module.key_dim + module.head_dim
    made = tracer.channels.fresh(head * module.num_heads, f"{name}.qkv", locked=True)
    for number in range(module.num_heads):
        for start in (0, module.key_dim, 2 * module.key_dim):
            tracer.channels.start_run(made, number * head + start)
    values = made.reshape(module.num_heads, head)[:, 2 * module.key_dim :].reshape(-1)
    projected = tracer.channels.fresh(len(values), f"{name}.proj")
    for layer, out, into in ((module.qkv, made, row), (module.pe, values, None), (module.proj, projected, values)):
        tracer.record(layer.conv.weight, out, *([] if into is None else [into]))
        for tensor in (layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var):
            tracer.record(tensor, out)
    tracer.channels.lock(row)  # the module reshapes by the width of its input
    tracer.note(name, module.key_dim, module.head_dim)
    tracer.assign(output, projected)


MODULE_RULES: dict[type[nn.Module], Callable[[Tracer, str, Any, Tensor, Tensor], None]] = {Attention: _attention}
"""Layer types that are not followed operation by operation: rule(tracer, name, module, input, output)."""
