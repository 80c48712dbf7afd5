"""Ray, quiet and local unless an address is given, and plain functions run on its workers."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from nasdistill.errors import InputError, InterruptedSearchError, NasdistillError
from nasdistill.search.ray_private import LOOPBACK_ENVIRONMENT, on_loopback, worker_deaths_to_log
from nasdistill.search.scratch import scratch_folder
from nasdistill.store.provenance import usable_cores
from nasdistill.tasks import T, Task

_OBJECT_STORE_BYTES = 256 * 2**20
_SMALLEST_OBJECT_STORE_BYTES = 80 * 2**20
# Read by Ray when it starts or joins. No usage report leaves the machine.
_RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


def worker_environment(workers: int | None) -> dict[str, str]:
    """Environment of the worker processes: each gets its share of the cores, set before any numeric library loads.

    Without `workers` (on a cluster, whose nodes may have any number of cores) it is the one CPU that a trial asks for.
    """
    threads = "1" if workers is None else str(max(1, usable_cores() // workers))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    # Tune would move every worker into a folder of its own, where the relative paths of a data set lead nowhere.
    return {**dict.fromkeys(names, threads), "RAY_CHDIR_TO_TRIAL_DIR": "0"}


@contextlib.contextmanager
def start_ray(
    workers: int, address: str | None = None, gpus: int | None = None, cpus: int | None = None
) -> Iterator[None]:
    """Ray for the time of the context: one on this machine, or the cluster at `address`.

    A local one has `cpus` (`workers` of them by default) and `gpus` to give away (None: those there are) and is gone
    with all its processes and files afterwards. When Ray is running in this process already, it is used and left alone.
    Raises InputError when nothing answers at `address`, NasdistillError when a local Ray doesn't start.
    """
    if ray.is_initialized():
        yield
        return
    with scratch_folder() as folder, worker_deaths_to_log():
        try:
            if address is None:
                _start(folder, cpus or workers, gpus, workers)
            else:
                _join(address)
            yield
        finally:
            with contextlib.suppress(Exception):
                ray.shutdown()


def run_tasks(
    functions: Sequence[Task[T]],
    on_progress: Callable[[int, str], None] | None = None,
    gpus: float = 0,
    shared: Path | None = None,
) -> list[T]:
    """Run picklable functions on the workers of a running Ray and return what they return, in their order.

    Each is called with a `report`: what it last reported reaches `on_progress(index, text)` within a fraction of a
    second. Reports go through files in a folder made for them below `shared`, which all nodes of a cluster see; without
    it they are in the temporary folder, and those of other machines are lost. An exception of a function is raised as
    it was, after the others have been cancelled; Ctrl-C raises InterruptedSearchError.
    """
    if not functions:
        return []
    with _reports_folder(shared) as folder:
        # With a GPU each has a process of its own, as these are no `.options()`: torch stays on the GPU that a process began
        # with, whichever Ray gives to its next task.
        task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(_reporting)
        progress = [folder / str(index) for index in range(len(functions))]
        pending = [task.remote(function, path) for function, path in zip(functions, progress, strict=True)]
        order = {reference: index for index, reference in enumerate(pending)}
        results: dict[int, Any] = {}
        told: dict[int, str] = {}
        try:
            while pending:
                ready, pending = ray.wait(pending, num_returns=1, timeout=0.2)
                for reference in ready:
                    results[order[reference]] = ray.get(reference)
                _pass_on(progress, told, on_progress)
        except RayTaskError as error:
            raise _told(error.cause) from error
        except RayError as error:
            raise NasdistillError(f"a worker process died: {str(error).splitlines()[0]}") from error
        except KeyboardInterrupt:
            raise InterruptedSearchError("interrupted") from None
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
    return [results[index] for index in range(len(functions))]


def _told(error: Exception) -> Exception:
    """What a task raised; of a GPU that is too small for so many at once, with what helps."""
    if type(error).__name__ != "OutOfMemoryError":
        return error
    return NasdistillError(
        "out of memory on the GPU: let fewer share it (of a search: --workers, or --gpus-per-trial 1)"
    )


@contextlib.contextmanager
def _reports_folder(shared: Path | None) -> Iterator[Path]:
    if shared is None:
        with scratch_folder() as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix=".reports-", dir=shared.absolute(), ignore_cleanup_errors=True) as name:
        # Another user's process on another node may have to write there, who may write in `shared` at all.
        os.chmod(name, shared.stat().st_mode & 0o777)
        yield Path(name)


def _reporting(function: Task[T], path: Path) -> T:
    told = ""

    def report(text: str) -> None:
        nonlocal told
        if text == told:  # a file each time, on a cluster of a shared disk
            return
        with contextlib.suppress(OSError):
            beside = path.with_name(f"{path.name}.new")
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, path)
            told = text

    return function(report)


def _pass_on(progress: Sequence[Path], told: dict[int, str], on_progress: Callable[[int, str], None] | None) -> None:
    if on_progress is None:
        return
    for index, path in enumerate(progress):
        with contextlib.suppress(OSError):
            text = path.read_text(encoding="utf-8")
            if told.get(index) != text:
                told[index] = text
                on_progress(index, text)


def _start(folder: Path, cpus: int, gpus: int | None, workers: int) -> None:
    memory = _OBJECT_STORE_BYTES
    options: dict[str, Any] = {}
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    if free < 2 * _OBJECT_STORE_BYTES:
        memory = _SMALLEST_OBJECT_STORE_BYTES
        if free < 2 * _SMALLEST_OBJECT_STORE_BYTES:
            # Containers often have 64 MB there; Ray would warn about it on every start.
            options["_plasma_directory"] = str(folder)
    # Processes started by a local Ray inherit this environment, which is faster than a runtime environment by seconds.
    with environment({**_RAY_ENVIRONMENT, **LOOPBACK_ENVIRONMENT, **worker_environment(workers)}), on_loopback():
        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                object_store_memory=memory,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
                **options,
            )
        except (RuntimeError, ConnectionError, TimeoutError, OSError) as error:
            raise NasdistillError(f"Ray did not start: {error}") from error


def _join(address: str) -> None:
    if address.startswith("ray://"):
        raise InputError(
            f"--ray-address {address}: Ray's client protocol is not supported; give auto on a node of the cluster, "
            "or its own address, host:6379"
        )
    if address != "auto" and not _answers(address):
        raise InputError(
            f"--ray-address {address}: nothing answers there; allowed: auto, or a running cluster's host:port"
        )
    with environment(_RAY_ENVIRONMENT):
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": worker_environment(None)},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (RuntimeError, ConnectionError, TimeoutError, ValueError) as error:
            if _wants_token(error):
                raise InputError(
                    f"--ray-address {address}: the cluster refused us, it wants an authentication token; "
                    "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH where its token is not in ~/.ray/auth_token"
                ) from error
            raise InputError(f"--ray-address {address}: no Ray cluster answers there ({str(error).strip()})") from error


def _wants_token(error: BaseException | None) -> bool:
    """Ray reports a refused login as a failed connection; only the errors behind it tell."""
    while error is not None:
        if isinstance(error, AuthenticationError) or "InvalidAuthToken" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _answers(address: str) -> bool:
    """Whether something listens there: Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except (OSError, ValueError, OverflowError):
        return False


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the time of the context."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
