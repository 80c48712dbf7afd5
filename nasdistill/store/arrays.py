"""Arrays on disk, memory-mapped, whose space is really there: a full disk kills a process that writes to a mapping."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nasdistill.errors import InputError
from nasdistill.store.room import DISK_RESERVE, free_bytes


def new_array(path: Path, shape: tuple[int, ...], dtype: str, what: str) -> np.memmap:
    """A new array of zeros at `path`, its blocks allocated; `what` (a plural) names the content in the error.

    Raises:
        InputError: the disk is too small; no file is left behind.
    """
    needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
    check_space(path.parent, needed, what)
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:  # others write to this disk too, or the file system counts otherwise
        path.unlink(missing_ok=True)
        raise InputError(f"{path.parent}: the {what} cannot be written ({error.strerror or error})") from error
    return array


def check_space(folder: Path, needed: int, what: str) -> None:
    """Refuse to begin what cannot end.

    Raises:
        InputError: `folder` (which must exist) has less than `needed` bytes and a reserve free.
    """
    free = free_bytes(folder)
    if needed + DISK_RESERVE > free:
        raise InputError(f"{folder}: the {what} need {needed / 1e6:.0f} MB, the disk has {free / 1e6:.0f} MB free")
