"""Choosing cores and holding a thread there."""

import os
import sys
import threading
from pathlib import Path

import pytest

from nasdistill.devices import cores as cores_module
from nasdistill.devices.cores import Core, choose, idle_cores, pinned

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="cores can be pinned on Linux only")


@linux_only
def test_idle_cores_are_distinct_and_allowed() -> None:
    usable = os.sched_getaffinity(0)
    assert set(idle_cores(1)) <= usable
    assert set(idle_cores(len(usable) + 5)) == usable
    assert len(idle_cores(1)) == 1


def test_a_core_that_is_switched_off_moves_no_others_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(cores_module, "_STAT", stat)

    def write(ticks: dict[int, tuple[int, int]]) -> None:
        lines = [f"cpu{core} {busy} 0 0 {idle} 0 0 0 0 0 0" for core, (busy, idle) in ticks.items()]
        stat.write_text("\n".join(["cpu  9 0 0 9 0 0 0 0 0 0", *lines, "intr 7"]))

    write({0: (10, 10), 2: (10, 10), 3: (10, 10)})  # cpu1 is off
    monkeypatch.setattr("time.sleep", lambda seconds: write({0: (10, 20), 2: (15, 15), 3: (20, 10)}))
    assert cores_module._load_by_core() == {0: 0.0, 2: 0.5, 3: 1.0}
    stat.unlink()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert cores_module._load_by_core() == {}


def test_the_least_busy_cores_are_chosen() -> None:
    cores = [Core(0, 0.9, "0"), Core(1, 0.1, "1"), Core(2, 0.4, "2"), Core(3, 0.0, "3")]
    assert [choose(cores, count) for count in (1, 2, 3, 9)] == [[3], [1, 3], [1, 2, 3], [0, 1, 2, 3]]
    assert choose([], 1) == []


def test_a_second_thread_of_a_physical_core_comes_last_and_is_busy_when_the_first_is() -> None:
    cores = [Core(0, 0.0, "0,2"), Core(1, 0.2, "1,3"), Core(2, 0.9, "0,2"), Core(3, 0.0, "1,3")]
    assert choose(cores, 1) == [3], "core 0 is idle, but its other half is not"
    assert choose(cores, 2) == [0, 3]


def test_slow_cores_come_after_busy_fast_ones_but_small_differences_do_not_count() -> None:
    cores = [Core(0, 0.5, "0", 4_800_000), Core(1, 0.0, "1", 3_600_000), Core(2, 0.1, "2", 4_700_000)]
    assert [choose(cores, count) for count in (1, 2, 3)] == [[2], [0, 2], [0, 1, 2]]


@linux_only
def test_pinning_is_undone_also_after_an_error_and_is_inherited_by_new_threads() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    inherited: list[set[int]] = []
    with pytest.raises(RuntimeError, match="inside"), pinned([core]):
        assert os.sched_getaffinity(0) == {core}
        thread = threading.Thread(target=lambda: inherited.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        raise RuntimeError("inside")
    assert inherited == [{core}]
    assert os.sched_getaffinity(0) == before
    with pinned([]):
        assert os.sched_getaffinity(0) == before
