"""YAML files read strictly: every value knows its file, line and key, and nothing is accepted that wasn't asked for.

Search spaces and device files are written by hand, so a typo has to end in one line that says where it is. PyYAML's
loaders lose line numbers and let a duplicate key win silently; here its node tree is read instead.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from nasdistill.errors import InputError
from nasdistill.records import Scalar


def nearest_hint(word: str, allowed: Collection[str]) -> str:
    """` (did you mean 'width'?)` for the allowed word closest to `word`, or nothing when none is close."""
    close = difflib.get_close_matches(word, list(allowed), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


@dataclass(frozen=True)
class Value:
    """One value of a YAML file: `source` names the file, `path` is its dotted key (`families.yolov5.width`)."""

    source: str
    path: str
    node: yaml.Node

    @property
    def line(self) -> int:
        """Line of the file, from 1."""
        return int(self.node.start_mark.line) + 1

    def error(self, message: str) -> InputError:
        """An error that names file, line and key; for the caller to raise."""
        return _error_at(self.source, self.line, f"{self.path}: {message}" if self.path else message)

    def is_mapping(self) -> bool:
        return isinstance(self.node, yaml.MappingNode)

    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    def mapping(self, allowed: Collection[str], required: Collection[str] = ()) -> dict[str, Value]:
        """The values by key. Raises InputError for unknown, repeated or missing keys, or when this is no mapping."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"expected keys and values ({', '.join(allowed)}), got {_describe(self.node)}")
        where = f" in {self.path}" if self.path else ""
        values: dict[str, Value] = {}
        for key_node, value_node in self.node.value:
            line = int(key_node.start_mark.line) + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise _error_at(self.source, line, f"a key{where} must be a plain word; allowed: {', '.join(allowed)}")
            key = str(key_node.value)
            if key not in allowed:
                hint = nearest_hint(key, allowed)
                raise _error_at(self.source, line, f"unknown key '{key}'{where}; allowed: {', '.join(allowed)}{hint}")
            if key in values:
                raise _error_at(
                    self.source, line, f"key '{key}'{where} is repeated, it already stands in line {values[key].line}"
                )
            values[key] = Value(self.source, f"{self.path}.{key}" if self.path else key, value_node)
        for key in required:
            if key not in values:
                raise _error_at(self.source, self.line, f"key '{key}'{where} is missing")
        return values

    def items(self) -> list[Value]:
        """The values of a list, which must not be empty."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"expected a list, got {_describe(self.node)}")
        if not self.node.value:
            raise self.error("the list is empty")
        return [Value(self.source, self.path, node) for node in self.node.value]

    def scalar(self) -> Scalar:
        """A text, number or truth value, as YAML types it; `1e-3` is a number too, which YAML 1.1 reads as a text."""
        value = self.scalar_or_none()
        if value is None:
            raise self.error("no value given")
        return value

    def scalar_or_none(self) -> Scalar | None:
        """Like `scalar`, and None for an empty value or `null`."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"expected a single value, got {_describe(self.node)}")
        try:
            value = yaml.constructor.SafeConstructor().construct_object(self.node)
        except (yaml.YAMLError, ValueError, OverflowError):
            raise self.error(f"cannot read the value {_shorten(self.node.value)}") from None
        if value is None:
            return None
        if isinstance(value, str):
            return number_like_1e3(value) if self.node.style is None else value
        if isinstance(value, bool | int):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise self.error(f"expected a text or a finite number, got {_shorten(self.node.value)}")

    def text(self) -> str:
        value = self.scalar()
        if not isinstance(value, str):
            raise self.error(f"expected a text, got {value}")
        return value


def read_yaml(path: Path, what: str) -> tuple[Value, str]:
    """The root value of a file and its text. `what` ("search space", "device file") is for the error messages.

    Raises InputError when the file is missing, unreadable, not UTF-8 or not one YAML document.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{what} {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: not a UTF-8 text file (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{what} {path}: cannot be read ({error.strerror or error})") from None
    return parse_yaml(text, str(path)), text


def parse_yaml(text: str, source: str) -> Value:
    """The root value of a YAML text; `source` names it in errors. Raises InputError for a syntax error."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise _error_at(source, line, f"not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: not valid YAML: {reason}") from None
    except RecursionError:
        raise InputError(f"{source}: not valid YAML: nested too deeply") from None
    if node is None:
        raise InputError(f"{source}: the file is empty")
    return Value(source, "", node)


def number_like_1e3(text: str) -> Scalar:
    """`1e-3` as the number it means (YAML 1.1 reads a text); every other text unchanged."""
    if not text[:1].isdigit() or "e" not in text.lower():
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def _error_at(source: str, line: int, message: str) -> InputError:
    return InputError(f"{source}, line {line}: {message}")


def _describe(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "keys and values"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return _shorten(node.value) if node.value else "nothing"


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return f"'{text}'" if len(text) <= 40 else f"'{text[:37]}...'"
