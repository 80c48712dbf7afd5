"""Memory-mapped arrays that several processes fill chunk by chunk, once.

A folder holds one `.npy` file an array, `done.npy` (a checksum a chunk, 0 until it is on disk) and, written last, a
description that says it is complete. A half-built folder is finished, a damaged chunk made anew, a torn array laid out
anew. While a process fills a chunk it holds the chunk's lock, so that two searches share the work instead of doing it
twice; locks are the system's, so those of a killed process are free.
"""

import contextlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from nasdistill.store.arrays import check_space, new_array
from nasdistill.store.atomic import write_text

CHUNK = 64
DONE, PLAN = "done", "plan.json"
Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""For each array the shape of one view's part, and the type as NumPy writes it (`<f2`)."""


def bytes_per_view(layout: Layout) -> int:
    """Bytes that one view takes in all arrays."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())


@dataclass(frozen=True)
class ChunkedCache:
    """The arrays of `layout` for `count` views in `folder`; `what` (a plural) names them in errors.

    `facts` are kept in the description. While it is being filled the same description lies there as a plan, so that
    whoever seals the cache needs to know nothing about it.
    """

    folder: Path
    layout: Layout
    count: int
    facts: Mapping[str, object] = field(default_factory=dict)
    description: str = "targets.json"
    what: str = "teacher's targets"

    def lay_out(self) -> list[tuple[int, int]]:
        """Make the arrays unless they are there; returns the view ranges [start, stop) still to be filled.

        Raises:
            InputError: the disk is too small; nothing is left behind.
        """
        shapes = {name: ((self.count, *shape), dtype) for name, (shape, dtype) in self.layout.items()}
        shapes[DONE] = ((self._chunks,), "<u8")
        self.folder.parent.mkdir(parents=True, exist_ok=True)  # the folder itself comes and goes under the lock
        with FileLock(self.folder.with_name(self.folder.name + ".lock")):
            if not self._is_laid_out(shapes):
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(self.folder)
                self.folder.mkdir()
                try:
                    # all of them before any: half of a cache serves nobody
                    check_space(self.folder, self.count * bytes_per_view(self.layout), self.what)
                    for name, (shape, dtype) in shapes.items():
                        new_array(self._file(name), shape, dtype, self.what)
                    layout = {name: [list(shape), dtype] for name, (shape, dtype) in self.layout.items()}
                    plan = {"count": self.count, "layout": layout, **self.facts}
                    write_text(self.folder / PLAN, json.dumps(plan, indent=1))
                except BaseException:
                    shutil.rmtree(self.folder, ignore_errors=True)
                    raise
            self._forget_damaged()
            done = np.load(self._file(DONE))
        return [self._range(chunk) for chunk, check in enumerate(done) if not check]

    def open(self, mode: str = "r") -> dict[str, np.ndarray]:
        """The arrays, memory-mapped.

        Raises:
            OSError, EOFError, ValueError: one is missing or torn.
        """
        return {name: np.load(self._file(name), mmap_mode=mode) for name in self.layout}  # type: ignore[call-overload]

    def is_done(self, start: int) -> bool:
        """Whether the chunk that begins with view `start` is on disk."""
        return bool(np.load(self._file(DONE), mmap_mode="r")[start // CHUNK])

    def finish(self, arrays: Mapping[str, np.ndarray], start: int) -> None:
        """Flush the chunk that begins with view `start` and note its checksum."""
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        done = np.load(self._file(DONE), mmap_mode="r+")
        done[start // CHUNK] = self._checksum(arrays, start // CHUNK)
        done.flush()

    @contextlib.contextmanager
    def claimed(self, start: int, wait: bool) -> Iterator[bool]:
        """Hold the lock of a chunk; yields False when another process has it and `wait` is false."""
        locks = self.folder / "locks"
        locks.mkdir(exist_ok=True)
        lock = FileLock(locks / f"{start // CHUNK}.lock", timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @property
    def _chunks(self) -> int:
        return -(-self.count // CHUNK)

    def _range(self, chunk: int) -> tuple[int, int]:
        return chunk * CHUNK, min(self.count, (chunk + 1) * CHUNK)

    def _is_laid_out(self, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> bool:
        try:
            json.loads((self.folder / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return all(_array_is(self._file(name), shape, dtype) for name, (shape, dtype) in shapes.items())

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _checksum(self, arrays: Mapping[str, np.ndarray], chunk: int) -> int:
        """CRC-32 of a chunk's part of all arrays, plus 1: 0 says that it is not there."""
        check, rows = 0, slice(*self._range(chunk))
        for name in self.layout:
            check = zlib.crc32(np.ascontiguousarray(arrays[name][rows]).view(np.uint8).reshape(-1), check)
        return check + 1

    def _forget_damaged(self) -> None:
        """Clear the flags of chunks whose content is not what was written."""
        arrays, done = self.open(), np.load(self._file(DONE), mmap_mode="r+")
        damaged = [chunk for chunk in np.flatnonzero(done) if self._checksum(arrays, int(chunk)) != done[chunk]]
        if damaged:
            (self.folder / self.description).unlink(missing_ok=True)
            done[damaged] = 0
            done.flush()


