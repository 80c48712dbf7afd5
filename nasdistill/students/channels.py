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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from ultralytics.nn.modules.block import Attention
from ultralytics.nn.tasks import DetectionModel

Numbers = np.ndarray
"""Channel numbers along one axis, (channels,) int64."""

_UNARY = frozenset(
    "silu relu leaky_relu hardswish hardsigmoid hardtanh sigmoid tanh gelu elu mish softplus relu6 abs neg exp clamp "
    "max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d upsample_bilinear2d "
    "_upsample_nearest_exact2d detach clone alias _to_copy native_dropout bernoulli".split()
)
_BINARY = frozenset("add sub mul div".split())
_NORMS = ("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update")


@dataclass(frozen=True)
class Run:
    """Neighbouring channels that are neighbours wherever they are read.

    `origin` names the operation that made them and their place in its output; equal in networks of one family. Runs of
    one `group` hold the same channels: they are permuted and pruned together.
    """

    origin: str
    size: int
    group: int


Runs = tuple[Run, ...]


@dataclass(frozen=True)
class ChannelGraph:
    """The runs along the axes of a model's tensors.

    Attributes:
        axes: tensor name -> its leading axes, each a row of runs. Tensors that are missing were not followed.
        locked: groups that an operation reads which is not followed; they keep their channels and their order.
        fixed: groups whose sizes are written down in a module; they keep their number of channels.
        unfollowed: operations that are not followed -> the channel counts they depend on.
        sums: places where two maps are added or multiplied, by module.
    """

    axes: Mapping[str, tuple[Runs, ...]]
    locked: frozenset[int]
    fixed: frozenset[int]
    unfollowed: Mapping[str, tuple[int, ...]]
    sums: frozenset[str]

    def prunable(self) -> frozenset[int]:
        """Groups that may lose channels."""
        everything = {run.group for axes in self.axes.values() for runs in axes for run in runs}
        return frozenset(everything - self.locked - self.fixed)


def trace_channels(model: DetectionModel) -> ChannelGraph:
    """Follow the channels of `model` through one training pass on shapes; `model` is not changed.

    Raises:
        RuntimeError: the model cannot run at the size that its strides ask for.
    """
    twin = copy.deepcopy(model).to("meta").float().train()
    size = max(64, 2 * int(twin.stride.max()))
    tracer = _Tracer({id(t): name for name, t in (*twin.named_parameters(), *twin.named_buffers())})
    with torch.no_grad(), _watched(twin, tracer), tracer:
        images = torch.zeros(2, 3, size, size, device="meta")
        tracer.lock(tracer.numbers(images, "images"))
        twin(images)
    return tracer.graph()


