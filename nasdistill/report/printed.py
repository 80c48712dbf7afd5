"""What the commands print of a run: text for a person, one JSON object for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich import box
from rich.console import Console
from rich.table import Table

from nasdistill.pareto.front import front
from nasdistill.pareto.intervals import certainty
from nasdistill.pareto.objectives import LATENCY_MS, Objectives
from nasdistill.pareto.of_run import objectives_of_run, whole_epochs
from nasdistill.records import LatencyStats, TrialResult
from nasdistill.report.columns import with_unit
from nasdistill.report.console import front_json, front_table
from nasdistill.report.format import factor, in_command, milliseconds, number, percent, shown_path
from nasdistill.report.teacher import teacher_of
from nasdistill.store.provenance import data_free_note
from nasdistill.store.run_folder import RunFolder


def print_front(run: RunFolder, as_json: bool, device: str | None = None, warnings: list[str] | None = None) -> None:
    """The front of a run, or that on one of its devices, as a table or JSON; `warnings` as of `RunFolder.results`."""
    results, recorded = run.results(warnings), run.read_run()
    note = data_free_note(recorded)
    objectives = objectives_of_run(recorded, device)
    members, teacher = front(results, objectives), teacher_of(recorded)
    sure = certainty(results, members, objectives.accuracy.name)
    if as_json:
        warning = {"note": note} if note else {}
        found = front_json(results, members, teacher, objectives=objectives, certainty=sure)
        print(json.dumps({"run": str(run.path), "device": device, **warning, **found}))
        return
    console = Console()
    console.print(front_table(results, members, teacher, objectives=objectives, width=console.width, certainty=sure))
    if note:
        console.print(note)


class Exported(Protocol):
    """What is printed of an export (`nasdistill.export.Exported`)."""

    @property
    def trial(self) -> TrialResult: ...

    @property
    def files(self) -> Mapping[str, Path]: ...

    @property
    def card(self) -> Path: ...


def print_exported(exported: Sequence[Exported], objectives: Objectives, as_json: bool, several: bool = False) -> None:
    """The trials that were exported, with their `objectives`, and the files that were written; as JSON one object, of
    `several` with all in a list."""
    found = [(one.trial, [shown_path(path) for path in (*one.files.values(), one.card)]) for one in exported]
    if as_json:
        told = [{"trial": trial.model_dump(), "files": shown} for trial, shown in found]
        print(json.dumps({"exported": told} if several else told[0]))
        return
    for trial, shown in found:
        costs = ", ".join(with_unit(cost, trial) for cost in objectives.costs)
        print(
            f"trial {trial.trial}: mAP50 {trial.map50:.4f}, mAP50-95 {trial.map50_95:.4f}, {costs}, "
            f"{trial.params_m:.3f} M parameters"
        )
        print("\n".join(shown))


def print_latency(model: Path, stats: LatencyStats, measured_with: Mapping[str, object], as_json: bool) -> None:
    """The latency of one model on one device, and (as JSON) the runtime that it was `measured_with`."""
    if as_json:
        print(json.dumps({"model": str(model), **stats.model_dump(), "measured_with": measured_with}))
        return
    energy = "" if stats.energy_mj is None else f"; {stats.energy_mj:.1f} mJ"
    disturbed = "; the machine was busy, do not trust it" if stats.disturbed else ""
    print(
        f"{model} on {stats.device}: median {stats.median_ms:.2f} ms, p90 {stats.p90_ms:.2f} ms "
        f"({stats.samples} samples, variation {stats.cv:.1%}{energy}{disturbed})"
    )


def print_trained(run: RunFolder, result: TrialResult, as_json: bool) -> None:
    """What training a student for longer gave, beside the same student in the search and the teacher."""
    recorded, folder = run.read_run(), run.trained_folder(result.trial)
    teacher, speed = teacher_of(recorded), objectives_of_run(recorded).speed or LATENCY_MS
    before = next(one for one in run.results() if one.trial == result.trial)
    if as_json:
        relative = {
            "map50_share": None if teacher is None else teacher.share(result, "map50"),
            "map50_95_share": None if teacher is None else teacher.share(result, "map50_95"),
            "speed_up": None if teacher is None else teacher.speed_up(result, speed.name),
        }
        trials = {"trial": result.model_dump(), "in_search": before.model_dump()}
        print(json.dumps({"run": str(run.path), "folder": str(folder), "of_teacher": relative, **trials}))
        return
    table = Table(box=box.SIMPLE)
    latency = f"latency on {speed.device}" if speed.device else "latency"
    for name in ("", "epochs", "mAP50", "mAP50-95", latency, "parameters"):
        table.add_column(name, justify="right" if name else "left")
    in_search = whole_epochs(recorded, before.epochs)
    rows = (
        (f"trial {result.trial}, in the search", in_search, before),
        ("trained for longer", f"{result.epochs}", result),
    )
    for label, epochs, one in rows:
        costs = (milliseconds(speed.of(one)), f"{number(one.params_m)} M")
        table.add_row(label, epochs, number(one.map50), number(one.map50_95), *costs)
    if teacher is not None:
        costs = (milliseconds(teacher.figure(speed.name)), f"{number(teacher.params_m)} M")
        table.add_row(f"teacher {teacher.name}", "", number(teacher.map50), number(teacher.map50_95), *costs)
        shares = (percent(teacher.share(result, name)) for name in ("map50", "map50_95"))
        smaller = factor(teacher.params_m / result.params_m) if teacher.params_m and result.params_m else ""
        table.add_row(
            "of the teacher", "", *shares, f"{factor(teacher.speed_up(result, speed.name))} faster", f"{smaller} fewer"
        )
    Console().print(table)
    print(f"in {shown_path(folder)}\nexport: nasdistill export {in_command(run.path)} --trial {result.trial} --trained")
