"""Finds search spaces: a file anyone wrote, or one of those that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nasdistill.errors import InputError
from nasdistill.space.parse import parse_space
from nasdistill.space.search_space import SearchSpace
from nasdistill.strict_yaml import nearest_hint, read_yaml

_PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ShippedSpace:
    """A search space that comes with the package: its name is the file's name without `.yaml`."""

    name: str
    path: Path
    description: str


def load_space(name_or_path: str | Path, kept: str | None = None) -> SearchSpace:
    """The search space in a file, or the shipped one of that name; `kept` is read in place of the file's own text.

    Anything with a folder separator or ending in .yaml or .yml is a file. Raises InputError, in one line, for an
    unknown name, an unreadable file or anything the file may not contain.
    """
    path = Path(name_or_path)
    if path.suffix.lower() in (".yaml", ".yml") or path.name != str(name_or_path):
        return _load_file(path, kept)
    shipped = _shipped_files()
    name = str(name_or_path)
    if name not in shipped:
        hint = nearest_hint(name, shipped)
        raise InputError(f"unknown search space '{name}'; give a .yaml file or one of: {', '.join(shipped)}{hint}")
    return _load_file(shipped[name], kept)


def list_spaces() -> list[ShippedSpace]:
    """The shipped search spaces, by name."""
    return [ShippedSpace(name, path, _load_file(path).description) for name, path in _shipped_files().items()]


def _load_file(path: Path, kept: str | None = None) -> SearchSpace:
    text = read_yaml(path, "search space")[1] if kept is None else kept
    return parse_space(text, str(path))


def _shipped_files() -> dict[str, Path]:
    # An installed wheel carries them inside the package; in a checkout they stand beside it, where people look.
    for folder in (_PACKAGE / "_search_spaces", _PACKAGE.parent / "search_spaces"):
        files = sorted(folder.glob("*.yaml"))
        if files:
            return {file.stem: file for file in files}
    raise InputError("no search spaces are installed with the package; reinstall it or give a .yaml file")
