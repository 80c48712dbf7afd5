"""The objectives and devices of a run, as its `run.json` says them."""

from __future__ import annotations

from collections.abc import Mapping

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import ACCURACY, DEFAULT, Objectives, accuracy_objective, cost_objective


def objectives_of_run(run: Mapping[str, object], device: str | None = None) -> Objectives:
    """The objectives in a `run.json`, also in one written when there were always two; the default where it is silent.

    With a `device`, as `on_device`: its accuracy against the latency there.
    """
    if device is not None:
        return on_device(run, device)
    found = run.get("objectives")
    if isinstance(found, list) and len(found) > 1 and all(isinstance(name, str) for name in found):
        try:
            return Objectives(accuracy_objective(found[0]), tuple(cost_objective(name) for name in found[1:]))
        except InputError:
            return DEFAULT
    before = run.get("objective")
    accuracy = before.get("accuracy") if isinstance(before, Mapping) else None
    return DEFAULT.with_accuracy(accuracy) if accuracy in ACCURACY else DEFAULT


def devices_of_run(run: Mapping[str, object]) -> list[str]:
    """The names of the devices in a `run.json`, the main one first; empty where it names none."""
    further = run.get("further_devices")
    recorded = [run.get("device"), *(further if isinstance(further, list) else ())]
    return [str(device["name"]) for device in recorded if isinstance(device, Mapping) and "name" in device]


def whole_epochs(run: Mapping[str, object], epochs: int) -> str:
    """Epochs of a search's trial as a person counts them: those of a run may be parts of the images each."""
    training = run.get("training")
    parts = training.get("epoch_parts", 1) if isinstance(training, Mapping) else 1
    return f"{round(epochs / parts, 2):.12g}"


def on_device(run: Mapping[str, object], device: str) -> Objectives:
    """The run's accuracy against the latency on one of its devices. Raises InputError for another one."""
    devices = devices_of_run(run)
    if device not in devices:
        raise InputError(f"--device {device}: this run was not timed there, expected one of: {', '.join(devices)}")
    objectives = objectives_of_run(run)
    return objectives.against("latency_ms" if device == devices[0] else f"latency_ms@{device}")
