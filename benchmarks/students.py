"""Every family at its smallest and largest in the space `all-families`: size, work and latency, as built and pruned by 30 %.

    python -m benchmarks.students [--quick] [--json] [--out] [--family NAME] [--markdown]

Weights are random: none of these figures depends on them. Each student and its pruned form are timed in turns, as the ONNX
files that would be deployed, at 256 px on the device `local`. A family that cannot be pruned is listed with the reason.
`--quick` takes the smallest settings alone. `--markdown` prints the table as docs/students.md has it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks._harness import Goal, Outcome, Row, run_benchmark, spread
from nasdistill.compress.prune import Pruning, prune
from nasdistill.devices.profile import load_device
from nasdistill.devices.profiler import open_profiler
from nasdistill.errors import NasdistillError
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.complexity import complexity
from nasdistill.prepare.inputs import extremes
from nasdistill.records import Scalar
from nasdistill.space.families import FAMILIES
from nasdistill.space.loader import load_space
from nasdistill.students.families import build_student

IMAGE_SIZE, RATIO = 256, 0.3
NAMES = tuple(f"class {index}" for index in range(6))  # as many as DeepPCB has
ROUNDS = 3


def figures(family: str, arch: Mapping[str, Scalar], folder: Path) -> dict[str, Any]:
    """What one student is, as built and pruned; `reason` says why it could not be pruned."""
    student = build_student(family, arch, NAMES)
    for module in student.model.modules():
        if isinstance(module, nn.BatchNorm2d):  # some start at 0, and the exporter stores equal (all-zero) weights once
            nn.init.uniform_(module.weight, 0.5, 1.5)
    artifacts, facts = {"plain": folder / "plain.onnx"}, {}
    write_onnx(student.model, IMAGE_SIZE, artifacts["plain"])
    facts["plain"] = asdict(complexity(student.model, IMAGE_SIZE, artifacts["plain"]))
    row: dict[str, Any] = {"family": family, "arch": dict(arch), "reason": ""}
    try:
        pruned = prune(student, Pruning(ratio=RATIO))
        write_onnx(pruned.student.model, IMAGE_SIZE, folder / "pruned.onnx")
        facts["pruned"] = asdict(complexity(pruned.student.model, IMAGE_SIZE, folder / "pruned.onnx"))
        artifacts["pruned"] = folder / "pruned.onnx"
        row["achieved"] = pruned.achieved
    except NasdistillError as error:
        row["reason"] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    profiler = open_profiler(load_device("local"))
    times: dict[str, list[float]] = {name: [] for name in artifacts}
    for _ in range(ROUNDS):
        for name, artifact in artifacts.items():
            times[name].append(profiler.measure(artifact, IMAGE_SIZE).median_ms)
    for name, found in times.items():
        row[name] = {**facts[name], "latency_ms": statistics.median(found)}
    return row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark alone."""
    parser.add_argument("--family", choices=tuple(FAMILIES), help="only this one")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")


def measure(options: argparse.Namespace) -> Outcome:
    space = load_space("all-families")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for family in [options.family] if options.family else FAMILIES:
            ends = extremes(space, family)
            for setting, arch in zip(("smallest", "largest"), ends[:1] if options.quick else ends, strict=False):
                rows.append({"setting": setting, **figures(family, arch, Path(folder))})
                print(_progress(rows[-1]), flush=True)
    ratios = [row["pruned"]["latency_ms"] / row["plain"]["latency_ms"] for row in rows if "pruned" in row]
    if options.markdown:
        print(markdown(rows))
    return Outcome(
        value=statistics.median(ratios) if ratios else 1.0,
        unit="latency pruned by 30 % / as built, median of the students that can be pruned",
        goal=Goal(1.0),
        spread=spread(ratios or [1.0]),
        detail={
            "image_size": IMAGE_SIZE,
            "students": rows,
            "not_pruned": [f"{row['family']} {row['setting']}" for row in rows if row["reason"]],
        },
        table=table(rows),
    )


def table(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One line a student, in text and numbers."""
    return [
        {
            "family": row["family"],
            "setting": row["setting"],
            **{name: row["plain"][key] for name, key in _COLUMNS.items()},
            **{f"pruned {name}": row["pruned"][key] if "pruned" in row else "-" for name, key in _COLUMNS.items()},
            "removed": row.get("achieved", "-"),
        }
        for row in rows
    ]


_COLUMNS = {"M": "params_m", "GFLOPs": "gflops", "MB": "size_mb", "ms": "latency_ms"}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/students.md."""
    lines = [
        "| family | setting | parameters | GFLOPs | MB | ms | pruned: parameters | MB | ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        plain = row["plain"]
        cells = [row["family"], ", ".join(f"{name} {value}" for name, value in row["arch"].items())]
        cells += [f"{plain['params_m']:.2f} M", f"{plain['gflops']:.2f}", f"{plain['size_mb']:.1f}"]
        cells.append(f"{plain['latency_ms']:.1f}")
        if "pruned" in row:
            pruned = row["pruned"]
            cells += [f"{pruned['params_m']:.2f} M", f"{pruned['size_mb']:.1f}", f"{pruned['latency_ms']:.1f}"]
        else:
            cells += [row["reason"].replace("|", "/"), "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _progress(row: Mapping[str, Any]) -> str:
    told = f"pruned {row['pruned']['latency_ms']:.2f} ms" if "pruned" in row else row["reason"]
    return f"{row['family']} {row['setting']}: {row['plain']['latency_ms']:.2f} ms, {told}"


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark with the given options (None: those of the command line)."""
    return run_benchmark("students", __doc__ or "", measure, add_arguments, argv)


if __name__ == "__main__":
    main()
