"""Handing out a finished trial: the artifact that was scored and timed, with a model card beside it."""

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import COST, cost_objective
from nasdistill.pareto.of_run import whole_epochs
from nasdistill.records import TrialResult
from nasdistill.space.families import FAMILIES, needs_no_nms
from nasdistill.store.atomic import replacing, write_text
from nasdistill.store.provenance import data_free_note, file_sha256
from nasdistill.store.room import is_full_disk
from nasdistill.store.run_folder import RunFolder


@dataclass(frozen=True)
class Exported:
    """What an export wrote: the files by format, and the model card."""

    trial: TrialResult
    files: dict[str, Path]
    card: Path


def _export_onnx(source: Path, target: Path) -> None:
    """The scored and timed ONNX file itself, byte for byte."""
    with replacing(target) as temporary:
        shutil.copyfile(source / "student.onnx", temporary)


def _export_safetensors(source: Path, target: Path) -> None:
    """The student's weights before BatchNorm was folded."""
    with replacing(target) as temporary:
        shutil.copyfile(source / "student.safetensors", temporary)


FORMATS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "onnx": (".onnx", _export_onnx),
    "safetensors": (".safetensors", _export_safetensors),
}


def export(run: RunFolder, trial: TrialResult, formats: Sequence[str], out: Path, trained: bool = False) -> Exported:
    """Write a trial's model in `formats` to the folder `out`, with a model card (`<run>-<trial>.md`); all or nothing.

    `trained`: the student as it is after training for longer, `<run>-<trial>-trained`.

    Raises:
        InputError: an unknown format, `out` is no folder, the run folder no longer holds the trial's files, or the trial
            was not trained for longer.
    """
    source, files = run.trial_folder(trial.trial), dict[str, Path]()
    name = f"{run.path.resolve().name}-{trial.trial:04d}"
    if trained:
        source, name = run.trained_folder(trial.trial), f"{name}-trained"
        trial = _trained(run, trial.trial)
    _check(source, formats)
    for format_name in dict.fromkeys(formats):
        files[format_name] = out / f"{name}{FORMATS[format_name][0]}"
    card = out / f"{name}.md"
    written = list[Path]()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for format_name, file in files.items():
            new = not file.exists()
            FORMATS[format_name][1](source, file)
            written += [file] if new else []
        write_text(card, model_card(run.read_run(), trial, files, trained))
    except OSError as error:
        for file in written:
            file.unlink(missing_ok=True)
        if is_full_disk(error):
            raise
        raise InputError(f"output folder {out}: cannot be used ({error.strerror or error})") from error
    return Exported(trial, files, card)


def export_all(run: RunFolder, trials: Sequence[TrialResult], formats: Sequence[str], out: Path) -> list[Exported]:
    """`export` of several trials, once it is known that all of them have their files. Raises what that does."""
    for trial in trials:
        _check(run.trial_folder(trial.trial), formats)
    return [export(run, trial, formats, out) for trial in trials]


def _check(source: Path, formats: Sequence[str]) -> None:
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise InputError(f"unknown format '{', '.join(unknown)}'; allowed: {', '.join(FORMATS)}")
    for format_name in formats:
        file = source / f"student{FORMATS[format_name][0]}"
        if not file.is_file():
            raise InputError(f"{file}: not there; the run folder was copied without its models")


def _trained(run: RunFolder, trial: int) -> TrialResult:
    trained = run.trained()
    found = next((result for result in trained if result.trial == trial), None)
    if found is None and trained:
        there = ", ".join(str(result.trial) for result in trained)
        raise InputError(
            f"trial {trial} was not trained for longer; trained were: {there} (--trial {trained[0].trial})"
        )
    if found is None:
        raise InputError(
            f"trial {trial} was not trained for longer; nasdistill train {shlex.quote(str(run.path))} --trial {trial} "
            "--budget 30m does it"
        )
    return found


def _output_text(trial: TrialResult, classes: int, batch: int) -> str:
    head = {"head": trial.params.get(f"{trial.family}.head", "nms_free")}
    if trial.family in FAMILIES and needs_no_nms(trial.family, head):
        return (
            f"({batch}, detections, 6): x1, y1, x2, y2 in input pixels, probability, class; best first,\n"
            "no non-maximum suppression needed (mAP was taken from confidence 0.001 on)."
        )
    return (
        f"({batch}, {4 + classes}, anchors): centre x, centre y, width, height in input pixels, then a probability for each "
        "class;\napply non-maximum suppression per class (IoU 0.7, at most 300; an anchor may count for several classes). "
        "mAP was\ntaken from confidence 0.001 on."
    )


