"""On what a search runs: this machine or a cluster, how many trials at a time, and a trial's share of the GPUs."""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nasdistill.progress import RunTasks
from nasdistill.search.cluster import run_tasks, start_ray
from nasdistill.search.nodes import check_resources, check_shared, room_for, total
from nasdistill.store.provenance import usable_cores

GPU_GB_PER_TRIAL = 3.0
"""Memory of a GPU that a worker is given unless the person says how many share it: its own share of CUDA, and training at
16 images of middle size with room to spare. Cautious; how little would do was not measured."""


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
def workplace(
    run: Path,
    cache: Path,
    data: Path,
    workers: int | None = None,
    ray_address: str | None = None,
    gpus_per_trial: float | None = None,
) -> Iterator[Workplace]:
    """A local Ray, or the cluster at `ray_address`, checked: every node sees the run folder, the cache folder and the data.

    Without `workers` there are as many as cores; without `gpus_per_trial` they have equal parts of the GPUs, and on this
    machine no more of them share one than its memory holds.

    Raises:
        InputError: no cluster answers, it hasn't what a trial needs, or a node doesn't see a folder.
    """
    usable = None if torch.cuda.is_available() else 0  # Ray counts GPUs that this torch cannot use
    with start_ray(workers or usable_cores(), ray_address, usable):
        gpus = gpus_per_trial
        if gpus is None:
            gpus = _share(int(total("GPU")), workers or int(total("CPU")) or 1, fitted=not (workers or ray_address))
        one = Workplace(1, gpus, None)
        check_resources(one.per_trial)
        # more workers than Ray has room for would wait for ever
        room = room_for(one.per_trial)
        fitting = min(room, workers or room)
        if ray_address is not None:
            check_shared({"run folder": run, "cache folder": cache}, data)
        yield Workplace(fitting, gpus, None if ray_address is None else run)


def _share(gpus: int, workers: int, fitted: bool) -> float:
    """Equal parts of the GPUs; `fitted`: of a GPU of this machine, not more than its memory holds."""
    if not gpus:
        return 0.0
    sharing = math.ceil(workers / gpus)
    if fitted and torch.cuda.is_available():
        memory = min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))
        sharing = min(sharing, max(1, int(memory / 1e9 / GPU_GB_PER_TRIAL)))
    return math.floor(10_000 / sharing) / 10_000  # what Ray counts in: a seventh rounded up leaves room for six
