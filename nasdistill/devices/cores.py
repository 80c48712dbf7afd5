"""Which processor cores to measure on, and holding the measuring thread there."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOAD_SECONDS = 0.05
_STAT = Path("/proc/stat")  # psutil leaves out the cores' numbers


@dataclass(frozen=True)
class Core:
    """One logical core: `load` is the share of the last moment it was busy, 0..1.

    `physical` is the same text for all threads of one physical core; `max_khz` is None where the system keeps quiet.
    """

    number: int
    load: float
    physical: str
    max_khz: int | None = None


def idle_cores(count: int) -> list[int]:
    """The numbers of the `count` best cores to measure on (see `choose`), [] where threads cannot be pinned."""
    if sys.platform != "linux":
        return []
    load = _load_by_core()
    cores = []
    for number in sorted(os.sched_getaffinity(0)):
        speed = _cpu_fact(number, "cpufreq/cpuinfo_max_freq")
        physical = _cpu_fact(number, "topology/thread_siblings_list") or str(number)
        cores.append(Core(number, load.get(number, 0.0), physical, int(speed) if speed.isdecimal() else None))
    return choose(cores, count)


def choose(cores: Sequence[Core], count: int) -> list[int]:
    """The numbers of the `count` least busy of `cores` (all of them when there are fewer).

    A slower kind of core is only taken when there are not enough fast ones, and a second thread of one physical core
    only when there are not enough physical ones: otherwise one model would be timed differently from call to call.
    """
    fastest = max((core.max_khz or 0 for core in cores), default=0)
    # Work on one thread of a physical core slows the other.
    busiest: dict[str, float] = {}
    for core in cores:
        busiest[core.physical] = max(busiest.get(core.physical, 0.0), core.load)
    chosen: list[Core] = []

    def preference(core: Core) -> tuple[bool, bool, float, float, int]:
        slow = core.max_khz is not None and core.max_khz < 0.9 * fastest
        shared = any(core.physical == other.physical for other in chosen)
        return (slow, shared, busiest[core.physical], core.load, core.number)

    for _ in range(min(count, len(cores))):
        chosen.append(min((core for core in cores if core not in chosen), key=preference))
    return sorted(core.number for core in chosen)


@contextlib.contextmanager
def pinned(cores: list[int]) -> Iterator[None]:
    """Keep this thread, and the threads it starts meanwhile, on `cores`, then let it roam again; [] does nothing."""
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
    before = _ticks()
    time.sleep(_LOAD_SECONDS)
    load: dict[int, float] = {}
    for core, (idle, total) in _ticks().items():
        idle_before, total_before = before.get(core, (idle, total))
        spent = total - total_before
        load[core] = 1.0 - (idle - idle_before) / spent if spent > 0 else 0.0
    return load


def _ticks() -> dict[int, tuple[int, int]]:
    """Clock ticks since the start, idle and in all, by the number of the core; one that is switched off has none."""
    try:
        lines = _STAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        if match := re.match(r"cpu(\d+) (.*)", line):
            ticks = [int(word) for word in match[2].split()][:8]  # a guest's are in its user's already
            found[int(match[1])] = (ticks[3], sum(ticks))
    return found


def _cpu_fact(core: int, name: str) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{core}/{name}").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
