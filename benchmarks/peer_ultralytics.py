"""Ultralytics' own distillation (`distill_model=`) against ours: same student, same starting weights, data and time.

    python -m benchmarks.peer_ultralytics --data ../shared/data/deeppcb/data.yaml --teacher ../shared/weights/pcb_teacher.pt
    python -m benchmarks.peer_ultralytics --quick      # on the embedded demo, seconds instead of minutes

The peer trains with its own defaults (optimiser, rates, augmentation, its teacher in every step) for `--minutes` by the
clock; validation and plots are off, and on a CPU data-loading workers, so that all of its one core trains. Ours gets the
steps that fit into the same time, less the whole cost of filling its cache. Both students are exported and scored by the
same scorer.
Each training is kept in `benchmarks/results/peer_ultralytics.partial.json` as it ends: the same command goes on where a
killed run ended, until the result is out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks._harness import RESULTS, Goal, Outcome, run_benchmark, spread
from benchmarks._losses import MIXES
from benchmarks._parts import Parts
from benchmarks._peer import BATCH_SIZE as PEER_BATCH_SIZE
from benchmarks._peer import as_ultralytics, link_dataset, scored_model, train_with_ultralytics
from benchmarks._training import Setting, add_input_arguments, length_of, open_setting, run_one_trial
from benchmarks.distill_gain import FAMILY, cost_of, interval, starting_weights
from nasdistill.config import TrainingSettings
from nasdistill.data.views import open_views
from nasdistill.measure.accuracy import score
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.detector import OnnxDetector
from nasdistill.prepare.inputs import cache_folder
from nasdistill.prepare.length import TRIAL_OVERHEAD_S
from nasdistill.records import Scalar
from nasdistill.students.families import lineage
from nasdistill.students.student import dress, parameters_m
from nasdistill.workbench import SupernetFile

STEPS_GOAL = Goal(2.0, at_most=False)
PARTIAL = RESULTS / "peer_ultralytics.partial.json"


@dataclass(frozen=True)
class Trained:
    """One training: scores of the exported student, its steps and the seconds they took."""

    map50: float
    map50_95: float
    steps: int
    seconds: float


def train_peer(
    setting: Setting,
    arch: Mapping[str, Scalar],
    start: SupernetFile,
    size: int,
    seconds: float,
    seed: int,
    work: Path,
) -> Trained:
    """Train the student with Ultralytics' trainer and its distillation for `seconds` by the clock."""
    student, names = setting.student(FAMILY, arch), setting.inputs.dataset.names
    student.model.load_state_dict(load_file(start.path))
    own = as_ultralytics(student.model, FAMILY, arch, names)
    data = link_dataset(setting.inputs.dataset, work / "peer-data")
    run = train_with_ultralytics(own, setting.inputs.teacher.model, data, size, seconds, seed, work)
    artifact = work / "peer.onnx"
    write_onnx(dress(scored_model(run), names), size, artifact, 1)
    found = score(OnnxDetector(artifact, 1), open_views(setting.pools[0].folders.validation))
    return Trained(found.map50, found.map50_95, run.steps, run.seconds)


def train_ours(
    setting: Setting, arch: Mapping[str, Scalar], start: SupernetFile, size: int, steps: int, seed: int, work: Path
) -> Trained:
    """Run one of our trials of the default mix with `steps` steps."""
    epochs, images, steps = length_of(steps, setting.training.recipe.batch_size)
    own = setting.training.model_copy(update={"epochs": epochs, "seed": seed})
    assets = setting.assets({lineage(FAMILY, arch): start}, own, images_per_epoch=images)
    config = MIXES["default"].config(family=FAMILY, arch=arch, image_size=size)
    result = run_one_trial(config, assets, work / "ours")
    assert result.map50 is not None and result.map50_95 is not None
    return Trained(result.map50, result.map50_95, steps, result.seconds)


