"""Why a job failed, in one line for the trials table; the whole traceback is in its log."""

from __future__ import annotations

import math

from pydantic import ValidationError

from nasdistill.errors import NasdistillError
from nasdistill.records import RungScore, TrialResult
from nasdistill.store.room import is_full_disk

DISK_FULL = "the disk is full"
WORKER_FAILED = "the worker could not start: "
_LONGEST_REASON = 300


def reason_of(error: BaseException) -> str:
    """One line for the trials table; the whole traceback is in the trial's log."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if is_full_disk(error):
        return DISK_FULL
    # torch tells by a class of its own on a GPU and by the message on a CPU; the search knows it by name only.
    if type(error).__name__ == "OutOfMemoryError":
        return "out of memory on the GPU"
    if "DefaultCPUAllocator" in str(error):
        return "out of memory"
    if isinstance(error, ValidationError) and error.title in (TrialResult.__name__, RungScore.__name__):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = first["input"]
        shown = f" (got {got})" if isinstance(got, float) and not math.isfinite(got) else ""
        return f"invalid result: {where + ': ' if where else ''}{first['msg']}{shown}"
    if isinstance(error, NasdistillError):
        return _first_line(error)
    return f"{type(error).__name__}: {_first_line(error)}"


def breaks_process(error: BaseException) -> bool:
    """Whether nothing can run in this process any more: after an error on a GPU every further call fails there."""
    if error.__cause__ is not None and breaks_process(error.__cause__):  # of a worker that could not be opened
        return True
    return type(error).__name__ == "AcceleratorError" or str(error).startswith("CUDA error")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:_LONGEST_REASON]
