"""What a search may know before its first trial: configurations to begin with, and the results of an earlier run."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nasdistill.config import TrainingSettings
from nasdistill.errors import InputError
from nasdistill.pareto.objectives import DEFAULT, Objectives
from nasdistill.prepare.inputs import Inputs
from nasdistill.records import ADDED_PARAMS, Scalar, TrialResult
from nasdistill.search.memory import Warmth
from nasdistill.session.preparation import starts_of
from nasdistill.space.search_space import SearchSpace
from nasdistill.store.run_folder import RunFolder
from nasdistill.store.tables import param_value, read_trials_csv, write_trials_csv

WARM_START_NAME = "warm_start.csv"
"""In the run folder: the earlier results that warm its sampler, so that it can be resumed, or moved, without them."""
_PARAM = "param."
_COMPARED = {"space_text": "search space", "device": "device", "data_hash": "data"}


def read_configurations(path: Path, space: SearchSpace) -> list[dict[str, Scalar]]:
    """The complete points in a file: YAML or JSON (a list of mappings from parameter to value), or CSV.

    CSV has a row a point, in `param.<name>` columns like `trials.csv` or in columns named like the parameters. A
    parameter that the space fixes may be left out.

    Raises:
        InputError: an unreadable file, or a point outside the space; names file, entry and parameter.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InputError(f"--enqueue {path}: cannot be read ({reason})") from None
    kind = path.suffix.lower()
    if kind == ".csv":
        entries = _csv_entries(text, path)
    elif kind in (".yaml", ".yml", ".json"):
        entries = _yaml_entries(text, path)
    else:
        raise InputError(f"--enqueue {path}: expected a file ending in .yaml, .yml, .json or .csv")
    if not entries:
        raise InputError(f"--enqueue {path}: holds no configuration")
    return [_point(entry, space, f"--enqueue {path}, {where}") for where, entry in entries]


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


def _yaml_entries(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"--enqueue {path}{where}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise InputError(f"--enqueue {path}: expected a list of configurations")
    entries = []
    for index, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise InputError(f"--enqueue {path}, entry {index}: expected parameters and values, got {entry!r}")
        entries.append((f"entry {index}", {str(name): value for name, value in entry.items()}))
    return entries


def _csv_entries(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [name for name in reader.fieldnames or [] if name is not None]
    named = [name for name in columns if name.startswith(_PARAM)] or columns
    entries = []
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"--enqueue {path}, {where}: the row has not as many cells as the header")
            entry = {name.removeprefix(_PARAM): param_value(row[name]) for name in named if row[name] != ""}
            entries.append((where, entry))
    except (csv.Error, ValueError) as error:
        raise InputError(f"--enqueue {path}, line {reader.line_num}: {error}") from None
    return entries


def _point(entry: Mapping[str, Any], space: SearchSpace, where: str) -> dict[str, Scalar]:
    given = {name: value for name, value in entry.items() if name not in ADDED_PARAMS}
    for name, value in given.items():
        if not isinstance(value, str | int | float | bool):
            raise InputError(f"{where}: {name} is {value!r}, expected a number or a name")
    point = space.complete(given)
    reason = space.contains(point)
    if reason is not None:
        raise InputError(f"{where}: {reason}")
    return point
