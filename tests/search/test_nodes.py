"""Searches on several Ray nodes on this machine: spread, a node that dies, shares of a GPU, folders that a node lacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.cluster_utils import Cluster
from search_workers import FileRun, MeetingWorker, NodeWorker, SmallSpace

from nasdistill.errors import InputError
from nasdistill.search import nodes
from nasdistill.search.budget import parse_budget
from nasdistill.search.cluster import environment, run_tasks, start_ray
from nasdistill.search.events import SearchEvent, TrialStarted
from nasdistill.search.nodes import check_shared, room_for
from nasdistill.search.runner import run_search
from nasdistill.search.scratch import scratch_folder

TINY = {"object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, a node of two CPUs and a GPU, which is Ray's word for it only, and one of one CPU."""
    with (
        # Ray's processes import the workers of the tests by name.
        environment({"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "RAY_DEDUP_LOGS": "0"}),
        scratch_folder() as folder,
    ):
        Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray's class notes the address, whatever `temp_dir` is
        nodes = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "temp_dir": str(folder), "include_dashboard": False, **TINY},
        )
        nodes.add_node(num_cpus=2, num_gpus=1, **TINY)
        nodes.add_node(num_cpus=1, **TINY)
        try:
            with start_ray(3, nodes.address):
                yield nodes
        finally:
            nodes.shutdown()


def nodes_of(folder: Path, trial: int) -> list[str]:
    """On which nodes the trial was begun, in order."""
    log = folder / "trials" / str(trial) / "log.txt"
    return re.findall(r"node (\w+)", log.read_text()) if log.exists() else []


def optuna_states(folder: Path) -> list[str]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return [trial.state.name for trial in optuna.load_study(study_name="nasdistill", storage=storage).trials]


def short_worker() -> NodeWorker:
    return NodeWorker(0.3)


def meeting_worker() -> MeetingWorker:
    return MeetingWorker(0.3)


def long_worker() -> NodeWorker:
    return NodeWorker(2.0)


