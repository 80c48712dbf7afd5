"""On what a search runs: this machine or a cluster, how many trials at a time, and a trial's share of the GPUs."""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nasdistill.progress import RunTasks
from nasdistill.search.cluster import run_tasks, start_ray
from nasdistill.search.nodes import check_resources, check_shared, room_for, total
from nasdistill.session.request import SearchRequest
from nasdistill.store.provenance import usable_cores


@dataclass(frozen=True)
class Workplace:
    """Ray is running. `shared` is a folder that all of its nodes see, None on this machine alone."""

    workers: int
    gpus: float
    shared: Path | None

    @property
    def per_trial(self) -> dict[str, float]:
        """Ray's resources for one trial."""
        return {"cpu": 1, "gpu": self.gpus} if self.gpus else {"cpu": 1}

    @property
    def run_tasks(self) -> RunTasks:
        """Runs the tasks of the preparation here."""
        return functools.partial(run_tasks, gpus=self.gpus, shared=self.shared)


@contextlib.contextmanager
def workplace(request: SearchRequest, run: Path, cache: Path, data: Path) -> Iterator[Workplace]:
    """A local Ray, or the cluster that was asked for, checked: every node sees the run folder, the cache folder and
    the data.

    Raises:
        InputError: no cluster answers, it hasn't what a trial needs, or a node doesn't see a folder.
    """
    with start_ray(request.workers or usable_cores(), request.ray_address):
        there = int(total("GPU"))
        if request.gpus_per_trial is not None:
            gpus = request.gpus_per_trial
        else:
            # the workers that share a GPU have equal parts of it
            gpus = 1.0 / math.ceil((request.workers or int(total("CPU")) or 1) / there) if there else 0.0
        one = Workplace(1, gpus, None)
        check_resources(one.per_trial)
        # more workers than Ray has room for would wait for ever
        room = room_for(one.per_trial)
        workers = min(room, request.workers or room)
        if request.ray_address is not None:
            check_shared({"run folder": run, "cache folder": cache}, data)
        yield Workplace(workers, gpus, None if request.ray_address is None else run)
