"""The worker of one process: opened when its first job comes, and kept for all that follow."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from ray import cloudpickle

from nasdistill.errors import NasdistillError
from nasdistill.search.reasons import WORKER_FAILED, reason_of
from nasdistill.search.worker import Worker, WorkerFactory


class WorkerFailedError(NasdistillError):
    """The factory raised: no job can run in this process."""


class WarmWorker:
    """Holds a worker made by a pickled factory.

    It stays pickled until a job comes: what goes wrong with it (a module that isn't installed on this node, say) is then the
    job's reason, while Ray would only see an actor that cannot be created.
    """

    def __init__(self, pickled_factory: bytes) -> None:
        self._pickled_factory = pickled_factory
        self._worker: Worker | None = None

    def open(self) -> Worker:
        """The worker, made now or before. Raises WorkerFailedError."""
        if self._worker is None:
            try:
                factory: WorkerFactory = cloudpickle.loads(self._pickled_factory)
                self._worker = factory()
            except Exception as error:
                raise WorkerFailedError(WORKER_FAILED + reason_of(error)) from error
        return self._worker

    def drop(self) -> None:
        """Forget the worker and what it holds; the next job makes another."""
        self._worker = None

    def close(self) -> None:
        """Let a worker that has something to close do so."""
        close = getattr(self._worker, "close", None)
        if close is not None:
            close()


def reporting_to(log: TextIO) -> Callable[[str], None]:
    """Writes lines to a job's log, with the time before them."""

    def report(line: str) -> None:
        log.write(f"{time.strftime('%H:%M:%S')} {line}\n")

    return report