def test_trials_run_on_several_nodes_from_a_relative_folder(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the nodes' processes are not
    results = run_search(SmallSpace(), short_worker, FileRun(Path("run")), parse_budget("10trials"), workers=3)
    assert [(result.trial, result.state) for result in results] == [(number, "complete") for number in range(10)]
    used = {node for result in results for node in nodes_of(tmp_path / "run", result.trial)}
    assert len(used) == 2


def test_two_trials_share_a_gpu(cluster: Cluster, tmp_path: Path) -> None:
    share = {"cpu": 1, "gpu": 0.5}
    assert room_for(share) == 2
    results = run_search(
        SmallSpace(), meeting_worker, FileRun(tmp_path), parse_budget("4trials"), workers=2, resources_per_trial=share
    )
    assert {result.state for result in results} == {"complete"} and len(results) == 4
    logs = [(tmp_path / "trials" / str(result.trial) / "log.txt").read_text() for result in results]
    assert {gpu for log in logs for gpu in re.findall(r"gpus \[(.*?)\]", log)} == {"0"}
    spans = sorted((float(begin), float(end)) for log in logs for begin, end in re.findall(r"from (\S+) to (\S+)", log))
    assert any(later[0] < earlier[1] for earlier, later in zip(spans, spans[1:], strict=False))


def test_what_no_single_node_has_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    wanted = {"cpu": 3.0}
    with pytest.raises(InputError, match="a trial needs 3 CPU on one node"):
        run_search(SmallSpace(), short_worker, FileRun(tmp_path), parse_budget("1trial"), resources_per_trial=wanted)


def test_reports_of_tasks_arrive_through_a_shared_folder(cluster: Cluster, tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []

    def task(report: Callable[[str], None]) -> None:
        report("half")
        time.sleep(0.6)

    run_tasks([task, task], lambda index, text: told.append((index, text)), shared=tmp_path)
    assert set(told) == {(0, "half"), (1, "half")}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_node_that_dies_costs_a_second_attempt_and_no_trial(cluster: Cluster, tmp_path: Path) -> None:
    doomed = cluster.add_node(num_cpus=1, resources={"doomed": 1}, **TINY)
    name = doomed.node_id
    killer: list[threading.Thread] = []
    run = FileRun(tmp_path)

    def begun_there() -> list[int]:
        return [
            int(folder.name)
            for folder in (tmp_path / "trials").iterdir()
            if name in nodes_of(tmp_path, int(folder.name))
        ]

    def kill() -> None:
        limit = time.time() + 60
        while not begun_there() and time.time() < limit:
            time.sleep(0.1)
        cluster.remove_node(doomed, allow_graceful=False)

    def on_event(event: SearchEvent) -> None:
        if isinstance(event, TrialStarted) and not killer:
            killer.append(threading.Thread(target=kill))
            killer[0].start()

    results = run_search(SmallSpace(), long_worker, run, parse_budget("10trials"), workers=4, on_event=on_event)
    killer[0].join()
    assert [(result.trial, result.state) for result in results] == [(number, "complete") for number in range(10)]
    assert len({str(sorted((k, str(v)) for k, v in result.params.items())) for result in results}) == 10
    assert optuna_states(tmp_path) == ["COMPLETE"] * 10
    twice = [result.trial for result in results if len(nodes_of(tmp_path, result.trial)) > 1]
    assert twice and set(twice) <= set(begun_there())
    for trial in twice:
        first, second = nodes_of(tmp_path, trial)
        assert first == name != second
        assert "attempt 2: the first worker died" in (tmp_path / "trials" / str(trial) / "log.txt").read_text()


def test_folders_that_every_node_sees_pass_and_are_left_clean(cluster: Cluster, tmp_path: Path) -> None:
    data = tmp_path / "data.yaml"
    data.touch()
    check_shared({"run folder": tmp_path, "cache folder": tmp_path}, data)
    assert list(tmp_path.iterdir()) == [data]


@pytest.fixture
def apart(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """A folder in whose place another node has a folder of its own: a node in a mount namespace."""
    own = tmp_path / "own"
    own.mkdir()
    mounted = f"mount -t tmpfs none {own} && "
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted + "true"], capture_output=True).returncode:
        pytest.skip("needs mount namespaces (unshare -m, mount), which are not allowed here")
    ray_program = f"{sys.executable} -m ray.scripts.scripts"
    command = f"{mounted} exec {ray_program} start --address {cluster.address} --num-cpus 1 --block"
    before = len(ray.nodes())
    node = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", command + f" --object-store-memory {TINY['object_store_memory']}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        limit = time.time() + 60
        while len(ray.nodes()) == before and time.time() < limit:
            time.sleep(0.2)
        assert len(ray.nodes()) > before
        yield own
    finally:
        node.terminate()
        node.wait(30)


def test_a_node_with_a_folder_of_its_own_is_named(apart: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.yaml"
    data.touch()
    check_shared({"run folder": tmp_path}, data)
    with pytest.raises(InputError) as caught:
        check_shared({"run folder": tmp_path, "cache folder": apart}, data)
    said = f"does not see the cache folder {apart} (No such file or directory); set NASDISTILL_CACHE"
    assert str(caught.value).startswith("node ") and said in str(caught.value)
    (apart / "data.yaml").touch()
    with pytest.raises(InputError, match="does not see the data .*put it on a path that all nodes share"):
        check_shared({"run folder": tmp_path}, apart / "data.yaml")
    assert list(apart.iterdir()) == [apart / "data.yaml"]


@pytest.mark.parametrize(
    ("amount", "gpus", "fits"), [(0.5, 1, 2), (0.6, 2, 2), (0.4, 2, 4), (1 / 3, 1, 3), (1, 4, 4), (2, 5, 2)]
)
def test_a_share_of_a_gpu_lies_on_one_of_them(
    monkeypatch: pytest.MonkeyPatch, amount: float, gpus: int, fits: int
) -> None:
    monkeypatch.setattr(nodes, "alive_nodes", lambda: [{"Resources": {"CPU": 64.0, "GPU": float(gpus)}}])
    assert room_for({"cpu": 1, "gpu": amount}) == fits
