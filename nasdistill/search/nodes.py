"""What a cluster of several machines must fulfil before a search spends anything on it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nasdistill import __version__
from nasdistill.errors import InputError

# A node that has never run a worker has to start a Python process first.
_ANSWER_S = 120.0
_SETTLE_S = 10.0
_REMEDIES = {
    "run folder": "give --out on a path that all nodes share",
    "cache folder": "set NASDISTILL_CACHE to a path that all nodes share",
    "data": "put it on a path that all nodes share",
}


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes of the running Ray that are alive, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def total(resource: str) -> float:
    """How much of "CPU" or "GPU" all nodes have together."""
    return float(sum(node["Resources"].get(resource, 0.0) for node in alive_nodes()))


def check_resources(resources: Mapping[str, float]) -> None:
    """Refuse what no node can ever give: Ray would wait for it without a word.

    Raises:
        InputError: the resource that is missing, how much a trial needs and how much there is.
    """
    nodes = [node["Resources"] for node in alive_nodes()]
    needed = {{"cpu": "CPU", "gpu": "GPU"}.get(name, name): amount for name, amount in resources.items()}
    for key, amount in needed.items():
        if amount > sum(node.get(key, 0) for node in nodes):
            there = sum(node.get(key, 0) for node in nodes)
            raise InputError(f"a trial needs {amount:g} {key}, but Ray has {there:g} in all")
    if not any(all(amount <= node.get(key, 0) for key, amount in needed.items()) for node in nodes):
        wanted = " and ".join(f"{amount:g} {key}" for key, amount in needed.items())
        raise InputError(f"a trial needs {wanted} on one node, and no node of this Ray has them together")


def room_for(resources: Mapping[str, float]) -> int:
    """How many trials with these resources fit on the nodes at the same time; at least 1."""
    fit = 0
    for node in alive_nodes():
        there = node["Resources"]
        fit += min(_fitting(name, there.get(name.upper(), 0), amount) for name, amount in resources.items() if amount)
    return max(1, fit)


def _fitting(name: str, there: float, amount: float) -> int:
    """How many times `amount` of a resource: a share of a GPU lies on one of them."""
    if name == "gpu" and amount < 1:
        return math.floor(there) * math.floor(1 / amount + 1e-9)
    return math.floor(there / amount + 1e-9)


def check_shared(folders: Mapping[str, Path], data: Path) -> None:
    """Have every node write in the folders ("run folder", "cache folder"), which must exist here, and read `data`.

    A Ray of one node needs no check. Nodes that join later are not looked at.

    Raises:
        InputError: a node that doesn't see a folder, or cannot run this version of nasdistill.
    """
    nodes = alive_nodes()
    if len(nodes) < 2:
        return
    token = f".nasdistill-{uuid.uuid4().hex}"
    task: Any = ray.remote(_look)
    answers: list[Any] = []
    try:
        for folder in folders.values():
            (folder / token).write_text(token, encoding="utf-8")
        answers = [
            task.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            ).remote({name: str(folder) for name, folder in folders.items()}, token, index, str(data))
            for index, node in enumerate(nodes)
        ]
        for index, (node, answer) in enumerate(zip(nodes, answers, strict=True)):
            _check_answer(node, answer, folders, token, index, data)
    finally:
        # After the first complaint others may still be about to write, and would leave their file behind.
        if answers:
            ray.wait(answers, num_returns=len(answers), timeout=_SETTLE_S)
        for folder in folders.values():
            for left in folder.glob(f"{token}*"):
                left.unlink(missing_ok=True)


def _check_answer(
    node: Mapping[str, Any], answer: Any, folders: Mapping[str, Path], token: str, index: int, data: Path
) -> None:
    where = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    try:
        version, problems = ray.get(answer, timeout=_ANSWER_S)
    except GetTimeoutError:
        raise InputError(f"{where} has not answered within {_ANSWER_S:.0f} s; look at it with ray status") from None
    except (RayError, ImportError) as error:
        if node["NodeID"] not in {alive["NodeID"] for alive in alive_nodes()}:
            return  # it has just gone: no trial will run there
        raise InputError(f"{where} cannot run nasdistill: {_last_line(error)}") from error
    if version != __version__:
        raise InputError(f"{where} has nasdistill {version}, this is {__version__}; install the same everywhere")
    for name, folder in folders.items():
        # A folder of the same name that another file system holds is told by what was written there.
        problem = problems[name] or ("" if (folder / f"{token}-{index}").exists() else "it is another folder there")
        if problem:
            raise InputError(f"{where} does not see the {name} {folder} ({problem}); {_REMEDIES[name]}")
    if problems["data"]:
        raise InputError(f"{where} does not see the data {data} ({problems['data']}); {_REMEDIES['data']}")


def _look(folders: Mapping[str, str], token: str, index: int, data: str) -> tuple[str, dict[str, str]]:
    """On a node: read the token in every folder and answer beside it; what went wrong by folder, "" for nothing."""
    problems = dict.fromkeys((*folders, "data"), "")
    try:
        Path(data).read_bytes()
    except OSError as error:
        problems["data"] = error.strerror or str(error)
    for name, folder in folders.items():
        try:
            Path(folder, token).read_text(encoding="utf-8")
            Path(folder, f"{token}-{index}").touch()
        except OSError as error:
            problems[name] = error.strerror or str(error)
    return __version__, problems


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
