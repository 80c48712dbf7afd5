"""What a search does about a full disk: it starts nothing, says so once, and goes on when there is room again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nasdistill.search.events import DiskFull, EventHandler, RoomAgain
from nasdistill.store.room import DISK_RESERVE, free_bytes, has_room, is_full_disk

T = TypeVar("T")
POLL_S = 1.0


class Room:
    """Whether there is room in `folder`; `on_event` hears when that changes."""

    def __init__(self, folder: Path, on_event: EventHandler | None = None) -> None:
        self._folder = folder
        self._on_event = on_event
        self._next_look = 0.0
        self._full = False

    def there(self) -> bool:
        """Whether a trial may start; looked at once in POLL_S."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + POLL_S
            self._set(not has_room(self._folder))
        return not self._full

    def when_there(self, write: Callable[[], T], give_up: Callable[[], bool]) -> T:
        """What `write` returns, tried again for as long as the disk is full; what it raises when `give_up` says so."""
        while True:
            try:
                return write()
            except Exception as error:
                if not is_full_disk(error) or give_up():
                    raise
                self._set(True)
                time.sleep(POLL_S)

    def _set(self, full: bool) -> None:
        if full == self._full:
            return
        self._full = full
        if self._on_event is not None:
            free = free_bytes(self._folder)
            self._on_event(DiskFull(self._folder, free, DISK_RESERVE) if full else RoomAgain(self._folder, free))


def wait_for_room(folder: Path, give_up: Callable[[], bool]) -> bool:
    """Wait until there is room in `folder`; False when `give_up` said so before."""
    while not give_up():
        if has_room(folder):
            return True
        time.sleep(POLL_S)
    return False
