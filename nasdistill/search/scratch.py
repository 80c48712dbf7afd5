"""Temporary folders that are gone afterwards, even those of a process that was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: nothing tells there whether a folder is still in use, so none is swept up.
    fcntl = None  # type: ignore[assignment]

_PREFIX = "nd-"
_LOCK = "in-use"
# Ray puts Unix sockets below the folder; their paths have at most 107 characters, of which Ray needs up to 75.
_LONGEST_PATH = 30


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder with a short path for the time of the context. Those that killed processes left are removed."""
    parent = tempfile.gettempdir()
    if len(parent) > _LONGEST_PATH - len("/nd-12345678") and os.path.isdir("/tmp"):
        parent = "/tmp"
    _sweep(Path(parent))
    folder, lock = _locked(parent)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _locked(parent: str) -> tuple[Path, IO[bytes]]:
    """A new folder and its lock, held; another process may sweep a folder up before the lock in it is taken."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = open(folder / _LOCK, "wb")  # noqa: SIM115 (open as long as the folder is there)
        if _try_lock(lock) is not False and (folder / _LOCK).exists():
            return folder, lock
        lock.close()


def _sweep(parent: Path) -> None:
    """Remove the folders whose lock nobody holds: the system gave it up when their process died."""
    if fcntl is None:
        return
    for lock_file in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), open(lock_file, "r+b") as lock:
            if _try_lock(lock):
                shutil.rmtree(lock_file.parent, ignore_errors=True)


def _try_lock(file: IO[bytes]) -> bool | None:
    """Whether the lock is ours now; None where there are no locks: nothing is ever swept up there."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
