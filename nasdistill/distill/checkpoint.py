"""A stage of training on disk, so that another process goes on with it: tensors alone, no pickle."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.optim import Optimizer

from nasdistill.distill.stage import StageTraining
from nasdistill.store.atomic import replacing

_MODEL, _CONNECTORS = "model.", "connectors."
_RANDOM = "random."


def save_training(path: Path, training: StageTraining, facts: Mapping[str, str]) -> None:
    """Write weights, connectors, the optimisers' moments, torch's random numbers and the step.

    `facts` come back from `read_facts`.
    """
    tensors = {_MODEL + name: tensor for name, tensor in training.student.model.state_dict().items()}
    tensors |= {_CONNECTORS + name: tensor for name, tensor in training.connectors.state_dict().items()}
    for prefix, optimizer in _by_prefix(training):
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}{index}.{name}": tensor for name, tensor in moments.items()}
    tensors |= {_RANDOM + device: state for device, state in _random_states(training.device).items()}
    # clones, since two names may share their memory, which the format refuses
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    scaler = json.dumps(training.scaler.state_dict())
    with replacing(path) as temporary:
        save_file(kept, temporary, metadata={**facts, "step": str(training.step), "scaler": scaler})


def read_facts(path: Path) -> dict[str, str] | None:
    """What was told about a saved stage; None where there is none, or a damaged one."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return None


def restore_training(path: Path, training: StageTraining) -> None:
    """Bring a stage, set up as the saved one was, to where that was saved. Changes its student and connectors."""
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    training.student.model.load_state_dict(part(_MODEL))
    training.connectors.load_state_dict(part(_CONNECTORS))
    for prefix, optimizer in _by_prefix(training):
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in part(prefix).items():
            index, moment = name.split(".", 1)
            moments.setdefault(int(index), {})[moment] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        _lay_out_like_parameters(optimizer)
    scaler = json.loads(facts["scaler"])
    if scaler:  # empty where the saving process trained in a type that needs none
        training.scaler.load_state_dict(scaler)
    training.go_on_from(int(facts["step"]))
    random = part(_RANDOM)
    if "cpu" in random:
        torch.set_rng_state(random["cpu"])
    if "cuda" in random and training.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], training.device)


def _random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Of the generators that a step may draw from (masked generative distillation does)."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _lay_out_like_parameters(optimizer: Optimizer) -> None:
    """Moments were written row by row, weights lie channels last: torch's fused kernels want both alike."""
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(moment)


def _by_prefix(training: StageTraining) -> list[tuple[str, Optimizer]]:
    """The stage's optimisers, by what the names of their moments begin with."""
    return [(f"optimizer.{number}.", optimizer) for number, optimizer in enumerate(training.optimizers)]
