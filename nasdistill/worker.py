"""The worker that a search runs: from a job to a trial, with its stop conditions."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from nasdistill.distill.compute import release_gpu_memory
from nasdistill.pareto.limits import Limit
from nasdistill.records import ADDED_PARAMS, Scalar
from nasdistill.search.worker import TrialJob
from nasdistill.space.search_space import SearchSpace
from nasdistill.tasks import Report
from nasdistill.trial import InRungs, trial_in_rungs
from nasdistill.trial_rungs import TrialPlace
from nasdistill.workbench import Assets, Workbench


class TrialWorker:
    """Runs trials one after the other on one open workbench."""

    def __init__(self, assets: Assets, space: SearchSpace, constraints: tuple[Limit, ...] = ()) -> None:
        self._bench = Workbench(assets)
        self._space = space
        self._constraints = constraints

    def run(self, job: TrialJob, report: Report) -> InRungs:
        """Run one job from rung to rung; raises what the trial raises."""
        release_gpu_memory()
        config = self._space.config(searched(job.params))
        place = TrialPlace(job.trial, job.folder, dict(job.params), job.must_end, self._constraints)
        repeating = contextlib.nullcontext() if job.seed is None else self._bench.repeating(job.seed)
        with repeating:
            return (yield from trial_in_rungs(config, self._bench, place, report))


@dataclass(frozen=True)
class MakeTrialWorker:
    """Picklable factory of the worker, called once in each worker process."""

    assets: Assets
    space: SearchSpace
    constraints: tuple[Limit, ...] = ()

    def __call__(self) -> TrialWorker:
        return TrialWorker(self.assets, self.space, self.constraints)


def searched(params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Only what the space knows: resumed trials carry what results add."""
    return {name: value for name, value in params.items() if name not in ADDED_PARAMS}
