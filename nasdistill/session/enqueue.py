"""`--enqueue`: configurations that a search begins with, read from a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nasdistill.errors import InputError
from nasdistill.records import ADDED_PARAMS, Scalar
from nasdistill.space.search_space import SearchSpace
from nasdistill.store.tables import param_value
from nasdistill.strict_yaml import number_like_1e3

_PARAM = "param."


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
        entries = _listed_entries(_json(text, path) if kind == ".json" else _yaml(text, path), path)
    else:
        raise InputError(f"--enqueue {path}: expected a file ending in .yaml, .yml, .json or .csv")
    if not entries:
        raise InputError(f"--enqueue {path}: holds no configuration")
    return [_point(entry, space, f"--enqueue {path}, {where}") for where, entry in entries]


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--enqueue {path}, line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError):
        raise InputError(f"--enqueue {path}: not valid JSON") from None


def _yaml(text: str, path: Path) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"--enqueue {path}{where}: {getattr(error, 'problem', None) or 'not valid YAML'}") from None


def _listed_entries(content: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise InputError(f"--enqueue {path}: expected a list of configurations")
    entries = []
    for index, entry in enumerate(content, 1):
        if not isinstance(entry, dict):
            raise InputError(f"--enqueue {path}, entry {index}: expected parameters and values, got {entry!r}")
        found = {str(name): _meant(value) for name, value in entry.items()}
        entries.append((f"entry {index}", found))
    return entries


def _meant(value: Any) -> Any:
    return number_like_1e3(value) if isinstance(value, str) else value


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
