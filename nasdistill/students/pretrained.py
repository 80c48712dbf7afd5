"""Pretrained weights from a file: which of its tensors fit a student, and how they get into it.

A file knows nothing of the network it came from but names and shapes. Names are matched up to a common prefix and to
timm's flattening of `stages.0` to `stages_0`; widths may differ: then the first channels of each run are taken, where the
runs of the file's network follow from the student's own (students/channels.py) and the shapes in the file. A file of the
same network under names of its own is told by the order, the shapes and the last names of its tensors.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nasdistill.errors import InputError
from nasdistill.students.channel_graph import ChannelGraph, Run, Runs
from nasdistill.students.channels import trace_channels
from nasdistill.students.slicing import Pieces, copy_pieces, pair_runs
from nasdistill.students.student import Student

SUFFIXES = (".safetensors", ".pt", ".pth")
_COUNTER = "num_batches_tracked"  # older files leave these out
_NESTED = ("state_dict_ema", "ema", "state_dict", "model_state", "model")


@dataclass(frozen=True)
class Fit:
    """What of a file fitted a student.

    `backbone` is the share of the backbone's weight tensors that got values, 0..1, and `whole` says that all of its tensors
    were there in their very shapes; `fitted` counts all tensors that got values; `misfits` names those whose shapes do not
    fit, with both shapes; `unknown` counts tensors of the file that the student does not have at all (a classifier's head).
    """

    backbone: float
    whole: bool
    fitted: int
    misfits: tuple[str, ...]
    unknown: int

    @property
    def belongs(self) -> bool:
        """The file holds this backbone: most of its tensors have a place here, and fill most of the backbone."""
        return self.backbone >= 0.5 and self.unknown <= self.fitted

    def __str__(self) -> str:
        shown = "; ".join(self.misfits[:3]) + (f"; {len(self.misfits) - 3} more" if len(self.misfits) > 3 else "")
        return (
            f"{self.fitted} tensors fit ({self.backbone:.0%} of the backbone's), {self.unknown} are not in the student, "
            f"{len(self.misfits)} have other shapes{': ' + shown if shown else ''}"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file or of a `.pt` / `.pth` that torch reads without running any code.

    A dict that holds the tensors under one of the usual keys (`state_dict`, `model`, `ema` …) is opened.

    Raises:
        InputError: the file is missing, unreadable, or holds something else.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: weights are {', '.join(SUFFIXES)} files")
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as weights ({_first_line(error)})") from error
    except Exception as error:  # pickle's own errors, whose class depends on what the file holds
        raise InputError(f"{path}: not a file of tensors alone ({_first_line(error)})") from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {}
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no named tensors")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@torch.no_grad()
def fit_weights(weights: Mapping[str, Tensor], student: Student) -> Fit:
    """Copy into `student` what of `weights` fits it. Changes `student`."""
    graph, state = trace_channels(student.model), student.model.state_dict()
    backbone = [name for name in state if int(name.split(".")[1]) < student.backbone_layers]
    sources = _matched_names(weights, state)
    if len(sources) < len(backbone) / 2:
        sources = _matched_order(weights, {name: state[name] for name in backbone}) or sources
    sizes = _group_sizes(graph, {name: weights[source] for name, source in sources.items()})
    fitted, misfits = set(), []
    for name, source in sources.items():
        tensor, offered = state[name], weights[source]
        axes = _pieces(name, offered, tensor, graph, sizes, f"model.{len(student.model.model) - 1}.")
        if axes is None:
            misfits.append(f"{source} {tuple(offered.shape)} for {tuple(tensor.shape)}")
        elif copy_pieces(offered, tensor, axes):
            fitted.add(name)
    heavy = [name for name in backbone if name.endswith("weight") and state[name].ndim > 1]
    share = sum(name in fitted for name in heavy) / max(1, len(heavy))
    found = {name: weights[source].shape for name, source in sources.items()}
    whole = all(found.get(name) == state[name].shape for name in _counterless(backbone))
    unknown = len(set(_counterless(weights)) - set(sources.values()))
    return Fit(share, whole, len(fitted), tuple(misfits), unknown)


def _matched_names(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Tensor of the student -> tensor of the file, under the prefix by which most names agree."""
    ours = {_flat(name): name for name in state}
    best: dict[str, str] = {}
    for strip in ("", *sorted({f"{name.split('.')[0]}." for name in weights})):
        theirs = {_flat(name.removeprefix(strip)): name for name in weights}
        votes = Counter(
            name[: len(name) - len(tail)] for tail in theirs for name in ours if f"_{name}".endswith(f"_{tail}")
        )
        for prefix, _ in votes.most_common(1):
            found = {ours[prefix + tail]: name for tail, name in theirs.items() if prefix + tail in ours}
            best = max(best, found, key=len)
        if votes:
            break
    return best


def _matched_order(weights: Mapping[str, Tensor], backbone: Mapping[str, Tensor]) -> dict[str, str]:
    """The same, where the file begins with all the backbone's tensors in order, by shapes and last names; else nothing."""
    ours, theirs = _counterless(backbone), _counterless(weights)
    pairs = dict(zip(ours, theirs, strict=False))
    same = len(pairs) == len(ours) and all(
        weights[b].shape == backbone[a].shape and a.split(".")[-1] == b.split(".")[-1] for a, b in pairs.items()
    )
    return pairs if same else {}


def _counterless(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(_COUNTER)]


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _group_sizes(graph: ChannelGraph, offered: Mapping[str, Tensor]) -> dict[int, int]:
    """How many channels each group has in the file's network: read off the tensors that make it, run by run."""
    sizes: dict[int, int] = {}
    for name, tensor in offered.items():
        runs = graph.axes.get(name, ((),))[0]
        total = sum(run.size for run in runs)
        if tensor.ndim and total:
            for run in runs:
                if run.size * len(tensor) % total == 0:
                    sizes.setdefault(run.group, run.size * len(tensor) // total)
    return sizes


def _pieces(
    name: str, offered: Tensor, tensor: Tensor, graph: ChannelGraph, sizes: Mapping[int, int], head: str
) -> tuple[Pieces, ...] | None:
    """The pieces to copy along each axis; None where the shapes have nothing to do with one another.

    `head` is how the names of the Detect head's tensors begin.
    """
    if offered.shape == tensor.shape:
        return ()
    axes = graph.axes.get(name)
    if axes is None or offered.ndim != tensor.ndim or offered.shape[len(axes) :] != tensor.shape[len(axes) :]:
        return None
    found = []
    for runs, length in zip(axes, offered.shape, strict=False):
        unmade = length if len(runs) == 1 else 0  # images, and what unfollowed operations make
        theirs: Runs = tuple(Run(run.origin, sizes.get(run.group, unmade), run.group) for run in runs)
        # locked channels of another number mean something else: classes, parts of attention's heads
        changed = any(run.group in graph.locked and run.size != own.size for run, own in zip(theirs, runs, strict=True))
        if changed and (len(runs) > 1 or name.startswith(head)):
            return None
        if sum(run.size for run in theirs) > length:
            return None
        found.append(tuple(piece for piece in pair_runs(theirs, runs) if piece.length))
    return tuple(found)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