class _Tracer(TorchDispatchMode):
    """Watches operations. Channels are numbered; equal ones are joined in a union-find forest whose roots hold flags."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self._parent: list[int] = []
        self._starts: list[bool] = []  # flags of roots: a run starts here
        self._locked: list[bool] = []
        self._fixed: list[bool] = []
        self._producer: list[tuple[str, int]] = []  # of each channel: its maker's name and first number
        self._known: dict[int, tuple[Tensor, Numbers]] = {}  # holds the tensor, so that its id is not used again
        self._axes: dict[str, tuple[Numbers, ...]] = {}
        self._unfollowed: dict[str, tuple[int, ...]] = {}
        self._counts: dict[str, int] = {}
        self._chunks: list[list[Numbers]] = []
        self._sums: set[str] = set()
        self.places: list[str] = [""]
        self.asleep = 0

    # Channels

    def fresh(self, count: int, producer: str, locked: bool = False) -> Numbers:
        """New channels; the first one starts a run."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        self._starts += [index == 0 for index in range(count)]
        self._locked += [locked] * count
        self._fixed += [False] * count
        self._producer += [(producer, first)] * count
        return np.arange(first, first + count)

    def _root(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def join(self, first: Numbers, second: Numbers) -> None:
        """The two rows hold the same channels from now on."""
        for one, two in zip(first.tolist(), second.tolist(), strict=True):
            root, other = self._root(one), self._root(two)
            if root != other:
                self._parent[other] = root
                for flags in (self._starts, self._locked, self._fixed):
                    flags[root] = flags[root] or flags[other]

    def start_run(self, numbers: Numbers, place: int) -> None:
        """A run starts at `place` of a row."""
        if 0 < place < len(numbers):
            self._starts[self._root(int(numbers[place]))] = True

    def lock(self, numbers: Numbers) -> None:
        for number in numbers.tolist():
            self._locked[self._root(number)] = True

    def _fix(self, numbers: Numbers) -> None:
        for number in numbers.tolist():
            self._fixed[self._root(number)] = True

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
            self.assign(tensor, self.fresh(tensor.shape[1], where, locked=True))
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
                self.join(before, now)
        self._axes.setdefault(name, axes)

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.asleep:
            self._follow(func.overloadpacket.__name__.removesuffix("_"), args, kwargs or {}, output)
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
        if name is None or transposed or 1 < groups != source.shape[1] or (groups > 1 and channels != groups):
            self._give_up("convolution", (source, output))
        elif groups == 1:
            made = self.fresh(channels, name)
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
            made = self.fresh(output.shape[1], place)
            self.join(made, self.numbers(known))
            self.join(made, self.numbers(other))
            self.assign(output, made)
        else:
            self._give_up(name, (one, two))

    def _split(self, source: Tensor, outputs: Any, fixed: bool) -> None:
        row, at = self.numbers(source), 0
        for part in outputs:
            self.start_run(row, at)
            self.assign(part, row[at : at + part.shape[1]])
            at += part.shape[1]
        if fixed:
            self._fix(row)
        else:
            self._chunks.append([self.numbers(part) for part in outputs])

    def _slice(self, output: Tensor, source: Tensor, dim: int = 0, start: int | None = None, *rest: Any) -> None:
        row = self.numbers(source)
        if dim == 1 and output.shape[1] != len(row):
            if len(rest) > 1 and rest[1] != 1:
                self._give_up("slice", (source,))
                return
            begin = (start or 0) % len(row)
            self.start_run(row, begin)
            self.start_run(row, begin + output.shape[1])
            self._fix(row)
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
                self.assign(first, self.fresh(1, place, locked=True))

    def _give_up(self, name: str, args: Any) -> None:
        sizes = []
        for tensor in _tensors(args):
            if self.follows(tensor):
                row = self.numbers(tensor)
                self.lock(row)
                sizes.append(len(row))
        self.note(self.place(name), *sizes)

    # Result

    def graph(self) -> ChannelGraph:
        """What was found."""
        while any([self._level(parts) for parts in self._chunks]):
            pass
        rows: dict[int, tuple[int, ...]] = {}
        locked: set[int] = set()
        fixed: set[int] = set()
        axes = {}
        for name, numbered in self._axes.items():
            axes[name] = tuple(tuple(self._runs(row, rows, locked, fixed)) for row in numbered)
        return ChannelGraph(axes, frozenset(locked), frozenset(fixed), dict(self._unfollowed), frozenset(self._sums))

    def _level(self, parts: list[Numbers]) -> bool:
        """Chunks are as wide as one another: where one keeps its channels, all do. Returns whether that fixed any."""
        roots = [[self._root(number) for number in part.tolist()] for part in parts]
        keeps = [self._locked[root] or self._fixed[root] for part in roots for root in part]
        shapes = {tuple(place for place, root in enumerate(part) if self._starts[root]) for part in roots}
        if all(keeps) or not (any(keeps) or len(shapes) > 1):
            return False
        for part in parts:
            self._fix(part)
        return True

    def _runs(
        self, row: Numbers, rows: dict[int, tuple[int, ...]], locked: set[int], fixed: set[int]
    ) -> Iterator[Run]:
        roots = [self._root(number) for number in row.tolist()]
        begins = [place for place, root in enumerate(roots) if place == 0 or self._starts[root]]
        for begin, end in zip(begins, [*begins[1:], len(roots)], strict=True):
            members = tuple(roots[begin:end])
            group = members[0]
            if rows.setdefault(group, members) != members or any(self._locked[root] for root in members):
                locked.add(group)
            if any(self._fixed[root] for root in members):
                fixed.add(group)
            producer, origin = self._producer[int(row[begin])]
            ordinal = sum(self._starts[self._root(number)] for number in range(origin, int(row[begin])))
            yield Run(f"{producer}#{ordinal}", len(members), group)


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


@contextmanager
def _watched(model: nn.Module, tracer: _Tracer) -> Iterator[None]:
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


def _attention(tracer: _Tracer, name: str, module: Attention, source: Tensor, output: Tensor) -> None:
    """Ultralytics' self-attention: heads of (key, key, head) channels, one after the other.

    Leading heads of the same size compute what they compute in the whole; heads of another size do not.
    """
    row = tracer.numbers(source)
    head = 2 * module.key_dim + module.head_dim
    made = tracer.fresh(head * module.num_heads, f"{name}.qkv", locked=True)
    for number in range(module.num_heads):
        for start in (0, module.key_dim, 2 * module.key_dim):
            tracer.start_run(made, number * head + start)
    values = made.reshape(module.num_heads, head)[:, 2 * module.key_dim :].reshape(-1)
    projected = tracer.fresh(len(values), f"{name}.proj")
    for layer, out, into in ((module.qkv, made, row), (module.pe, values, None), (module.proj, projected, values)):
        tracer.record(layer.conv.weight, out, *([] if into is None else [into]))
        for tensor in (layer.bn.weight, layer.bn.bias, layer.bn.running_mean, layer.bn.running_var):
            tracer.record(tensor, out)
    tracer.lock(row)  # the module reshapes by the width of its input
    tracer.note(name, module.key_dim, module.head_dim)
    tracer.assign(output, projected)


MODULE_RULES: dict[type[nn.Module], Callable[[_Tracer, str, Any, Tensor, Tensor], None]] = {Attention: _attention}
"""Layer types that are not followed operation by operation: rule(tracer, name, module, input, output)."""