def seal(folder: Path, description: str, facts: Mapping[str, object]) -> None:
    """Write the description that says the cache is complete: its plan and `facts`.

    Raises:
        ValueError: a chunk is not there.
    """
    if not np.load(folder / f"{DONE}.npy").all():
        raise ValueError(f"{folder}: cannot be sealed, parts of it are missing")
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    write_text(folder / description, json.dumps({**plan, **facts}, indent=1))
    shutil.rmtree(folder / "locks", ignore_errors=True)


def open_sealed(folder: Path, description: str = "targets.json") -> tuple[ChunkedCache, dict[str, Any]]:
    """A complete cache as its description says it is laid out, and the facts it was sealed with.

    Raises:
        FileNotFoundError: it is missing or not complete.
        KeyError, TypeError, ValueError: the description is damaged.
    """
    facts = json.loads((folder / description).read_text(encoding="utf-8"))
    layout = {name: (tuple(shape), dtype) for name, (shape, dtype) in facts["layout"].items()}
    return ChunkedCache(folder, layout, int(facts["count"]), {}, description), facts


def is_complete(folder: Path, key: str, description: str = "targets.json") -> bool:
    """Whether `folder` holds the complete, undamaged cache of `key`: every chunk's checksum is recomputed."""
    try:
        cache, facts = open_sealed(folder, description)
        arrays, done = cache.open(), np.load(folder / f"{DONE}.npy")
        whole = all(
            len(arrays[name]) == cache.count and arrays[name].shape[1:] == shape
            for name, (shape, _) in cache.layout.items()
        )
        checks = (cache._checksum(arrays, chunk) == check for chunk, check in enumerate(done))
        return facts["key"] == key and whole and len(done) == cache._chunks and all(checks)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return False


def to_fill(caches: Sequence[ChunkedCache], ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The ranges that are this process's to fill, one at a time, while their locks are held in all `caches`.

    First those that nobody works on; then it waits for the rest, and takes what a process that died left undone.
    """
    caches = sorted(caches, key=lambda cache: cache.folder)  # one order for all processes: no two wait for each other
    waiting = list(ranges)
    for wait in (False, True):
        passed_over = []
        for start, stop in waiting:
            with contextlib.ExitStack() as stack:
                mine = all(stack.enter_context(cache.claimed(start, wait)) for cache in caches)
                if not mine:
                    passed_over.append((start, stop))
                elif not all(cache.is_done(start) for cache in caches):
                    yield start, stop
        waiting = passed_over


def _array_is(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, EOFError, ValueError):
        return False
    return array.shape == shape and array.dtype == np.dtype(dtype)
