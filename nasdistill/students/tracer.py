"""Watching a network run on shapes: which operation hands which channels on to which (the engine of channels.py)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nasdistill.students.channel_graph import ChannelGraph, Channels, Numbers

_UNARY_NAMES = """
silu relu leaky_relu hardswish hardsigmoid hardtanh sigmoid tanh gelu elu mish softplus abs neg exp clamp
max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d
_upsample_nearest_exact2d detach clone alias _to_copy native_dropout bernoulli
"""  # operations that hand every channel on by itself
_UNARY = frozenset(_UNARY_NAMES.split())
_BINARY = frozenset(["add", "sub", "mul", "div"])
_NORMS = ("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update")


class Tracer(TorchDispatchMode):
    """Watches operations: which numbered channels each tensor holds, and which `channels` that makes equal."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self.channels = Channels()
        self._known: dict[int, tuple[Tensor, Numbers]] = {}  # holds the tensor, so that its id is not used again
        self._axes: dict[str, tuple[Numbers, ...]] = {}
        self._unfollowed: dict[str, tuple[int, ...]] = {}
        self._counts: dict[str, int] = {}
        self._chunks: list[list[Numbers]] = []
        self._sums: set[str] = set()
        self._widths: dict[str, int] = {}
        self.places: list[str] = [""]
        self.asleep = 0

    # Tensors

    def name_of(self, tensor: object) -> str | None:
        """The name of a parameter or buffer; None for anything else."""
        return self._names.get(id(tensor))

    def follows(self, tensor: object) -> bool:
        return id(tensor) in self._known

    def assign(self, tensor: Tensor, numbers: Numbers) -> None:
        self._known[id(tensor)] = (tensor, numbers)

    def numbers(self, tensor: Tensor, producer: str | None = None) -> Numbers:
        """The channels of a map; locked new ones where an operation made it that is not followed."""
        if id(tensor) not in self._known:
            where = producer or self.place("unfollowed")
            self.note(where, tensor.shape[1])
            self.assign(tensor, self.channels.fresh(tensor.shape[1], where, locked=True))
        return self._known[id(tensor)][1]

    def place(self, operation: str) -> str:
        """A name for an operation at this place in the model: the same in every network of a family."""
        key = f"{self.places[-1]}:{operation}"
        self._counts[key] = self._counts.get(key, -1) + 1
        return f"{key}{self._counts[key]}"

    def note(self, place: str, *sizes: int) -> None:
        """The operation at `place` computes something else with other sizes."""
        self._unfollowed[place] = sizes

    def record(self, tensor: object, *axes: Numbers) -> None:
        """What the leading axes of a parameter hold."""
        name = self.name_of(tensor)
        if name is None:
            return
        for before, now in zip(self._axes.get(name, ()), axes, strict=False):
            if len(before) == len(now):  # a layer that is used twice
                self.channels.join(before, now)
        self._axes.setdefault(name, axes)

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        output = _norm_shape(args[0], args[1]) if name in _NORMS else func(*args, **(kwargs or {}))
        if not self.asleep:
            self._follow(name, args, kwargs or {}, output)
        return output

    def _follow(self, name: str, args: Any, kwargs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if name == "convolution":
            self._convolution(output, *args[:3], groups=args[8], transposed=args[6])
        elif name in _NORMS:
            row = self.numbers(args[0])
            for tensor in args[1:5]:
                self.record(tensor, row)
            self.assign(first, row)
        elif name == "cat" and _axis(args, kwargs, 1) == 1 and all(tensor.ndim == 4 for tensor in args[0]):
            self.assign(output, np.concatenate([self.numbers(tensor) for tensor in args[0]]))
        elif name in _BINARY and all(isinstance(operand, Tensor) for operand in args[:2]):
            self._elementwise(name, args[0], args[1], output)
        elif not any(self.follows(tensor) for tensor in _tensors(args)):
            return
        elif name in _UNARY or name in _BINARY or (name == "constant_pad_nd" and len(args[1]) <= 4):
            self.assign(first, self.numbers(args[0]))
        elif name in ("split", "split_with_sizes") and _axis(args, kwargs, 2) == 1:
            self._split(args[0], output, fixed=name == "split_with_sizes")
        elif name == "slice":
            self._slice(output, *args)
        elif name in ("mean", "sum", "amax", "max"):
            self._reduce(name, args, output)
        elif name in ("view", "_unsafe_view", "expand") and first.shape == args[0].shape:
            self.assign(output, self.numbers(args[0]))
        else:
            self._give_up(name, args)

    def _convolution(
        self, output: Tensor, source: Tensor, weight: Tensor, bias: Tensor | None, groups: int, transposed: bool
    ) -> None:
        row, name, channels = self.numbers(source), self.name_of(weight), output.shape[1]
        if name is not None:
            self._widths[name] = output.shape[-1]
        if name is None or transposed or 1 < groups != source.shape[1] or (groups > 1 and channels != groups):
            self._give_up("convolution", (source, output))
        elif groups == 1:
            made = self.channels.fresh(channels, name)
            self.record(weight, made, row)
            self.record(bias, made)
            self.assign(output, made)
        else:  # depthwise: a channel stays that channel
            self.record(weight, row)
            self.record(bias, row)
            self.assign(output, row)

    def _elementwise(self, name: str, one: Tensor, two: Tensor, output: Tensor) -> None:
        if not (self.follows(one) or self.follows(two)):
            return
        known, other = (one, two) if self.follows(one) else (two, one)
        if other.ndim == 0 or (other.ndim == known.ndim and other.shape[1] == 1):
            self.assign(output, self.numbers(known))
        elif known.ndim == other.ndim and known.shape[1] == 1:
            self.assign(output, self.numbers(other))
        elif known.ndim == other.ndim and known.shape[1] == other.shape[1]:
            place = self.place(name)
            self._sums.add(place)
            made = self.channels.fresh(output.shape[1], place)
            self.channels.join(made, self.numbers(known))
            self.channels.join(made, self.numbers(other))
            self.assign(output, made)
        else:
            self._give_up(name, (one, two))

    def _split(self, source: Tensor, outputs: Any, fixed: bool) -> None:
        row, at = self.numbers(source), 0
        for part in outputs:
            self.channels.start_run(row, at)
            self.assign(part, row[at : at + part.shape[1]])
            at += part.shape[1]
        if fixed:
            self.channels.fix(row)
        else:
            self._chunks.append([self.numbers(part) for part in outputs])

    def _slice(self, output: Tensor, source: Tensor, dim: int = 0, start: int | None = None, *rest: Any) -> None:
        row = self.numbers(source)
        if dim == 1 and output.shape[1] != len(row):
            if len(rest) > 1 and rest[1] != 1:
                self._give_up("slice", (source,))
                return
            begin = (start or 0) % len(row)
            self.channels.start_run(row, begin)
            self.channels.start_run(row, begin + output.shape[1])
            self.channels.fix(row)
            row = row[begin : begin + output.shape[1]]
        self.assign(output, row)

    def _reduce(self, name: str, args: Any, output: Any) -> None:
        """Over space channels stay; over channels their order does not matter, but their number does."""
        source, first = args[0], output[0] if isinstance(output, tuple) else output
        dims = args[1] if len(args) > 1 else None
        over = [dim % source.ndim for dim in ([dims] if isinstance(dims, int) else dims or range(source.ndim))]
        if 0 in over:
            self._give_up(name, (source,))
        elif 1 not in over:
            self.assign(first, self.numbers(source))
        else:
            place = self.place(name)
            self.note(place, source.shape[1])
            if first.ndim == source.ndim:
                self.assign(first, self.channels.fresh(1, place, locked=True))

    def _give_up(self, name: str, args: Any) -> None:
        sizes = []
        for tensor in _tensors(args):
            if self.follows(tensor):
                row = self.numbers(tensor)
                self.channels.lock(row)
                sizes.append(len(row))
        self.note(self.place(name), *sizes)

    # Result

    def graph(self) -> ChannelGraph:
        """What was found."""
        self.channels.level(self._chunks)
        axes, locked, fixed = self.channels.runs_of(self._axes)
        return ChannelGraph(axes, locked, fixed, self._unfollowed, frozenset(self._sums), self._widths)


def _norm_shape(source: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """What a BatchNorm returns, without the many small operations that torch splits it into on the meta device."""
    if weight is not None and len(weight) != source.shape[1]:
        raise RuntimeError(f"a BatchNorm of {len(weight)} channels got {source.shape[1]}")
    return torch.empty_like(source), source.new_empty(0), source.new_empty(0)


def _tensors(args: Any) -> Iterator[Tensor]:
    for argument in args:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


def _axis(args: Any, kwargs: Mapping[str, Any], position: int) -> int:
    """The `dim` argument of an operation on maps (b, c, h, w), which is at `position`."""
    dim: int = args[position] if len(args) > position else kwargs.get("dim", 0)
    return dim % 4
