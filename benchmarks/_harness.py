"""What every benchmark shares: its options, medians with their spread, the table, the JSON line and the result file."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nasdistill.store.atomic import write_text
from nasdistill.store.provenance import environment

RESULTS = Path(__file__).parent / "results"

Row = Mapping[str, object]


@dataclass(frozen=True)
class Goal:
    """What the figure should be: at most, or at least, `limit` (in the figure's unit)."""

    limit: float
    at_most: bool = True

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.limit:g}"


@dataclass(frozen=True)
class Outcome:
    """The one figure a benchmark is about, its spread (see `spread`), whatever else is worth keeping, and a table."""

    value: float
    unit: str
    goal: Goal
    spread: Mapping[str, float]
    detail: Mapping[str, Any] = field(default_factory=dict)
    table: Sequence[Row] = ()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and number of the values: `median`, `low`, `high`, `n`."""
    if len(values) < 2:
        low = high = values[0]
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "low": low, "high": high, "n": len(values)}


def paired_ratios(slower: Sequence[float], faster: Sequence[float]) -> dict[str, float]:
    """The spread of `slower[i] / faster[i]`: pairs measured next to each other, so that a busy moment hits both."""
    return spread([a / b for a, b in zip(slower, faster, strict=True)])


def run_benchmark(
    name: str,
    description: str,
    measure: Callable[[argparse.Namespace], Outcome],
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    argv: Sequence[str] | None = None,
    partial: Path | None = None,
) -> Outcome:
    """The `main` of a benchmark module: read the options, measure, print, and with --out keep the result.

    `measure` gets the parsed options, among them `quick` (to end within two minutes on two cores). What it prints
    itself comes before the table. `partial` is where it keeps the parts of a full run: gone once the result is out.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: at most two minutes on two cores")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    parser.add_argument("--out", action="store_true", help=f"write benchmarks/results/{name}.json")
    if add_arguments is not None:
        add_arguments(parser)
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(arguments)
    started = time.monotonic()
    # A machine with other work on it makes every time longer; a reader should be able to tell.
    load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    outcome = measure(options)
    report = {
        "name": name,
        "value": _rounded(outcome.value),
        "unit": outcome.unit,
        "goal": str(outcome.goal),
        "met": outcome.goal.met_by(outcome.value),
        "spread": _rounded(dict(outcome.spread)),
        "detail": _rounded(dict(outcome.detail)),
        "seconds": round(time.monotonic() - started, 1),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *map(_portable, arguments)]),
        "load_before": _rounded(load_before),
        "environment": environment(),
    }
    _print(report, outcome.table)
    if options.out:
        file = RESULTS / f"{name}.json"
        write_text(file, json.dumps(report, indent=2, allow_nan=False) + "\n")
        print(f"written to benchmarks/results/{file.name}")
    if options.json:
        print(json.dumps(report, allow_nan=False))
    if partial is not None and not options.quick:
        partial.unlink(missing_ok=True)
    return outcome


def _portable(argument: str) -> str:
    """An absolute path as it is seen from the project's folder: where that lies on this machine is nobody's business."""
    option, equals, path = argument.rpartition("=")  # "" and "" for what has none
    return f"{option}{equals}{os.path.relpath(path, RESULTS.parents[1])}" if os.path.isabs(path) else argument


def _print(report: Mapping[str, Any], table: Sequence[Row]) -> None:
    machine = report["environment"]
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, Python {machine['python']}")
    if table:
        print()
        print_table(table)
    figures = report["spread"]
    met = "met" if report["met"] else "MISSED"
    print()
    print(
        f"{report['name']}: {report['value']:g} {report['unit']} "
        f"(quartiles {figures['low']:g} to {figures['high']:g}, n={figures['n']:g}); goal {report['goal']}: {met}"
    )


def print_table(table: Sequence[Row]) -> None:
    """Rows with the same keys, in columns: text to the left, numbers to the right."""
    names = list(table[0])
    cells = [names, *([_text(row[name]) for name in names] for row in table)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    is_text = [isinstance(row, str) for row in table[0].values()]
    for line in cells:
        padded = [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rounded(value: Any) -> Any:
    """Floats with 5 significant digits, everywhere in the value; NaN and infinity are refused."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a benchmark measured {value}")
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
