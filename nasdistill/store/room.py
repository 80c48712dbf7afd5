"""Room on a disk: what is kept free, and what one that is full, or not to be written, looks like whoever ran into it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

DISK_RESERVE = 64 << 20
"""Bytes that stay free: more than a trial leaves behind."""
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# safetensors and ONNX write by themselves and have errors of their own, with the system's words in them.
_IN_WORDS = ("No space left on device", "Disk quota exceeded", "os error 28)", "os error 122)")


def has_room(folder: Path) -> bool:
    """Whether the disk of `folder` (which exists) has DISK_RESERVE bytes free."""
    return free_bytes(folder) >= DISK_RESERVE


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk of `folder`, which exists."""
    return shutil.disk_usage(folder).free


def is_full_disk(error: BaseException | None) -> bool:
    """Whether `error`, or one that it was raised from, is that of a full disk or a used-up quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error) for words in _IN_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def may_not_write(error: BaseException) -> bool:
    """Whether `error` is of a file that is not to be written: like a full disk a person's business, no bug."""
    return isinstance(error, OSError) and error.errno in _NO_WRITING and bool(error.filename)
