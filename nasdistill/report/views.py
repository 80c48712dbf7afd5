"""The fronts that a report can show: the run's own against each of its costs, and that of each of several devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasdistill.pareto.objectives import ACCURACY, Objective, Objectives
from nasdistill.pareto.of_run import devices_of_run, objectives_of_run, on_device
from nasdistill.records import TrialResult
from nasdistill.report.series import FrontSeries, front_series
from nasdistill.report.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class View:
    """A front in `objectives`, drawn against `cost`. `device` is None for the run's own front."""

    title: str
    objectives: Objectives
    cost: Objective
    device: str | None = None

    def series(
        self, results: Sequence[TrialResult], teacher: Teacher | None, trained: Sequence[TrialResult] = ()
    ) -> dict[str, FrontSeries]:
        """The figure's series for each accuracy that it can show."""
        return {
            name: front_series(results, self.objectives.with_accuracy(name), teacher, self.cost, trained)
            for name in ACCURACY
        }


def views_of(run: Mapping[str, Any]) -> list[View]:
    """The run's own front first; a front on one device, that of several, is of accuracy and its latency alone."""
    objectives = objectives_of_run(run)
    own = "" if len(objectives.costs) == 1 else "all objectives, against "
    views = [View(title=own + cost.label, objectives=objectives, cost=cost) for cost in objectives.costs]
    devices = devices_of_run(run)
    for device in devices if len(devices) > 1 else ():
        alone = on_device(run, device)
        views.append(View(title=f"on {device} alone", objectives=alone, cost=alone.costs[0], device=device))
    return views
