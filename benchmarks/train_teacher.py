"""What a person does without a search: a standard model, fine-tuned by Ultralytics itself; also how a teacher is made.

    python -m benchmarks.train_teacher --data ../shared/data/bccd/data.yaml --model yolo11n.yaml \
        --weights ../shared/weights/yolo11n_coco_state_dict.pt --image-size 320 --minutes 15 --to teacher.pt

Trains with Ultralytics' own defaults for `--minutes` by the clock, on a GPU, or on `--threads` cores without data-loading
workers; validation and plots are off, so that all of the time trains. The averaged weights are kept as an ordinary
checkpoint, which `nasdistill search --teacher` reads; `fine_tuned` scores and times it as students are.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_OFFLINE", "true")  # before ultralytics is imported: it must not look for a network
os.environ.setdefault("YOLO_VERBOSE", "false")

import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from benchmarks._peer import BATCH_SIZE, link_dataset, training_options, without_amp_check
from nasdistill.data.dataset import load_dataset
from nasdistill.errors import InputError
from nasdistill.store.atomic import replacing

FEWEST_FITTING = 0.5  # of the model's tensors: with fewer it is another model's weights


def starting_model(model: str, weights: Path | None, names: Sequence[str]) -> tuple[DetectionModel, int]:
    """Ultralytics' model of that YAML with what fits of `weights` (bare tensors), and how many tensors that were.

    Raises:
        InputError: hardly any of them fit.
    """
    built = DetectionModel(model, nc=len(names), verbose=False)
    built.names = dict(enumerate(names))
    if weights is None:
        return built, 0
    own = built.state_dict()
    given = torch.load(weights, map_location="cpu", weights_only=True)
    fitting = {name: t for name, t in given.items() if name in own and own[name].shape == t.shape}
    if len(fitting) < FEWEST_FITTING * len(own):
        raise InputError(f"{weights}: {len(fitting)} of the {len(own)} tensors of {model} are in it")
    built.load_state_dict({**own, **{name: t.to(own[name].dtype) for name, t in fitting.items()}})
    return built, len(fitting)


def finetune(
    model: DetectionModel, data: Path, size: int, seconds: float, seed: int, threads: int, batch: int, work: Path
) -> tuple[DetectionModel, int]:
    """Train `model` as Ultralytics does by default; the averaged weights, and the steps made."""
    start = work / "start.pt"
    torch.save({"model": model, "train_args": {}}, start)
    steps = 0

    def begin(trainer: Any) -> None:
        torch.set_num_threads(threads)

    def count(trainer: Any) -> None:
        nonlocal steps
        steps += 1

    trained = YOLO(start)
    trained.add_callback("on_train_start", begin)
    trained.add_callback("on_train_batch_end", count)
    with without_amp_check():
        trained.train(data=str(data), name="run", **training_options(size, seconds, seed, work, batch))
    last: DetectionModel = YOLO(str(trained.trainer.last)).model.float().eval().cpu()
    return last, steps


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained on what, and for how long."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="yolo11n.yaml", help="Ultralytics' YAML [default: yolo11n.yaml]")
    parser.add_argument("--weights", type=Path, help="bare tensors to start from [default: random]")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=BATCH_SIZE, help=f"images a step [default: {BATCH_SIZE}]")
    parser.add_argument("--seed", type=int, default=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Train, keep the checkpoint, and print how it was made as one JSON line."""
    parser = argparse.ArgumentParser(description="Fine-tune a standard model with Ultralytics.")
    add_training_arguments(parser)
    parser.add_argument("--to", type=Path, required=True, help="where the checkpoint goes (.pt)")
    options = parser.parse_args(argv)
    dataset = load_dataset(options.data)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model, fitted = starting_model(options.model, options.weights, dataset.names)
        data = link_dataset(dataset, work / "data")
        seconds = 60 * options.minutes
        trained, steps = finetune(
            model, data, options.image_size, seconds, options.seed, options.threads, options.batch, work
        )
    trained.names = dict(enumerate(dataset.names))
    with replacing(options.to) as temporary:
        torch.save({"model": trained, "train_args": {"imgsz": options.image_size}}, temporary)
    facts = {"steps": steps, "minutes": options.minutes, "fitted_tensors": fitted, "image_size": options.image_size}
    print(json.dumps({"checkpoint": str(options.to), **facts}))


if __name__ == "__main__":
    main()
