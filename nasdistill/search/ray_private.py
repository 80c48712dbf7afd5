"""Two things that Ray 2.60 has no public setting for. Where another version has moved them, nothing happens."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import ray._private.ray_constants
import ray._private.worker

_log = logging.getLogger(__name__)

# What `on_loopback` does, for the processes that a local Ray starts: they read it when they start.
LOOPBACK_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Let a local Ray that is started within this context listen on 127.0.0.1 only.

    On Linux Ray turns 127.0.0.1 into the machine's address and opens its ports to the network, where whoever reaches
    them can run code; it also stops working when that address changes.
    """
    with _replaced(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextlib.contextmanager
def worker_deaths_to_log() -> Iterator[None]:
    """Within this context what the raylet says about dead workers goes to the log, not across a live display.

    The search reports such a trial itself. `log_to_driver=False` doesn't cover these messages.
    """

    def to_log(data: dict[str, Any], ignore_prefix: bool = False) -> None:
        for line in data.get("lines", []):
            _log.debug("%s", line)

    with _replaced(ray._private.worker, "print_to_stdstream", to_log):
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    if not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