def measure(options: argparse.Namespace) -> Outcome:
    """Run what is not there yet, in turns, and compare."""
    torch.set_num_threads(1)
    seeds = 1 if options.quick else options.seeds
    seconds = TRIAL_OVERHEAD_S + 10.0 if options.quick else 60.0 * options.minutes
    size = 128 if options.quick else options.image_size
    arch: dict[str, Scalar] = {"depth": options.depth, "width": options.width}
    mix = MIXES["default"]
    training = TrainingSettings(max_views=64 if options.quick else 6000)
    ours: list[Trained] = []
    peers: list[Trained] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cache = work if options.quick else cache_folder()
        setting = open_setting(options.data, options.teacher, cache, training, [size], form=mix.form)
        teacher = setting.inputs.teacher
        key = {"data": setting.inputs.data_hash, "teacher": teacher.sha256, "arch": arch, "size": size, "s": seconds}
        parts = Parts(work / PARTIAL.name if options.quick else PARTIAL, key)
        cost = parts.get("cost", partial(cost_of, setting, arch, mix, options.quick))
        start = starting_weights(setting, arch, work)
        steps = max(2, int((seconds - TRIAL_OVERHEAD_S - cost["cache_core_s"]) / cost["step_s"]))
        for seed in range(seeds):
            one = partial(train_ours, setting, arch, start, size, steps, seed, work)
            ours.append(_kept(parts, f"ours {seed}", one))
            other = partial(train_peer, setting, arch, start, size, seconds, seed, work)
            peers.append(_kept(parts, f"peer {seed}", other))
    # by images, since batches differ; both by the clock on the wall, ours with what is not a step: export and scores
    ratios = [
        (own.steps * setting.training.recipe.batch_size / own.seconds) / (peer.steps * PEER_BATCH_SIZE / peer.seconds)
        for own, peer in zip(ours, peers, strict=True)
    ]
    differences = [a.map50_95 - b.map50_95 for a, b in zip(ours, peers, strict=True)]
    mean, low, high = interval(differences)
    print(f"mAP50-95, ours minus the peer's: {mean:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, {seeds} pairs)")
    return Outcome(
        value=statistics.median(ratios),
        unit="times the peer's images per second",
        goal=STEPS_GOAL,
        spread=spread(ratios),
        detail={
            "map50_95_difference": {"mean": mean, "low": low, "high": high, "at_least_as_good": mean >= 0},
            "ours": [asdict(trained) for trained in ours],
            "peer": [asdict(trained) for trained in peers],
            "cost": cost,
            "seconds": seconds,
            "student": {"family": FAMILY, **arch, "params_m": parameters_m(setting.student(FAMILY, arch).model)},
            "teacher": {"name": teacher.name, "params_m": teacher.parameters_m},
            "data": setting.data_name,
            "image_size": size,
            "quick": options.quick,
        },
        table=[
            {"by": name, "mAP50": run.map50, "mAP50-95": run.map50_95, "steps": run.steps, "seconds": run.seconds}
            for name, runs in (("ours", ours), ("ultralytics", peers))
            for run in runs
        ],
    )


def _kept(parts: Parts, name: str, train: Callable[[], Trained]) -> Trained:
    found = parts.get(name, lambda: asdict(train()))
    return Trained(**{field.name: found[field.name] for field in fields(Trained)})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The inputs, the student and the length."""
    add_input_arguments(parser)
    parser.add_argument("--seeds", type=int, default=5, help="paired seeds [default: 5]")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of a training, by the clock [default: 10]")
    parser.add_argument("--depth", type=float, default=0.33)
    parser.add_argument("--width", type=float, default=0.15625)
    parser.add_argument("--image-size", type=int, default=256)


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says; the kept parts go once the result is out."""
    description = "Ultralytics' own distillation against ours."
    return run_benchmark("peer_ultralytics", description, measure, add_arguments, argv, partial=PARTIAL)


if __name__ == "__main__":
    main()
