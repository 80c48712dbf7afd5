"""What a student learns from a teacher alone: on synthesised images, on real ones and on noise, scored on real ones.

    python -m benchmarks.data_free                     # on the embedded demo
    python -m benchmarks.data_free --data ../shared/data/deeppcb/data.yaml --teacher ../shared/weights/pcb_teacher.pt
    python -m benchmarks.data_free --quick             # two batches of images and a few steps

All arms train the same student from the same weights (slices of the teacher) for the same number of steps, and are scored on
the real validation split. `real labels` sees real images and labels and no teacher; `real distilled` both; `synthesised` only
images that were made from the teacher, with its own detections as labels; `noise` the blobs that synthesis starts from, with
the teacher's answers to them. With `--out`, results of several data sets stand side by side in one file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._harness import RESULTS, Goal, Outcome, run_benchmark, spread
from benchmarks._losses import LABELS, MIXES, Mix
from benchmarks._parts import Parts
from benchmarks._training import Setting, add_input_arguments, length_of, open_setting, run_one_trial
from benchmarks.distill_gain import starting_weights
from nasdistill.config import TrainingSettings
from nasdistill.data.views import open_views
from nasdistill.data_free.inversion import InversionSettings, starting_noise
from nasdistill.data_free.synthesis import Synthesis, known_sizes, pseudo_labels, synthesise, write_batch
from nasdistill.distill.compute import choose_compute
from nasdistill.measure.accuracy import score
from nasdistill.measure.detector import OnnxDetector
from nasdistill.prepare.inputs import DEMO_TEACHER, cache_folder
from nasdistill.prepare.reference import measure_teacher
from nasdistill.records import Scalar
from nasdistill.store.atomic import write_text
from nasdistill.students.families import lineage
from nasdistill.students.student import parameters_m
from nasdistill.teacher.teacher import class_names

FAMILY = "yolov5"
PARTIAL = RESULTS / "data_free.partial.json"
GOAL = Goal(0.5, at_most=False)
DISTILLED = MIXES["default"]
SHOWN = ("map50", "map50_95")


def measure(options: argparse.Namespace) -> Outcome:
    """Run what is not there yet, on the embedded demo and on the data that was named, and compare."""
    torch.set_num_threads(1)
    pairs: list[tuple[Path | None, Path | None]] = [(None, None)]
    if options.data is not None:
        pairs.append((options.data, options.teacher))
    rows: list[dict[str, object]] = []
    detail: dict[str, Any] = {}
    retained: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        parts = None if options.quick else Parts(PARTIAL, {"options": options_key(options)})
        for data, teacher in pairs:
            cache = Path(work) if options.quick else cache_folder()
            found = compare(options, data, teacher, cache, Path(work), parts)
            real = found["arms"]["real labels"]["map50"]
            retained.append(found["arms"]["synthesised"]["map50"] / real if real else 0.0)
            for arm, scores in found["arms"].items():
                rows.append({"data": found["data"], "arm": arm, **{key: scores[key] for key in SHOWN}})
            detail[found["data"]] = {**found, "retained_of_real_labels": retained[-1]}
    return Outcome(
        value=retained[0],
        unit="mAP50 on real images of a student that saw none, over that of one trained on real images and labels (demo)",
        goal=GOAL,
        spread=spread(retained[:1]),
        detail={"data": detail, "options": options_key(options), "quick": options.quick},
        table=rows,
    )


def compare(
    options: argparse.Namespace, data: Path | None, teacher: Path | None, cache: Path, work: Path, parts: Parts | None
) -> dict[str, Any]:
    """The teacher and the students of one data set, each with its mAP on the real validation split."""
    training = TrainingSettings(views_per_image=3, max_views=64 if options.quick else 6000)
    size = options.image_size
    real = open_setting(data, teacher, cache, training, [size], form=DISTILLED.form)
    name, arch = real.data_name, {"depth": options.depth, "width": options.width}
    steps = 4 if options.quick else options.steps
    teacher_file = teacher or DEMO_TEACHER

    def part(what: str, make: Any) -> dict[str, Any]:
        return make() if parts is None else parts.get(f"{name}: {what}", make)

    made = part("synthesis", partial(synthesis, options, real, cache))
    found: dict[str, Any] = {"data": name, "synthesis": made, "arms": {}}
    found["arms"]["teacher"] = part("teacher", partial(teacher_scores, real, work))
    folder = synthesis_of(options, real).folder(cache)
    synthetic_yaml = folder / f"data-{made['train_batches']}-1.yaml"
    noise_yaml = noise_data(real, made["images"], cache)
    arms: dict[str, tuple[Path | None, Mix]] = {
        "real labels": (data, LABELS),
        "real distilled": (data, DISTILLED),
        "synthesised": (synthetic_yaml, DISTILLED),
        "synthesised, labels alone": (synthetic_yaml, LABELS),
        "noise": (noise_yaml, DISTILLED),
    }
    for arm, (trained_on, mix) in arms.items():
        run = partial(train, real, trained_on, teacher_file, mix, arch, steps, training, cache, work, synthetic_yaml)
        found["arms"][arm] = part(f"{arm}, {steps} steps", run)
    found["student"] = {"family": FAMILY, **arch, "params_m": parameters_m(real.student(FAMILY, arch).model)}
    found["steps"] = steps
    return found


def options_key(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on, besides the data."""
    named = ("batches", "steps", "depth", "width", "image_size", "inversion_steps")
    return {name: getattr(options, name) for name in named}


