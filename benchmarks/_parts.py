"""The parts of a long benchmark, kept in a file as they come, so that the same command goes on where a killed run ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from nasdistill.store.atomic import write_text


class Parts:
    """Results by name, in one JSON file. A file with another `key` (other settings, data or teacher) is started anew."""

    def __init__(self, path: Path, key: Mapping[str, Any]) -> None:
        self._path = path
        plain = json.loads(json.dumps(key))
        self._content: dict[str, Any] = {"key": plain, "parts": {}}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if found["key"] == plain:
            self._content = found

    def __contains__(self, name: str) -> bool:
        return name in self._content["parts"]

    def __getitem__(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._content["parts"][name]
        return found

    def put(self, name: str, result: Mapping[str, Any]) -> None:
        """Keep a part's result, on disk before anything else happens."""
        self._content["parts"][name] = dict(result)
        write_text(self._path, json.dumps(self._content, indent=1))
        print(f"{name}: {dict(result)}", flush=True)

    def get(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The part's result: the kept one, or what `make` returns, with its core seconds and its share of a core."""
        if name not in self:
            started, cpu = perf_counter(), process_time()
            made = make()
            wall_s, cpu_s = perf_counter() - started, process_time() - cpu
            self.put(name, {**made, "core_s": round(cpu_s, 1), "core_share": round(cpu_s / wall_s, 3)})
        return self[name]
