"""What a search of a dozen trials gains from its sampler: a made-up half hour (`_half_hour`), many times over.

    python -m benchmarks.short_search [--seeds 16] [--quick] [--json] [--out]

Sixteen trainings of a real half hour say little about a sampler: one search is one draw. Here a search takes seconds.
Compared are the defaults, the same without what is believed of the recipe, without counting the seconds that a trial takes,
without both, and random search, all with the space's anchors. The figure is the defaults' mean hypervolume over random's.
"""

from __future__ import annotations

import argparse
from statistics import mean, stdev

import optuna

from benchmarks._half_hour import Searched, search
from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from nasdistill.space.loader import load_space
from nasdistill.space.search_space import SearchSpace

GOAL = Goal(1.1, at_most=False)


class Unbelieving(SearchSpace):
    """A space of which nothing is believed."""

    def believed(self) -> dict[str, float]:
        return {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often."""
    parser.add_argument("--seeds", type=int, default=16, help="searches of each kind [default: 16]")


def measure(options: argparse.Namespace) -> Outcome:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    believed = load_space("edge-default")
    unbelieving = Unbelieving(**vars(believed))
    sides = {
        "defaults": (believed, "latency-first", True),
        "nothing believed": (unbelieving, "latency-first", True),
        "seconds not counted": (believed, "latency-first", False),
        "neither": (unbelieving, "latency-first", False),
        "random": (believed, "random", True),
    }
    seeds = range(2 if options.quick else options.seeds)
    found = {
        side: [search(space, sampler, seed, timed) for seed in seeds] for side, (space, sampler, timed) in sides.items()
    }
    volumes = {side: [one.hypervolume() for one in searches] for side, searches in found.items()}
    ratios = [ours / theirs for ours, theirs in zip(volumes["defaults"], volumes["random"], strict=True)]
    rows = [_row(side, searches) for side, searches in found.items()]
    return Outcome(
        value=mean(volumes["defaults"]) / mean(volumes["random"]),
        unit="times the mean hypervolume of random search in a made-up half hour",
        goal=GOAL,
        spread=spread(ratios),
        detail={"seeds": len(seeds), "sides": rows},
        table=rows,
    )


def _row(side: str, searches: list[Searched]) -> dict[str, object]:
    linear = [one.hypervolume() for one in searches]
    log = [one.hypervolume(log=True) for one in searches]
    return {
        "search": side,
        "hypervolume": mean(linear),
        "standard error": stdev(linear) / len(linear) ** 0.5,
        "in log ms": mean(log),
        "its error": stdev(log) / len(log) ** 0.5,
        "trials": mean(len(one.students) for one in searches),
    }


def main(argv: list[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("short_search", __doc__ or "", measure, add_arguments, argv)


if __name__ == "__main__":
    main()
