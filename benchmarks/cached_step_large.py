"""What the cache saves with a teacher as large as people have: YOLOv5x over a student of a tenth of it, YOLOv5s.

    python -m benchmarks.cached_step_large --data ../shared/data/deeppcb/data.yaml [--json] [--out]

The steps are those of `cached_step`, taken in turns. The teacher has random weights: what a step costs does not depend on
what it knows, but for the box loss, which has no object to work at here (`cached_step` has it all). The figure is the
online step's time as a multiple of the cached one's.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from ultralytics.nn.tasks import DetectionModel

from benchmarks import cached_step
from benchmarks._harness import Outcome, run_benchmark
from nasdistill.data.dataset import load_dataset


def measure(options: argparse.Namespace) -> Outcome:
    """Make the teacher, and time the steps."""
    names = load_dataset(options.data).names
    with tempfile.TemporaryDirectory() as folder:
        options.teacher = Path(folder) / "yolov5x-untrained.pt"
        torch.manual_seed(0)
        model = DetectionModel("yolov5x.yaml", nc=len(names), verbose=False)
        model.names = dict(enumerate(names))
        torch.save({"model": model.eval(), "train_args": {"imgsz": cached_step.IMAGE_SIZE}}, options.teacher)
        outcome = cached_step.measure(options)
    online = outcome.detail["online_over_cached"]
    return dataclasses.replace(
        outcome,
        value=online["median"],
        unit="times a cached step: one with the teacher in it",
        goal=cached_step.ONLINE_GOAL,
        spread=online,
        detail={**outcome.detail, "cached_over_plain": outcome.value},
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data, whose images fill the batches; the student's size."""
    parser.add_argument("--data", type=Path, required=True, help="a data.yaml")
    parser.add_argument("--depth", type=float, default=0.33)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--losses", choices=tuple(cached_step.MIXES), default="default")


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("cached_step_large", "The cache with a large teacher.", measure, add_arguments, argv)


if __name__ == "__main__":
    main()
