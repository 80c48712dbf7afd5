"""`--warm-start`: the results of an earlier run, which a sampler knows before its first trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasdistill.config import TrainingSettings
from nasdistill.errors import InputError
from nasdistill.pareto.objectives import DEFAULT, Objectives
from nasdistill.prepare.inputs import Inputs
from nasdistill.records import TrialResult
from nasdistill.search.memory import Warmth
from nasdistill.session.preparation import starts_of
from nasdistill.store.run_folder import RunFolder
from nasdistill.store.tables import read_trials_csv, write_trials_csv

WARM_START_NAME = "warm_start.csv"
"""In the run folder: the earlier results that warm its sampler, so that it can be resumed, or moved, without them."""
_COMPARED = {"space_text": "search space", "device": "device", "data_hash": "data"}


@dataclass(frozen=True)
class WarmStart:
    """The complete trials of an earlier run, and what `run.json` keeps of their recipe, length and starting weights."""

    results: list[TrialResult]
    facts: dict[str, Any]


def read_warm_start(path: Path, inputs: Inputs, objectives: Objectives = DEFAULT) -> WarmStart:
    """An earlier run, which may have had other objectives and more or fewer further devices.

    Raises:
        InputError: no run, one without a complete trial, or whose trials have not the figures that are `objectives` here, or
            one of another space, device, data set or teacher.
    """
    run = RunFolder.open(path)
    recorded = run.read_run()
    here = {
        "space_text": inputs.space.text,
        "device": inputs.device.model_dump(),
        "data_hash": inputs.data_hash,
    }
    for key, name in _COMPARED.items():
        if recorded.get(key) != here[key]:
            raise InputError(
                f"--warm-start {path}: that run had another {name}; its results say nothing about this one"
            )
    teacher = recorded.get("teacher")
    if not isinstance(teacher, Mapping) or teacher.get("sha256") != inputs.teacher.sha256:
        raise InputError(f"--warm-start {path}: that run had another teacher; its results say nothing about this one")
    here_too = {device.name: device.model_dump() for device in inputs.devices[1:]}
    for device in recorded.get("further_devices", ()):
        if here_too.get(device["name"], device) != device:
            raise InputError(f"--warm-start {path}: that run had another device of the name {device['name']}")
    complete = [result for result in run.results() if result.state == "complete"]
    if not complete:
        raise InputError(f"--warm-start {path}: that run has no complete trial")
    for objective in objectives:
        if all(objective.of(result) is None for result in complete):
            raise InputError(f"--warm-start {path}: its trials have no {objective.name}, an objective of this one")
    training, preparation = recorded.get("training", {}), recorded.get("preparation", {})
    facts = {
        "epoch_parts": training.get("epoch_parts", 1),
        "recipe": training.get("recipe"),
        "images_per_epoch": preparation.get("images_per_epoch"),
        **starts_of(preparation),
    }
    return WarmStart(complete, facts)


def keep_warm_start(run: RunFolder, warm: WarmStart) -> None:
    """Keep a copy of an earlier run's results in `run`."""
    write_trials_csv(run.path / WARM_START_NAME, warm.results, ())
    run.update_run(warm_start=warm.facts)


def kept_warm_start(run: RunFolder, training: TrainingSettings) -> list[Warmth]:
    """The earlier results that this run, prepared by now, keeps a copy of.

    Their fidelity is their length in images as a share of this run's trials'. Scores by another recipe, or from other
    starting weights, do not compare at any length.
    """
    file, recorded = run.path / WARM_START_NAME, run.read_run()
    if not file.is_file():
        return []
    there, here = recorded["warm_start"], recorded["preparation"]
    same = there["recipe"] == training.recipe.model_dump(mode="json")
    if not same or starts_of(there) != starts_of(here):
        return [Warmth(one, None) for one in read_trials_csv(file)]
    images = [facts["images_per_epoch"] for facts in (there, here)] if there["images_per_epoch"] else [1, 1]
    # whole numbers until the one division: the same length must come out as exactly 1
    theirs, ours = images[0] * training.epoch_parts, images[1] * training.epochs * there["epoch_parts"]
    return [Warmth(one, one.epochs * theirs / ours if one.epochs else 1.0) for one in read_trials_csv(file)]
