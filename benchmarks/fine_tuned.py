"""A run's front against what a person would do instead: YOLO11n from its COCO weights, fine-tuned by Ultralytics itself.

    python -m benchmarks.fine_tuned RUN --data ../shared/data/deeppcb/data.yaml \
        --weights ../shared/weights/yolo11n_coco_state_dict.pt --minutes 30 --checkpoint tuned.pt

RUN is a finished run that still has its exported students, on the same data and machine. The training has the run's
minutes and cores (`train_teacher`; an existing `--checkpoint` is not trained again, so that timing alone can be repeated).
The tuned model is exported and scored on the same validation images as students are, and timed in turns with the
front's members. The figure is the best mAP50-95 of a member that is not slower, less the tuned model's. Students that
`nasdistill train` taught for longer are shown, but had more time and do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import train_teacher
from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from nasdistill.data.dataset import load_dataset
from nasdistill.data.views import letterboxed_split, open_views
from nasdistill.devices.profile import load_device
from nasdistill.devices.profiler import open_profiler
from nasdistill.errors import InputError
from nasdistill.measure.accuracy import score
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.detector import OnnxDetector
from nasdistill.pareto.front import front
from nasdistill.prepare.pools import MOST_VALIDATION_IMAGES, thinned
from nasdistill.store.run_folder import RunFolder
from nasdistill.teacher.teacher import load_teacher

GOAL = Goal(0.0, at_most=False)
ROUNDS = 5
TUNED = "fine-tuned"
ARTIFACT = "student.onnx"


def measure(options: argparse.Namespace) -> Outcome:
    """Train unless it was, score, time all in turns, compare."""
    run = RunFolder.open(options.run)
    members = {f"trial {member.trial}": member for member in front(run.results())}
    artifacts = {name: run.trial_folder(member.trial) / ARTIFACT for name, member in members.items()}
    longer = {f"trial {result.trial}, longer": result for result in run.trained() if result.state == "complete"}
    artifacts |= {name: run.trained_folder(result.trial) / ARTIFACT for name, result in longer.items()}
    missing = [name for name, artifact in artifacts.items() if not artifact.is_file()]
    if missing or not members:
        raise InputError(f"{options.run}: no exported students of {', '.join(missing) or 'a front'}")
    if not options.checkpoint.is_file():
        _train(options)
    tuned, size = load_teacher(options.checkpoint), options.image_size
    dataset = load_dataset(options.data)
    if tuned.names != tuple(dataset.names):
        raise InputError(f"{options.checkpoint}: its classes are {tuned.names}, the data's {tuple(dataset.names)}")
    with tempfile.TemporaryDirectory() as folder:
        artifacts[TUNED] = Path(folder) / "tuned.onnx"
        write_onnx(tuned.model, size, artifacts[TUNED], 1)
        letterboxed_split(
            thinned(dataset.splits["val"], MOST_VALIDATION_IMAGES), dataset.names, size, Path(folder) / "val"
        )
        found = score(OnnxDetector(artifacts[TUNED], 1), open_views(Path(folder) / "val"))
        latency = time_in_turns(artifacts)
    scores = {name: (result.map50, result.map50_95) for name, result in (members | longer).items()}
    scores[TUNED] = (found.map50, found.map50_95)
    not_slower = {name: scores[name][1] for name in members if latency[name] <= latency[TUNED]}
    as_accurate = {name: latency[name] for name in members if scores[name][1] >= found.map50_95}
    leads = [value - found.map50_95 for value in not_slower.values()] or [-found.map50_95]
    rows = [
        {
            "model": name,
            "params M": tuned.parameters_m if name == TUNED else (members | longer)[name].params_m,
            "mAP50": scores[name][0],
            "mAP50-95": scores[name][1],
            "latency ms": latency[name],
        }
        for name in sorted(artifacts, key=lambda name: latency[name])
    ]
    return Outcome(
        value=max(leads),
        unit="mAP50-95 that the best member which is not slower is ahead of the tuned model",
        goal=GOAL,
        spread=spread(leads),
        detail={
            "models": rows,
            "times_faster_at_its_accuracy": latency[TUNED] / min(as_accurate.values()) if as_accurate else None,
            "minutes": options.minutes,
            "threads": options.threads,
            "image_size": size,
            "budget": run.read_run().get("budget"),
            "data": options.data.resolve().parent.name,
        },
        table=rows,
    )


def time_in_turns(artifacts: Mapping[str, Path], rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each exported model over `rounds` rounds, so that a slow moment hits all of them."""
    profiler = open_profiler(load_device("local"))
    timed: dict[str, list[float]] = {name: [] for name in artifacts}
    for _ in range(rounds):
        for name, artifact in artifacts.items():
            timed[name].append(profiler.measure(artifact).median_ms)
    return {name: statistics.median(values) for name, values in timed.items()}


def _train(options: argparse.Namespace) -> None:
    given = {
        "data": options.data,
        "model": options.model,
        "weights": options.weights,
        "image-size": options.image_size,
        "minutes": options.minutes,
        "threads": options.threads,
        "batch": options.batch,
        "seed": options.seed,
        "to": options.checkpoint,
    }
    with contextlib.redirect_stdout(sys.stderr):  # the benchmark's own figures come last on standard output
        train_teacher.main([f"--{name}={value}" for name, value in given.items() if value is not None])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run, and the training to compare it with."""
    parser.add_argument("run", type=Path, help="a finished run's folder, with its exported students")
    train_teacher.add_training_arguments(parser)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the tuned model: trained unless it is there")


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark("fine_tuned", __doc__ or "", measure, add_arguments, argv)


if __name__ == "__main__":
    main()
