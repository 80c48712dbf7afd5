"""What the benchmarks over many students share: drawing them, timing their steps, running their trials side by side."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks._parts import Parts
from benchmarks._processes import process_pool
from benchmarks._training import Setting, distillation_timer, run_one_trial
from nasdistill.distill.compute import keep_freed_memory
from nasdistill.prepare.length import TRIAL_OVERHEAD_S
from nasdistill.records import TrialConfig
from nasdistill.space.search_space import SearchSpace, flat_params
from nasdistill.students.families import lineage
from nasdistill.workbench import Assets

TIMED_TURNS = 5


@dataclass(frozen=True)
class Job:
    """One trial to run: what, with which assets, where."""

    config: TrialConfig
    assets: Assets
    folder: Path


def draw_students(space: SearchSpace, count: int, seed: int) -> list[TrialConfig]:
    """`count` different students: the families take turns, everything else is random."""
    rng, drawn, seen = random.Random(seed), [], set()
    families = list(space.families)
    while len(drawn) < count:
        params = space.sample(rng)
        config = space.config(params)
        shape = (config.family, tuple(sorted(config.arch.items())), config.image_size)
        if config.family == families[len(drawn) % len(families)] and shape not in seen:
            seen.add(shape)
            drawn.append(config)
    return drawn


def lineages_of(configs: Sequence[TrialConfig]) -> set[str]:
    """The lineages that the students belong to."""
    return {lineage(config.family, config.arch) for config in configs}


def step_seconds(setting: Setting, config: TrialConfig) -> dict[str, float]:
    """Core seconds of one distillation step of a student, the median of a few."""
    timer = distillation_timer(setting, config.family, config.arch, setting.training.precision, config.image_size)
    for turn in range(TIMED_TURNS + 1):
        timer.step(seed=turn, keep=turn > 0)
    return {"step_s": round(median(timer.spent_s), 4)}


def steps_within(core_seconds: float, steps_s: Sequence[float]) -> int:
    """The same number of steps for all trials, so that together they take about `core_seconds`."""
    left = core_seconds - TRIAL_OVERHEAD_S * len(steps_s)
    return max(1, round(left / sum(steps_s)))


def run_jobs(parts: Parts, jobs: Mapping[str, Job], processes: int) -> None:
    """Run the jobs that `parts` does not hold yet, `processes` at a time with one thread each; keep each as it comes."""
    waiting = {name: job for name, job in jobs.items() if name not in parts}
    if not waiting:
        return
    with process_pool(processes) as pool:
        names = {pool.submit(_run, job): name for name, job in waiting.items()}
        for done in as_completed(names):
            parts.put(names[done], done.result())


def _run(job: Job) -> dict[str, Any]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as the workers of a search do
    started, cpu = time.perf_counter(), time.process_time()
    result = run_one_trial(job.config, job.assets, job.folder)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return {
        "family": result.family,
        "map50": result.map50,
        "map50_95": result.map50_95,
        "params_m": result.params_m,
        "latency_ms": result.latency_ms,
        "init": result.params["init"],
        "core_s": round(cpu_s, 1),
        "core_share": round(cpu_s / wall_s, 3),
    }


def facts(config: TrialConfig) -> dict[str, Any]:
    """A student's parameters, for the detail of a result."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in flat_params(config).items()}
