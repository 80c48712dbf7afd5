"""Seconds for one suggestion of the latency-first sampler with 500 finished trials behind it.

    python -m benchmarks.suggest_time [--quick] [--json] [--out]

The space is nasdistill's own `edge-default`, as a search uses it; the scores are made up from the parameters, since
only the time counts. The first suggestion, which fits the models from nothing, is measured apart. Seconds are those of
the processor, in one thread: on a machine with nothing else to do they are the ones on the wall, which are in the detail.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import create_trial

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from nasdistill.search import LatencyFirstSampler
from nasdistill.search.candidates import Tree
from nasdistill.search.distributions import distribution_of
from nasdistill.space.loader import load_space

TRIALS, GOAL_SECONDS = 500, 1.0


def latency(params: Mapping[str, Any]) -> float:
    size = float(params.get("yolov5.width", 0.1)) * params["image_size"] / 64.0 * (1.0 - params["prune.ratio"])
    return 1.0 + size + 0.02 * float(params.get("mobilenetv3.neck", params.get("efficientnet_lite0.neck", 0)))


def score(params: Mapping[str, Any]) -> float:
    return 1.0 - math.exp(-0.3 * latency(params)) - 0.05 * abs(math.log(params["weight.cls"]))


def measure(options: argparse.Namespace) -> Outcome:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space("edge-default")

    def following(chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {name: distribution_of(parameter) for name, parameter in space.parameters(chosen).items()}

    sampler = LatencyFirstSampler(following, latency, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    tree = Tree(following)
    for _ in range(TRIALS):
        params, distributions = tree.walk({}, sampler._rng)
        values = [score(params), latency(params)]
        study.add_trial(create_trial(values=values, params=params, distributions=dict(distributions)))
    seconds, wall = [], []
    for _ in range(6 if options.quick else 31):
        started, began = time.process_time(), time.perf_counter()
        trial = study.ask()
        params = {}
        while parameters := following(params):
            for name, distribution in parameters.items():
                params[name] = trial._suggest(name, distribution)
        seconds.append(time.process_time() - started)
        wall.append(time.perf_counter() - began)
        study.tell(trial, [score(params), latency(params)])
    first, rest = seconds[0], seconds[1:]
    figures = spread(rest)
    return Outcome(
        value=figures["median"],
        unit=f"s of processor time per suggestion at {TRIALS} trials",
        goal=Goal(GOAL_SECONDS),
        spread=figures,
        detail={"first_s": first, "longest_s": max(rest), "wall": spread(wall[1:])},
        table=[{"suggestion": "first", "s": first}, {"suggestion": "median of the others", "s": figures["median"]}],
    )


if __name__ == "__main__":
    run_benchmark("suggest_time", __doc__ or "", measure)