def _use(trial: TrialResult, names: Sequence[str], batch: int, files: Mapping[str, Path]) -> str:
    """What goes in and comes out, and how to run it."""
    if "onnx" not in files:
        return (
            "The weights before BatchNorm was folded, in the shapes of the pruned student; to run it, export `onnx`.\n"
        )
    size, file = trial.params.get("image_size"), files["onnx"].name
    cut = f", conf={trial.confidence:.2f}" if trial.confidence else ""
    threshold = (
        f"\nIn use, cut at a confidence of about {trial.confidence:.2f}: there the mean F1 (IoU 0.5) on the validation "
        "images is\nbest. Ultralytics cuts at 0.25 unless told otherwise.\n"
        if trial.confidence
        else ""
    )
    return f"""Input `images`: float32 ({batch}, 3, {size}, {size}), RGB, pixel / 255. An image of w x h pixels is scaled by
r = min({size} / w, {size} / h), up or down, bilinear, and centred on a square of grey 114 / 255: left = round(({size} - \
round(w * r)) / 2 - 0.1),
top likewise with h. Back in the image, x = (x - left) / r and y = (y - top) / r, cut at its edges.

Output `output0`:
{_output_text(trial, len(names), batch)}
{threshold}
Classes: {", ".join(f"{index} {name}" for index, name in enumerate(names))}

ONNX Runtime runs it, and Ultralytics, which finds size and class names in the file:
`YOLO("{file}", task="detect").predict("image.jpg"{cut})`.
"""


def _shown(name: str) -> str:
    cost = cost_objective(name)
    return f"{COST[name.partition('@')[0]].label} on device `{cost.device}`, {cost.unit}"


def model_card(run: dict[str, Any], trial: TrialResult, files: dict[str, Path], trained: bool = False) -> str:
    """The model card: what it is, how it was made, how good and how fast it is, how to run it."""
    teacher, device = run.get("teacher", {}), run.get("device", {})
    names, batch = run.get("names", []), device.get("batch", 1)
    assert trial.map50 is not None and trial.map50_95 is not None and trial.latency_ms is not None
    share = f" ({trial.map50 / teacher['map50']:.1%} of the teacher's)" if teacher.get("map50") else ""
    speed = f" ({teacher['latency_ms'] / trial.latency_ms:.1f} times as fast)" if teacher.get("latency_ms") else ""
    further = "".join(f"| {_shown(name)} | {value:.2f} |\n" for name, value in sorted(trial.further.items()))
    further += "" if trial.energy_mj is None else f"| energy on `{device.get('name')}`, mJ | {trial.energy_mj:.2f} |\n"
    cpu = run.get("machine", {}).get("cpu")
    rows = "\n".join(f"| {key} | {value} |" for key, value in sorted(trial.params.items()))
    hashes = "\n".join(f"- `{path.name}` sha256 {file_sha256(path)}" for path in files.values())
    note = data_free_note(run)
    warning = f"\n**{note[0].upper()}{note[1:]}**\n" if note else ""
    return f"""# {trial.family} student, trial {trial.trial} of run {run.get("name", "")}

Distilled from the teacher {teacher.get("name", "unknown")} by nasdistill {run.get("nasdistill_version", "")}.
{warning}
| | |
| --- | --- |
| mAP50 (val) | {trial.map50:.4f}{share} |
| mAP50-95 (val) | {trial.map50_95:.4f} |
| latency, median | {trial.latency_ms:.2f} ms on device `{device.get("name")}` ({device.get("runtime")}, \
{device.get("precision")}, {device.get("threads")} thread(s), batch {batch}){f" of {cpu}" if cpu else ""}{speed} |
{further}| parameters | {trial.params_m:.3f} M |
| training | {trial.epochs if trained else whole_epochs(run, trial.epochs)} epochs |
| data | {run.get("data")} (sha256 {str(run.get("data_hash"))[:16]}) |

{_use(trial, names, batch, files)}
## Parameters
| parameter | value |
| --- | --- |
{rows}

## Files
{hashes}

Versions: {json.dumps(run.get("versions", {}))}

Licence: AGPL-3.0-or-later (Ultralytics' modules are part of the model). The licences of the data and of the teacher apply.
"""
