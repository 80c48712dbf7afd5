"""Ray for a while, and tasks on it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest
import ray

from nasdistill.errors import InputError, NasdistillError, TrialError
from nasdistill.search import scratch
from nasdistill.search.cluster import run_tasks, start_ray
from nasdistill.search.scratch import scratch_folder
from nasdistill.store.provenance import usable_cores


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    before = os.environ.get("OMP_NUM_THREADS")
    with start_ray(2, gpus=0):
        assert os.environ.get("OMP_NUM_THREADS") == before
        yield
    assert not ray.is_initialized()


# The tests without a cluster come first: the fixture keeps one running for the rest of the module.


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "localhost:port", "ray://127.0.0.1:10001"])
def test_an_address_where_no_cluster_is_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(InputError, match=f"^--ray-address {re.escape(address)}: ") as caught, start_ray(1, address):
        pass
    assert "\n" not in str(caught.value)


def squared(number: int) -> Callable[[Callable[[str], None]], int]:
    def task(report: Callable[[str], None]) -> int:
        report(f"{number}: half")
        time.sleep(0.5)
        report(f"{number}: done")
        return number * number

    return task


def test_tasks_run_side_by_side_and_tell_how_far_they_are(cluster: None) -> None:
    told: list[tuple[int, str]] = []
    assert run_tasks([squared(number) for number in range(3)], lambda index, text: told.append((index, text))) == [
        0,
        1,
        4,
    ]
    assert (2, "2: done") in told and (0, "0: half") in told
    assert run_tasks([]) == []


def test_workers_have_their_share_of_the_cores_and_the_folder_of_the_driver(cluster: None) -> None:
    def look(report: Callable[[str], None]) -> tuple[str | None, str]:
        return os.environ.get("OMP_NUM_THREADS"), os.getcwd()

    assert run_tasks([look]) == [(str(max(1, usable_cores() // 2)), os.getcwd())]


def test_an_error_of_a_task_arrives_as_it_was(cluster: None) -> None:
    def fail(report: Callable[[str], None]) -> None:
        raise TrialError("no image left")

    with pytest.raises(TrialError, match="^no image left$"):
        run_tasks([fail, squared(60)])


def test_a_task_whose_process_dies_is_one_line(cluster: None) -> None:
    def die(report: Callable[[str], None]) -> None:
        os._exit(3)

    with pytest.raises(NasdistillError, match="^a worker process died") as caught:
        run_tasks([die])
    assert "\n" not in str(caught.value)


def test_a_running_ray_is_used_and_left_alone(cluster: None) -> None:
    with start_ray(1):
        assert ray.cluster_resources()["CPU"] == 2
    assert ray.is_initialized()


def test_no_port_is_open_to_the_network(cluster: None) -> None:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # one may have ended by now
            found = process.net_connections("inet")
            listening += [one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]
    assert len(listening) >= 4
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_scratch_folder_that_a_neighbour_sweeps_up_too_early_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(scratch, "_LONGEST_PATH", 1000)
    monkeypatch.setattr(scratch, "_sweep", lambda parent: None)
    take, outcomes = scratch._try_lock, ["it has the lock", "it was quicker"]

    def disturbed(file: IO[bytes]) -> bool:
        if not outcomes:
            return take(file)
        if outcomes.pop() == "it has the lock":
            return False
        shutil.rmtree(Path(file.name).parent)
        return take(file)

    monkeypatch.setattr(scratch, "_try_lock", disturbed)
    with scratch_folder() as folder:
        assert not outcomes and (folder / "in-use").is_file()
    assert not folder.exists()


def test_scratch_folders_of_killed_processes_are_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(scratch, "_LONGEST_PATH", 1000)
    (tmp_path / "nd-dead").mkdir()
    (tmp_path / "nd-dead" / "in-use").touch()
    (tmp_path / "nd-strange").mkdir()
    with scratch_folder() as mine:
        assert mine.parent == tmp_path
        assert not (tmp_path / "nd-dead").exists()
        with scratch_folder() as other:
            assert mine.exists() and other != mine
        assert mine.exists() and not other.exists()
    assert [folder.name for folder in tmp_path.iterdir()] == ["nd-strange"]
