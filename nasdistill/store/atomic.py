"""Files written so that a crash or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; on success it takes `path`'s place in one step.

    The temporary name keeps the target's suffix, because some writers choose their format by it. Missing parent
    folders are made. On an error in the block the temporary file is removed and the old file, if any, is untouched.

    Raises FileNotFoundError when the block ends without having written the temporary file.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # A hidden name, so that a glob for results never picks up a file that is still being written.
    temporary = target.with_name(f".{target.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(target.parent)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with the line ends it has, replacing `path` in one step."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data`, replacing `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; folders can't be opened on every system, and there the rename must do."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
