"""What earlier commands found of image files: those that have not changed since are not read again."""

import contextlib
import json
import os
from pathlib import Path

from nasdistill.store.atomic import write_text

_SETTLED_NS = 2_000_000_000
"""A file that changed less than so long ago may change again without its time of change saying so."""


class Checked:
    """The sha256 of readable images by path, size and time of change, in `file`; None: nothing is remembered.

    A file that cannot be read is as good as none, and one that cannot be written is no error: it only saves time.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._known: dict[str, list[object]] = {}
        self._seen: dict[str, list[object]] = {}
        """Size, time of change, time of any change to the file's facts, digest."""
        if file is not None:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                content = json.loads(file.read_text(encoding="utf-8"))
                self._known = content if isinstance(content, dict) else {}

    def digest(self, image: Path) -> bytes | None:
        """What `note` was told of the image as it is now; None where it is new or has changed."""
        if self._file is None:
            return None
        found = self._known.get(str(image))
        try:
            if not isinstance(found, list) or not found or found[:-1] != _state(image):
                return None
            digest = bytes.fromhex(str(found[-1]))
        except (OSError, ValueError):
            return None
        self._seen[str(image)] = found
        return digest

    def note(self, image: Path, digest: bytes, read_ns: int) -> None:
        """An image was whole, with this digest, when reading it began at `read_ns` (`time.time_ns`)."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            state = _state(image)
            if state[1] < read_ns - _SETTLED_NS:
                self._seen[str(image)] = [*state, digest.hex()]

    def save(self) -> None:
        """Keep what `digest` and `note` were asked and told; the rest is forgotten."""
        if self._file is None or self._seen == self._known:
            return
        with contextlib.suppress(OSError, UnicodeEncodeError):
            write_text(self._file, json.dumps(self._seen))


def _state(image: Path) -> list[int]:
    found = os.stat(image)
    # the last one tells, where the system has it, of programs that put the time of change back
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