def synthesis_of(options: argparse.Namespace, real: Setting) -> Synthesis:
    """What is synthesised: images of the teacher's own size."""
    compute = choose_compute(real.training.precision)
    compute.place(real.inputs.teacher.model)
    steps = 4 if options.quick else options.inversion_steps or InversionSettings().steps
    return Synthesis(
        teacher=real.inputs.teacher,
        size=real.inputs.teacher_size,
        seed=0,
        settings=InversionSettings(steps=steps),
        device=compute.device,
        autocast=compute.autocast,
    )


def synthesis(options: argparse.Namespace, real: Setting, cache: Path) -> dict[str, Any]:
    """Synthesise; how long it took (0 seconds where the images were there), and how much the teacher sees in them."""
    what = synthesis_of(options, real)
    batches = 1 if options.quick else options.batches
    started = time.process_time()
    _, train_batches, _ = synthesise(what, cache, batches, 1)
    images = train_batches * what.settings.batch_size
    boxes = len(known_sizes(what.folder(cache), "train", train_batches, len(what.names)))
    return {
        "train_batches": train_batches,
        "images": images,
        "boxes_an_image": boxes / images,
        "synthesis_core_s": round(time.process_time() - started, 1),
        "settings": what.settings.model_dump(),
    }


def teacher_scores(real: Setting, work: Path) -> dict[str, Any]:
    """The teacher on the real validation split, at its own size."""
    inputs = real.inputs
    size = inputs.teacher_size
    pool = next(plan for plan in real.all_pools if plan.image_size == size)
    figures = measure_teacher(
        inputs.teacher,
        inputs.class_order,
        pool,
        inputs.devices,
        work,
        1,
        lambda text, tasks: [task(lambda done: None) for task in tasks],
    )
    return {"map50": figures.map50, "map50_95": figures.map50_95}


def noise_data(real: Setting, images: int, cache: Path) -> Path:
    """A data set of as many images of the noise that synthesis starts from, with the teacher's detections in them."""
    inputs = real.inputs
    size = inputs.teacher_size
    folder = cache / "noise" / f"{inputs.teacher.sha256[:12]}-{size}-{images}"
    compute = choose_compute(real.training.precision)
    compute.place(inputs.teacher.model)
    noise = starting_noise(images, size, torch.Generator().manual_seed(0)).mul(255).round().to(torch.uint8)
    if not (folder / "train").is_dir():
        write_batch(folder / "train", noise, pseudo_labels(inputs.teacher, noise, compute.device, compute.autocast))
    names = list(class_names(inputs.teacher))
    write_text(folder / "data.yaml", json.dumps({"train": "train/images", "val": "train/images", "names": names}))
    return folder / "data.yaml"


def train(
    real: Setting,
    data: Path | None,
    teacher: Path,
    mix: Mix,
    arch: Mapping[str, Scalar],
    steps: int,
    training: TrainingSettings,
    cache: Path,
    work: Path,
    synthetic: Path,
) -> dict[str, Any]:
    """Train the student on `data` and score it on the real validation images, and on the synthesised ones."""
    size = real.pools[0].image_size
    made_up = open_setting(synthetic, teacher, cache, training, [size], form=DISTILLED.form)
    if data is None or data == real.inputs.dataset.yaml_path:
        setting = real
    elif data == synthetic:
        setting = made_up
    else:
        setting = open_setting(data, teacher, cache, training, [size], form=DISTILLED.form)
    start = starting_weights(setting, arch, work)
    epochs, images, _ = length_of(steps, setting.training.recipe.batch_size)
    own = setting.training.model_copy(update={"epochs": epochs, "seed": 0})
    assets = setting.assets({lineage(FAMILY, arch): start}, own, images_per_epoch=images)
    pool = dataclasses.replace(assets.pools[size], validation=real.pools[0].folders.validation)
    folder = work / "trial"
    shutil.rmtree(folder, ignore_errors=True)
    result = run_one_trial(
        mix.config(family=FAMILY, arch=dict(arch), image_size=size),
        dataclasses.replace(assets, pools={size: pool}),
        folder,
    )
    agreement = score(OnnxDetector(folder / "student.onnx"), open_views(made_up.pools[0].folders.validation))
    return {
        "map50": result.map50,
        "map50_95": result.map50_95,
        "agreement_map50": agreement.map50,
        "training_images": len(setting.inputs.dataset.splits["train"]),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The inputs, the student, and how much of everything."""
    add_input_arguments(parser)
    parser.add_argument("--batches", type=int, default=8, help="batches of 16 synthesised training images [default: 8]")
    parser.add_argument("--inversion-steps", type=int, default=0, help="steps of a batch [default: the product's]")
    parser.add_argument("--steps", type=int, default=150, help="training steps of the recipe's batch [default: 150]")
    parser.add_argument("--depth", type=float, default=0.33)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--image-size", type=int, default=256)


def main(argv: list[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says; the kept parts go once the result is out."""
    return run_benchmark(
        "data_free",
        "Students distilled without a real image, against students that saw some.",
        measure,
        add_arguments,
        argv,
        partial=PARTIAL,
    )


if __name__ == "__main__":
    main()
