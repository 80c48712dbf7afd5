"""A made-up half hour on DeepPCB: the search space `edge-default` with scores, latencies and seconds from formulas.

The formulas were fitted by eye to some forty real trials of 180 steps on two slow cores (results/deeppcb-28m-avx2, and
the tables of 2026-11-28 in docs/decisions.md). They know nothing of another data set or machine; what they are for is to try
many searches of a dozen trials in the time that one real search takes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import TrialState

from nasdistill.pareto.hypervolume import Reference, share_of_box
from nasdistill.prepare.scouting import scout_points
from nasdistill.records import Scalar
from nasdistill.search import LatencyFirstSampler
from nasdistill.search.candidates import position_of
from nasdistill.search.distributions import distribution_of, identity, suggest_params
from nasdistill.search.samplers import SECONDS, SamplerTask, make_sampler
from nasdistill.space.search_space import SearchSpace

BOX_MS = 50.0
WORKERS, SEARCH_S, SCOUTS = 2, 1000.0, 22
SCOUTING_S = 36.0  # that timing untrained students may take of half an hour, which another sampler trains in
SCORE_NOISE, LATENCY_NOISE, SECONDS_NOISE = 0.012, 0.04, 0.08
RECIPE = ("temperature.start", "weight.box", "weight.cls", "weight.feature")
RECIPE_DEVIATION, RECIPE_LOSS = 0.15, 0.6
"""How far from the middles of the ranges the best recipe is, and how much the square of the distance to it costs."""
_FULL_SCORE = {(320, 48): 0.52, (320, 32): 0.50, (256, 48): 0.455, (256, 32): 0.41}
_VARIANTS = ("small_050", "small_075", "small_100")


@dataclass(frozen=True)
class Figures:
    """What a student would get: mAP50-95 with the best recipe, milliseconds, and seconds of its trial."""

    score: float
    latency_ms: float
    seconds: float


def figures(point: Mapping[str, Scalar]) -> Figures:
    """The figures of one point of `edge-default`."""
    size, ratio = int(point["image_size"]), float(point["prune.ratio"])
    area = (size / 256) ** 2
    if point["family"] == "yolov5":
        width, least = float(point["yolov5.width"]), int(point["yolov5.least_channels"])
        shallow = float(point["yolov5.depth"]) < 0.25
        early = 0.28 if least == 48 else 0.13
        gflops = area * (early + 0.99 * (width / 0.25) ** 1.31 * (1 - ratio) ** 2.2) * (0.98 if shallow else 1.0)
        left = width * (1 - ratio)
        score = _FULL_SCORE[size, least] * (1 - math.exp(-24 * left)) * (0.99 if shallow else 1.0)
        return Figures(score * (0.4 if left < 0.035 else 1.0), 2.5 + 12.6 * gflops, 25 + 105 * gflops)
    neck = (int(point[f"{point['family']}.neck"]) - 32) // 16
    larger = 0.06 if size == 320 else 0.0
    if point["family"] == "mobilenetv3":
        variant = _VARIANTS.index(str(point["mobilenetv3.variant"]))
        gflops = area * (0.2 + 0.11 * variant + 0.03 * neck) * (1 - ratio) ** 0.8
        score = 0.16 + 0.02 * variant + 0.005 * neck + larger - 0.06 * ratio
        return Figures(score, 1.7 + 15 * gflops, 25 + 170 * gflops)
    gflops = area * (1.0 + 0.05 * neck) * (1 - ratio) ** 0.8
    return Figures(0.26 + 0.005 * neck + larger - 0.05 * ratio, 2 + 15 * gflops, 10 + 190 * gflops)


@dataclass(frozen=True)
class Searched:
    """The students of one search, as (milliseconds, score) without noise, in the order in which they were done."""

    students: list[tuple[float, float]]

    def hypervolume(self, log: bool = False) -> float:
        """The share of the box up to BOX_MS and a score of 1; of one from 2 ms that is even in ratios, where `log`."""
        scale = math.log if log else float
        points = np.array([(-score, scale(latency)) for latency, score in self.students])
        return share_of_box(points, np.array([0.0, scale(BOX_MS)]), math.log(BOX_MS / 2.0) if log else BOX_MS)


def search(space: SearchSpace, sampler: str, seed: int, timed: bool = True) -> Searched:
    """One search of SEARCH_S by a virtual clock, anchors first; no trial starts that would end later.

    A sampler for which no untrained students are timed has SCOUTING_S more.
    """
    noise = np.random.default_rng(1000 + seed)
    best = {name: noise.normal(0.5, RECIPE_DEVIATION) for name in RECIPE}
    distributions = {name: distribution_of(space.common[name]) for name in RECIPE}
    chosen = make_sampler(sampler, SamplerTask(space, reference=Reference(latency_ms=BOX_MS), timed=timed, seed=seed))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=chosen)
    observing = chosen if isinstance(chosen, LatencyFirstSampler) else None
    limit = SEARCH_S if observing else SEARCH_S + SCOUTING_S
    for point in scout_points(space, seed)[:SCOUTS] if observing else ():
        observing.observe(point, figures(point).latency_ms * noise.lognormal(0.0, LATENCY_NOISE))
    for anchor in space.anchors():
        study.enqueue_trial(anchor)
    running: list[tuple[float, int, optuna.Trial, dict[str, Scalar]]] = []
    seen: set[str] = set()

    def start(now: float) -> None:
        while True:
            trial = study.ask()
            params = suggest_params(trial, space)
            if identity(space, params) not in seen:
                break
            study.tell(trial, state=TrialState.FAIL)
        seen.add(identity(space, params))
        ends = now + figures(params).seconds
        if ends > limit:
            study.tell(trial, state=TrialState.FAIL)
        else:
            heapq.heappush(running, (ends, trial.number, trial, params))

    for _ in range(WORKERS):
        start(0.0)
    students = []
    while running:
        now, _, trial, params = heapq.heappop(running)
        found = figures(params)
        away = sum((position_of(distributions[name], params[name]) - middle) ** 2 for name, middle in best.items())
        score = found.score * math.exp(-RECIPE_LOSS * away)
        students.append((found.latency_ms, score))
        seen_ms = found.latency_ms * noise.lognormal(0.0, LATENCY_NOISE)
        if observing:
            took = found.seconds * noise.lognormal(0.0, SECONDS_NOISE)
            observing.observe(params, seen_ms, **{SECONDS: took})
        study.tell(trial, [max(0.0, score + noise.normal(0.0, SCORE_NOISE)), seen_ms])
        start(now)
    return Searched(students)
