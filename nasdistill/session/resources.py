"""On what a search runs: this machine or a cluster, how many trials at a time, and a trial's share of the GPUs."""

import contextlib
import functools
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
            gpus = min(1.0, there / (request.workers or int(total("CPU")) or 1)) if there else 0.0
        found = Workplace(request.workers or usable_cores(), gpus, None)
        check_resources(found.per_trial)
        if request.ray_address is not None:
            found = Workplace(request.workers or room_for(found.per_trial), gpus, run)
            cache.mkdir(parents=True, exist_ok=True)
            check_shared({"run folder": run, "cache folder": cache}, data)
        yield found
