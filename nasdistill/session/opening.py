"""Opening what a run works on: data, teacher and space, read, checked and matched."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nasdistill.errors import InputError
from nasdistill.prepare.inputs import Inputs, load_inputs
from nasdistill.progress import Progress
from nasdistill.search.budget import BudgetClock
from nasdistill.session.data_free import NO_DATA, SynthesisOnRequest
from nasdistill.session.goals import Goals
from nasdistill.store.provenance import usable_cores

MOST_PROBLEMS_SHOWN = 5
SMALL_PX = 8  # a cell of the finest level
MANY_SMALL = 0.2  # the share of narrower objects from which on it is said


def open_inputs(
    settings: Mapping[str, Any],
    recorded: Mapping[str, Any],
    goals: Goals,
    clock: BudgetClock,
    *,
    workers: int | None,
    trust_teacher: bool,
    cache: Path,
    progress: Progress,
) -> tuple[Inputs, SynthesisOnRequest | None]:
    """The inputs that `settings` name, and what made the images where there were none.

    `recorded` is what run.json says of a run that goes on, empty for a new one. Such a run keeps the search space it was
    started with, whatever has become of the file.

    Raises:
        InputError: a wrong input, or data, teacher or devices that are no longer those of the run.
    """
    synthesis = None
    if settings["data"] == NO_DATA:
        synthesis = SynthesisOnRequest(settings, recorded, clock, workers or usable_cores(), cache, progress)
    inputs = load_inputs(
        data=None if synthesis else _path(settings["data"]),
        teacher=_path(settings["teacher"]),
        teacher_yaml=_path(settings["teacher_yaml"]),
        trust_teacher=trust_teacher,
        space=settings["space"],
        devices=goals.devices,
        cache=cache,
        on_progress=progress.step,
        synthesise=synthesis,
        kept_space=recorded.get("space_text"),
    )
    _check_unchanged(inputs, recorded)
    return _as_begun(inputs, recorded), synthesis


def _as_begun(inputs: Inputs, recorded: Mapping[str, Any]) -> Inputs:
    """Without pretrained weights that were not there when the run was begun: all students of a lineage start alike."""
    begun = recorded.get("preparation", {}).get("pretrained")
    if begun is None:  # a new run, or one of a version that did not record them
        return inputs
    late = [name for name in inputs.pretrained if name not in begun]
    return replace(
        inputs,
        pretrained={name: file for name, file in inputs.pretrained.items() if name in begun},
        notes=(*inputs.notes, *(f"{name}: this run began without these weights and goes on without" for name in late)),
    )


def _check_unchanged(inputs: Inputs, recorded: Mapping[str, Any]) -> None:
    """Scores on other data, of another teacher's students or from another device belong on no front of the run."""
    here = {
        "data_hash": (inputs.data_hash, str(inputs.dataset.yaml_path), "the data"),
        "device": (inputs.device.model_dump(mode="json"), f"device {inputs.device.name}", "it"),
        "further_devices": (
            [device.model_dump(mode="json") for device in inputs.devices[1:]],
            "--device",
            "a further device",
        ),
    }
    for key, (now, where, what) in here.items():
        if recorded.get(key, now) != now:
            raise InputError(f"{where}: {what} changed since the run was started; start a new run")
    before = recorded.get("teacher", {}).get("sha256", inputs.teacher.sha256)
    if before != inputs.teacher.sha256:
        raise InputError(f"teacher {inputs.teacher.name}: it changed since the run was started; start a new run")


def tell_notes(inputs: Inputs, goals: Goals, progress: Progress) -> None:
    """What a person should know of the inputs: the first problems of the data, and notes."""
    problems = inputs.dataset.problems
    for problem in problems[:MOST_PROBLEMS_SHOWN]:
        progress.log(f"skipped: {problem}")
    if len(problems) > MOST_PROBLEMS_SHOWN:
        progress.log(f"skipped: {len(problems) - MOST_PROBLEMS_SHOWN} more problems in the data")
    for note in (*inputs.notes, *goals.notes, *_of_small_objects(inputs)):
        progress.log(note)


def _of_small_objects(inputs: Inputs) -> list[str]:
    """A line where many of the objects are too small for the students' images."""
    size = max(inputs.image_sizes)
    sides = np.concatenate([boxes[:, 3:5].min(axis=1) for boxes in inputs.dataset.splits["val"].boxes])
    share = float((sides * size < SMALL_PX).mean()) if len(sides) else 0.0
    if share < MANY_SMALL:
        return []
    return [
        f"{share:.0%} or more of the objects are narrower than {SMALL_PX} px in the students' images of {size} px (the "
        f"teacher's have {inputs.teacher_size}): a search space with a larger image_size sees them better"
    ]


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
