"""`trials.csv` and `pareto.csv`: a row a trial, and back again without loss."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from nasdistill.errors import InputError
from nasdistill.pareto.intervals import Certainty
from nasdistill.records import DEVICE_FIGURES, Scalar, TrialResult
from nasdistill.store.atomic import write_text

COLUMNS = (
    "trial",
    "state",
    "fidelity",
    "family",
    "map50",
    "map50_95",
    "latency_ms",
    "latency_p90_ms",
    "params_m",
    "gflops",
    "size_mb",
    "epochs",
    "seconds",
    "on_front",
    "reason",
)
# Written always, and missing in the tables of older runs. The first ones follow from the others and are not read back.
# They stand for the accuracy that the run searches for: `seeds,map50_95_mean,…`.
CERTAINTY_COLUMNS = ("seeds", "{}_mean", "{}_low", "{}_high", "tied_with")
REPEAT_COLUMNS = ("repeats_map50", "repeats_map50_95")
# Written where a trial has them, as is every figure of a further device under its own name (`latency_ms@phone`).
OPTIONAL = ("energy_mj", "confidence")
_PARAM = "param."
_SEPARATOR = ";"
_FURTHER = re.compile(rf"({'|'.join(DEVICE_FIGURES)})@")
_NUMBER = re.compile(r"-?\d+|-?(\d+\.\d*|\.\d+|\d+)([eE][+-]?\d+)?")


def write_trials_csv(
    path: Path, results: Iterable[TrialResult], front_ids: Collection[int], certainty: Certainty | None = None
) -> None:
    """Write every trial, by number. Numbers are written so that reading them back gives the same number."""
    write_text(path, format_trials(sorted(results, key=lambda result: result.trial), front_ids, certainty))


def write_pareto_csv(
    path: Path,
    results: Iterable[TrialResult],
    front_ids: Collection[int],
    certainty: Certainty | None = None,
    cost: str = "latency_ms",
) -> None:
    """Write the trials on a front, the least of `cost` first; the columns are those of `trials.csv`."""

    def cheapness(result: TrialResult) -> tuple[float, int]:
        value = result.figure(cost)
        return (math.inf if value is None else value, result.trial)

    front = [result for result in results if result.trial in front_ids]
    write_text(path, format_trials(sorted(front, key=cheapness), front_ids, certainty))


def read_trials_csv(path: Path) -> list[TrialResult]:
    """The trials of a `trials.csv` or `pareto.csv`, by number.

    Raises InputError with file and line for a table that is not one of ours or was edited into something impossible.
    """
    try:
        # As bytes, because reading text would change the line ends inside a reason.
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return parse_trials(text, str(path))


def parse_trials(text: str, source: str) -> list[TrialResult]:
    """The trials in the text of a table, by number; `source` names it in errors. Raises InputError."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = list(reader.fieldnames or [])
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise InputError(f"{source}: no table of trials, column {missing[0]} is missing")
        results = [_result(row, f"{source}, line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise InputError(f"{source}, line {reader.line_num}: {error}") from None
    return sorted(results, key=lambda result: result.trial)


def format_trials(
    results: Sequence[TrialResult], front_ids: Collection[int], certainty: Certainty | None = None
) -> str:
    """The table's text, a row a trial in the order given; `front_ids` are the trials on the front, `certainty` is what
    their repeats say."""
    certainty = certainty or Certainty()
    further = [name for name in OPTIONAL if any(getattr(result, name) is not None for result in results)]
    further += sorted({name for result in results for name in result.further})
    names = sorted({name for result in results for name in result.params})
    lines = _Lines()
    writer = csv.writer(lines)
    sure_columns = [name.format(certainty.accuracy) for name in CERTAINTY_COLUMNS]
    writer.writerow([*COLUMNS, *further, *sure_columns, *REPEAT_COLUMNS, *(_PARAM + name for name in names)])
    for result in results:
        known = [_cell(getattr(result, name)) for name in COLUMNS if name not in ("on_front", "reason")]
        on_front = _cell(result.trial in front_ids)
        params = [_param_cell(result.params[name]) if name in result.params else "" for name in names]
        scores = [_SEPARATOR.join(map(repr, getattr(result, name))) for name in REPEAT_COLUMNS]
        more = [_cell(result.figure(name)) for name in further]
        sure = _certainty_cells(result.trial, certainty)
        writer.writerow([*known, on_front, result.reason, *more, *sure, *scores, *params])
    return "".join(line + "\n" for line in lines.rows)


class _Lines:
    """Where csv writes its rows: it only quotes a lone carriage return when the rows end in one, so they end here."""

    def __init__(self) -> None:
        self.rows: list[str] = []

    def write(self, row: str) -> None:
        self.rows.append(row.removesuffix("\r\n"))


def _certainty_cells(trial: int, certainty: Certainty) -> list[str]:
    interval = certainty.intervals.get(trial)
    figures = (
        [""] * 4
        if interval is None
        else [_cell(interval.seeds), *(_cell(round(v, 6)) for v in (interval.mean, interval.low, interval.high))]
    )
    return [*figures, certainty.tied_with(trial, _SEPARATOR)]


def _cell(value: Scalar | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def _param_cell(value: Scalar) -> str:
    """A text that would read back as something else ("12", "true", "") is written in JSON quotes."""
    if isinstance(value, str) and (value == "" or value.startswith('"') or param_value(value) != value):
        return json.dumps(value, ensure_ascii=False)
    return _cell(value)


def param_value(cell: str) -> Scalar:
    """The value in a `param.` cell. Raises ValueError for a quoted one that isn't a text."""
    if cell in ("true", "false"):
        return cell == "true"
    if _NUMBER.fullmatch(cell):
        try:
            return int(cell)
        except ValueError:
            return float(cell)
    if cell.startswith('"'):
        value = json.loads(cell)
        if not isinstance(value, str):
            raise ValueError(f"expected a quoted text, got {cell}")
        return value
    return cell


def _result(row: dict[str, str | None], where: str) -> TrialResult:
    if None in row or None in row.values():
        raise InputError(f"{where}: the row has not as many cells as the header")
    cells = {name: cell or "" for name, cell in row.items()}
    fields: dict[str, object] = {name: cells[name] for name in COLUMNS if name != "on_front" and cells[name] != ""}
    try:
        for name in REPEAT_COLUMNS:
            fields[name] = tuple(float(score) for score in cells.get(name, "").split(_SEPARATOR) if score)
        fields |= {name: cells[name] for name in OPTIONAL if cells.get(name)}
        fields["further"] = {name: cell for name, cell in cells.items() if _FURTHER.match(name) and cell != ""}
        fields["params"] = {
            name.removeprefix(_PARAM): param_value(cell)
            for name, cell in cells.items()
            if name.startswith(_PARAM) and cell != ""
        }
        return TrialResult.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        column = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {column + ': ' if column else ''}{first['msg']}") from None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
