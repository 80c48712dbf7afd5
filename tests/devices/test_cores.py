"""Choosing cores and holding a thread there."""

import os
import sys
import threading

import pytest

from nasdistill.devices.cores import Core, choose, idle_cores, pinned

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="cores can be pinned on Linux only")


@linux_only
def test_idle_cores_are_distinct_and_allowed() -> None:
    usable = os.sched_getaffinity(0)
    assert set(idle_cores(1)) <= usable
    assert set(idle_cores(len(usable) + 5)) == usable
    assert len(idle_cores(1)) == 1


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
