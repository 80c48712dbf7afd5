"""Which processor cores to measure on, and holding the measuring thread there."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

_LOAD_SECONDS = 0.05


def idle_cores(count: int) -> list[int]:
    """The `count` least busy cores this process may use, [] where the system cannot tell or pin.

    Slower kinds of core are only taken when there are not enough fast ones, and two threads of one physical core only
    when there are not enough physical ones: otherwise the same model would be timed differently from call to call.
    """
    if sys.platform != "linux":
        return []
    usable = sorted(os.sched_getaffinity(0))
    load = _load_by_core()
    speed = {core: _cpu_fact(core, "cpufreq/cpuinfo_max_freq") for core in usable}
    fastest = max((value for value in speed.values() if value.isdecimal()), key=int, default="")
    chosen: list[int] = []
    physical: dict[int, str] = {core: _cpu_fact(core, "topology/thread_siblings_list") or str(core) for core in usable}
    busiest = {
        name: max(load.get(core, 0.0) for core in usable if physical[core] == name) for name in physical.values()
    }

    def preference(core: int) -> tuple[bool, bool, float, int]:
        slow = speed[core].isdecimal() and int(speed[core]) < 0.9 * int(fastest)
        shared = physical[core] in {physical[other] for other in chosen}
        return (slow, shared, busiest[physical[core]], core)

    while len(chosen) < min(count, len(usable)):
        chosen.append(min((core for core in usable if core not in chosen), key=preference))
    return sorted(chosen)


@contextlib.contextmanager
def pinned(cores: list[int]) -> Iterator[None]:
    """Keep this thread, and the threads it starts meanwhile, on `cores`, then let it roam as before; [] does nothing."""
    if sys.platform != "linux" or not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _load_by_core() -> dict[int, float]:
    """Share of the last moment (0..1) that each core was busy."""
    before = psutil.cpu_times(percpu=True)
    time.sleep(_LOAD_SECONDS)
    after = psutil.cpu_times(percpu=True)
    load: dict[int, float] = {}
    for core, (start, end) in enumerate(zip(before, after, strict=False)):
        total = sum(end) - sum(start)
        idle = end.idle - start.idle
        load[core] = 1.0 - idle / total if total > 0 else 0.0
    return load


def _cpu_fact(core: int, name: str) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{core}/{name}").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
