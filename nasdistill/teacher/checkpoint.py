"""Reading a teacher's file without running a stranger's code.

Three kinds are read: safetensors, a `.pt` of bare tensors (both need the model's YAML, which a safetensors file may carry
in its metadata), and an Ultralytics checkpoint, which is a pickled model. The last is read through an allow-list: torch's
restricted unpickler with layer classes of torch and ultralytics only. Anything else is refused unless the caller trusts
the file.
"""

import importlib
import json
import pathlib
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, _SafeLoad, temporary_modules, yaml_model_load
from ultralytics.utils import IterableSimpleNamespace
from ultralytics.utils.loss import E2EDetectLoss

from nasdistill.errors import InputError

MODULE_PREFIXES = ("torch.nn.modules.", "ultralytics.nn.modules.", "ultralytics.nn.tasks")
LOSS_MODULES = ("ultralytics.utils.loss", "ultralytics.utils.tal")
# What older versions of ultralytics called things, as it reads them itself.
RENAMED = {
    "ultralytics.yolo.utils.IterableSimpleNamespace": IterableSimpleNamespace,
    "ultralytics.nn.tasks.YOLOv10DetectionModel": DetectionModel,
    "ultralytics.nn.modules.block.Silence": nn.Identity,
    "ultralytics.utils.loss.v10DetectLoss": E2EDetectLoss,
}
LAYERS_PACKAGE = "ultralytics.nn.modules"  # older ones have layers of this one module, now of several


@dataclass(frozen=True)
class Checkpoint:
    """What a teacher's file holds: the detection model, its class names, and the input size it was trained at."""

    model: nn.Module
    names: tuple[str, ...]
    image_size: int | None


def read_checkpoint(path: Path, model_yaml: Path | None = None, trust: bool = False) -> Checkpoint:
    """Read a teacher's file.

    Args:
        path: `.safetensors`, or `.pt` / `.pth`.
        model_yaml: the Ultralytics model YAML of a file that holds bare tensors.
        trust: unpickle a file that holds classes beyond the allow-list. It can run any code: only for your own files.

    Raises:
        InputError: the file is missing, unreadable, refused, or holds no detector.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such teacher file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, model_yaml)
    content = _read_pickle(path, trust)
    candidate = (content.get("ema") or content.get("model")) if isinstance(content, dict) else content
    if isinstance(candidate, nn.Module):
        arguments = content.get("train_args", {}) if isinstance(content, dict) else {}
        size = arguments.get("imgsz") if isinstance(arguments, dict) else None
        names = _names_of(getattr(candidate, "names", None), path)
        return Checkpoint(candidate.float(), names, size if isinstance(size, int) else None)
    tensors = candidate if isinstance(candidate, dict) else content
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise InputError(f"{path}: neither an Ultralytics checkpoint nor a file of named tensors")
    if model_yaml is None:
        raise InputError(f"{path}: holds bare tensors; name their model with --teacher-yaml (for example yolo11n.yaml)")
    description = read_model_yaml(model_yaml)
    return Checkpoint(_fill(description, tensors, path), _names_of(description.get("names"), path), None)


def read_model_yaml(path: Path) -> dict[str, Any]:
    """Read an Ultralytics model YAML, from a file or, by name, from the ultralytics package (`yolo11n.yaml`)."""
    try:
        description = yaml_model_load(path)
    except (FileNotFoundError, OSError) as error:
        raise InputError(f"{path}: no such model YAML, neither a file nor one that ultralytics ships") from error
    except (yaml.YAMLError, ValueError) as error:  # ultralytics says YAML errors again as ValueError
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(description, dict) or not {"backbone", "head"} <= description.keys():
        raise InputError(f"{path}: not an Ultralytics model YAML: it needs 'backbone' and 'head'")
    return description


def _read_safetensors(path: Path, model_yaml: Path | None) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    if model_yaml is None and "model_yaml" not in metadata:
        raise InputError(
            f"{path}: carries no model description; name it with --teacher-yaml (for example yolo11n.yaml)"
        )
    try:
        description = json.loads(metadata["model_yaml"]) if model_yaml is None else read_model_yaml(model_yaml)
        names = json.loads(metadata["names"]) if "names" in metadata else description.get("names")
        size = int(metadata["image_size"]) if "image_size" in metadata else None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path}: its metadata cannot be read ({_first_line(error)})") from error
    return Checkpoint(_fill(description, tensors, path), _names_of(names, path), size)


def _fill(description: dict[str, Any], tensors: Mapping[str, torch.Tensor], path: Path) -> nn.Module:
    """Build the described model with the tensors of `path` in it."""
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    classes = _classes_of(tensors) or description.get("nc")
    try:
        with _no_evaluation():
            model = DetectionModel(description, nc=classes, verbose=False)
    except Exception as error:  # a description can fail in every layer's constructor
        raise InputError(f"{path}: the model YAML cannot be built ({_first_line(error)})") from error
    missing, unexpected = (
        model.load_state_dict(dict(tensors), strict=False) if _shapes_fit(model, tensors) else ([], [])
    )
    if missing or unexpected or not _shapes_fit(model, tensors):
        fitting = sum(1 for name, t in model.state_dict().items() if name in tensors and tensors[name].shape == t.shape)
        raise InputError(
            f"{path}: its {len(tensors)} tensors do not fit the model YAML: {fitting} of {len(model.state_dict())} fit"
        )
    return model


@contextmanager
def _no_evaluation() -> Iterator[None]:
    """A block in which ultralytics builds models from layer classes only, and evaluates no text of their description.

    Without it, the `activation` of a description is Python code that is run, be the description in a safetensors file's
    metadata or an argument of an allowed class in a pickle.
    """
    before = getattr(_SafeLoad._local, "active", False)
    # a description that fails half-way would leave its activation as every later model's default
    activation = Conv.default_act
    _SafeLoad._local.active = True
    try:
        yield
    finally:
        _SafeLoad._local.active = before
        Conv.default_act = activation


def _shapes_fit(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(tensors[name].shape == t.shape for name, t in model.state_dict().items() if name in tensors)


def _classes_of(tensors: Mapping[str, torch.Tensor]) -> int | None:
    """Number of classes, read off the last convolution of the head's class branch."""
    biases = [name for name in tensors if ".cv3." in name and name.endswith(".2.bias")]
    return int(tensors[sorted(biases)[0]].shape[0]) if biases else None


def _names_of(names: Any, path: Path) -> tuple[str, ...]:
    """Class names as a tuple; empty when the file carries none (bare tensors)."""
    if isinstance(names, Mapping):
        return tuple(str(names[key]) for key in sorted(names, key=int))
    return tuple(str(name) for name in names) if names else ()


def _read_pickle(path: Path, trust: bool) -> Any:
    try:
        if trust:
            with temporary_modules(
                modules={"ultralytics.yolo.utils": "ultralytics.utils"}, attributes=_renamed_as_text()
            ):
                return torch.load(path, map_location="cpu", weights_only=False)
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        allowed = [(_allowed(name), name) for name in needed]
        refused = [name for found, name in allowed if found is None]
        if refused and refused[0].startswith(("models.", "utils.")):
            raise InputError(
                f"{path}: a checkpoint of the original YOLOv5 or YOLOv7 repository (it holds {refused[0]}), which the "
                "ultralytics package cannot read; train a teacher with that package (yolov5su.pt, yolo11s.pt, …)"
            )
        if refused:
            raise InputError(
                f"{path}: the pickle holds {refused[0]}, which is neither a tensor nor a known layer of torch or "
                "ultralytics; it is read only with --trust-teacher (it can run any code)"
            )
        if "numpy.dtype" in needed:  # dtype instances have classes of their own that the scan does not list
            allowed += [(type(np.dtype(kind)), f"numpy.dtypes.{kind}") for kind in (np.float64, np.float32, np.int64)]
        with torch.serialization.safe_globals([pair for pair in allowed if pair[0] is not None]), _no_evaluation():
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a broken pickle can fail in any way, in the classes that it names as well
        raise InputError(f"{path}: not a readable torch checkpoint ({_first_line(error)})") from error


def _allowed(name: str) -> Any:
    """The object that a global of a pickle may resolve to, or None when it is not on the allow-list."""
    fixed: dict[str, Any] = {
        "ultralytics.utils.IterableSimpleNamespace": IterableSimpleNamespace,
        "types.SimpleNamespace": types.SimpleNamespace,
        "pathlib.PosixPath": pathlib.PurePosixPath,
        "pathlib.WindowsPath": pathlib.PureWindowsPath,
        "pathlib._local.PosixPath": pathlib.PurePosixPath,
        "numpy.dtype": np.dtype,
        "numpy.core.multiarray.scalar": np.float64(0).__reduce__()[0],
        "numpy._core.multiarray.scalar": np.float64(0).__reduce__()[0],
        **RENAMED,
    }
    if name in fixed:
        return fixed[name]
    module, _, attribute = name.rpartition(".")
    is_layer_module = module.startswith(MODULE_PREFIXES) or module == LAYERS_PACKAGE
    if not is_layer_module and module not in LOSS_MODULES:
        return None
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    if not isinstance(found, type):
        return None
    if module == LAYERS_PACKAGE:
        return found if issubclass(found, nn.Module) and found.__module__.startswith(f"{LAYERS_PACKAGE}.") else None
    # a class that the module only imported, or (in layer modules) one that is no layer, is not on the list
    return found if found.__module__ == module and (issubclass(found, nn.Module) or module in LOSS_MODULES) else None


def _renamed_as_text() -> dict[str, str]:
    return {
        old: f"{new.__module__}.{new.__name__}"
        for old, new in RENAMED.items()
        if not old.startswith("ultralytics.yolo")
    }


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
