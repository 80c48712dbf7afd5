"""Trains the teacher of the embedded demo on boards that no demo set holds, and writes it with its measured mAP.

    python -m nasdistill.teacher.train_demo_teacher --out nasdistill/teacher/demo_teacher.safetensors

The architecture is YOLOv5 with Ultralytics' anchor-free head. Nothing is fetched; `--weights` names a local file of
COCO weights to start from (tensors whose name and shape fit are taken).
"""

import argparse
import copy
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("YOLO_OFFLINE", "1")  # before ultralytics is imported: it must not look for a network

import numpy as np
import torch
import ultralytics
from safetensors.torch import save_file
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel, yaml_model_load
from ultralytics.utils.metrics import ap_per_class, box_iou
from ultralytics.utils.nms import non_max_suppression

from nasdistill.data.augment import ViewPolicy
from nasdistill.data.dataset import load_dataset
from nasdistill.data.defects import CLASS_NAMES
from nasdistill.data.demo import VERSION, make_demo
from nasdistill.data.views import Views, build_views, letterboxed_split
from nasdistill.store.atomic import replacing, write_text
from nasdistill.students.student import in_float32

SCALES = {"n": [0.33, 0.25, 1024], "t": [0.33, 0.375, 1024], "s": [0.33, 0.5, 1024]}
# the boards vary by themselves, so the views need little more than flips, light and some scale
POLICY = ViewPolicy(
    p_mosaic=0.3, p_mixup=0.0, p_hsv=0.7, p_erase=0.0, p_flip_vertical=0.5, scale=0.25, translate=0.1, close_share=0.25
)
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def main(words: list[str] | None = None) -> None:
    """Train, measure and write as the command line (or `words`) says; prints one line every 50 steps."""
    words = sys.argv[1:] if words is None else words
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write; a .md goes beside it")
    parser.add_argument(
        "--scale", choices=sorted(SCALES), default="n", help="depth and width of the YOLOv5 (default n)"
    )
    parser.add_argument("--weights", type=Path, help="COCO weights to start from (a local file of tensors)")
    parser.add_argument("--boards", type=int, default=4000, help="training boards to draw")
    parser.add_argument("--views", type=int, default=8000, help="augmented views to build from them")
    parser.add_argument("--steps", type=int, default=1500, help="training steps at most")
    parser.add_argument("--minutes", type=float, default=18.0, help="training time at most")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--size", type=int, default=256, help="input size in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for the boards and views (default: a temporary one)")
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        _run(arguments, words, arguments.work or Path(temporary))


def _run(arguments: argparse.Namespace, words: list[str], work: Path) -> None:
    boards = load_dataset(make_demo(work / "boards", train=arguments.boards, train_stream="teacher"))
    demo = load_dataset(make_demo(work / "demo", train=1))  # its val is that of every demo set of this seed
    size, threads = arguments.size, arguments.threads
    views = build_views(
        boards.splits["train"], boards.names, size, arguments.views, POLICY, 0, work / "views", workers=threads
    )
    val = letterboxed_split(demo.splits["val"], demo.names, size, work / "val")
    model = build_model(arguments.scale)
    taken = take_weights(model, arguments.weights) if arguments.weights else 0
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{parameters / 1e6:.2f} M parameters, {taken} tensors from {arguments.weights}, {len(views)} views", flush=True
    )
    start = time.monotonic()
    ema, steps = train(model, views, val, arguments)
    facts = {
        "steps": steps,
        "batch": arguments.batch,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "parameters": parameters,
        "started_from": "COCO weights" if taken else "random weights",
    }
    command = "python -m nasdistill.teacher.train_demo_teacher " + " ".join(_without_paths(words))
    write_teacher(ema, val, arguments, command, facts)


def build_model(scale: str) -> nn.Module:
    """A YOLOv5 of the given scale for the demo's classes, with Ultralytics' default loss gains."""
    model = DetectionModel(model_yaml(scale), nc=len(CLASS_NAMES), verbose=False)
    model.args = get_cfg()
    model.names = dict(enumerate(CLASS_NAMES))
    return model.to(memory_format=torch.channels_last)


def model_yaml(scale: str) -> dict[str, object]:
    """The package's own `yolov5.yaml` at one scale, for the demo's classes."""
    layout = yaml_model_load("yolov5n.yaml")
    kept = {key: layout[key] for key in ("backbone", "head")}
    return {"nc": len(CLASS_NAMES), "scales": {scale: SCALES[scale]}, "scale": scale, **kept}


def take_weights(model: nn.Module, path: Path) -> int:
    """Copy the tensors whose name and shape fit; returns how many. Names of the original YOLOv5 code fit as well."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    found = found.get("state_dict", found)
    own = model.state_dict()
    fitting = {name: value.float() for name, value in found.items() if name in own and own[name].shape == value.shape}
    fitting = {name: value for name, value in fitting.items() if "num_batches_tracked" not in name}
    model.load_state_dict(fitting, strict=False)
    return len(fitting)


def train(model: nn.Module, views: Views, val: Views, arguments: argparse.Namespace) -> tuple[nn.Module, int]:
    """AdamW with warm-up, cosine over steps or minutes, whichever comes first, and an average of the weights."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-3}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, betas=(0.9, 0.99))
    criterion, average = model.init_criterion(), copy.deepcopy(model).eval()
    has_bfloat16 = "avx512_bf16" in _cpu_flags()
    start, step, seen = time.monotonic(), 0, 0.0
    model.train()
    for indices in batches(len(views), arguments.batch, arguments.steps):
        progress = max(step / arguments.steps, (time.monotonic() - start) / 60 / arguments.minutes)
        if progress >= 1:
            break
        rate = arguments.lr * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = torch.from_numpy(views.images[indices]).float().div_(255).contiguous(memory_format=torch.channels_last)
        labels = {key: torch.from_numpy(value) for key, value in views.batch_labels(indices).items()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16):
            output = model(images)
        # decoding boxes needs float32's mantissa
        loss = criterion(in_float32(output), labels)[0].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        update_average(average, model, 0.998 * (1 - math.exp(-step / 150)))
        value = float(loss.detach())
        seen = value if step == 1 else 0.95 * seen + 0.05 * value
        if step % 50 == 0:
            minutes = (time.monotonic() - start) / 60
            line = f"step {step} {minutes:.1f} min loss {seen:.3f}"
            print(
                line + (" mAP50 {:.3f} mAP50-95 {:.3f}".format(*measure(average, val)) if step % 250 == 0 else ""),
                flush=True,
            )
    return average, step


def batches(count: int, batch: int, steps: int) -> Iterator[np.ndarray]:
    """`steps` sorted arrays of view indices: all views in random order, over and over."""
    rng = np.random.default_rng(0)
    waiting = np.zeros(0, np.int64)
    for _ in range(steps):
        while len(waiting) < batch:
            waiting = np.concatenate([waiting, rng.permutation(count)])
        yield np.sort(waiting[:batch])
        waiting = waiting[batch:]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average of weights and statistics a step towards the model."""
    now = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(now[name], 1 - decay)


@torch.no_grad()
def measure(model: nn.Module, val: Views) -> tuple[float, float]:
    """mAP50 and mAP50-95 at a fixed square input (no rectangles), with Ultralytics' NMS and curves."""
    model.eval()
    correct, scores, classes, truths = [], [], [], []
    for first in range(0, len(val), 16):
        indices = np.arange(first, min(first + 16, len(val)))
        images = torch.from_numpy(val.images[indices]).float().div_(255)
        output = model(images)
        found = non_max_suppression(output[0], conf_thres=0.001, iou_thres=0.7, max_det=300, multi_label=True)
        for index, rows in zip(indices, found, strict=True):
            truth = torch.from_numpy(val.boxes(int(index)))
            correct.append(match(rows, truth, val.size))
            scores.append(rows[:, 4].numpy())
            classes.append(rows[:, 5].numpy())
            truths.append(truth[:, 0].numpy())
    ap = ap_per_class(*(np.concatenate(part) for part in (correct, scores, classes, truths)))[5]
    return float(ap[:, 0].mean()), float(ap.mean())


def match(found: torch.Tensor, truth: torch.Tensor, size: int) -> np.ndarray:
    """Which detections (n, 6), best first, are right at which threshold: (n, 10) bool; each claims one label (m, 5)."""
    correct = np.zeros((len(found), len(IOU_THRESHOLDS)), bool)
    if not len(found) or not len(truth):
        return correct
    half = truth[:, 3:5] / 2
    corners = torch.cat([truth[:, 1:3] - half, truth[:, 1:3] + half], 1) * size
    iou = (box_iou(corners, found[:, :4]) * (truth[:, :1] == found[:, 5])).numpy()
    claimed = np.zeros((len(truth), len(IOU_THRESHOLDS)), bool)
    columns = np.arange(len(IOU_THRESHOLDS))
    for index in np.flatnonzero((iou >= 0.5).any(0)):
        free = np.where(claimed, 0.0, iou[:, index, None])
        best = free.argmax(0)
        correct[index] = free[best, columns] >= IOU_THRESHOLDS
        claimed[best, columns] |= correct[index]
    return correct


def write_teacher(
    model: nn.Module, val: Views, arguments: argparse.Namespace, command: str, facts: dict[str, object]
) -> None:
    """Write the weights in float16 with their description, and a page that tells how they were made and their score."""
    tensors = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.load_state_dict(tensors)  # what is measured is what is written
    map50, map50_95 = measure(model, val)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "ultralytics": ultralytics.__version__}
    metadata = {
        "model_yaml": json.dumps(model_yaml(arguments.scale)),
        "names": json.dumps(CLASS_NAMES),
        "image_size": str(arguments.size),
        "map50": f"{map50:.4f}",
        "map50_95": f"{map50_95:.4f}",
        "command": command,
        "versions": json.dumps(versions),
        "demo_version": str(VERSION),
        "training": json.dumps(facts),
        "license": "AGPL-3.0-or-later",
    }
    with replacing(arguments.out) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)
    size_mb = arguments.out.stat().st_size / 1e6
    depth, width, _ = SCALES[arguments.scale]
    px = f"{arguments.size} x {arguments.size} px"
    page = f"""# The demo teacher
A YOLOv5 (depth {depth}, width {width}; {facts["parameters"]} parameters, {size_mb:.1f} MB in float16) that finds six
kinds of defects on **synthetic** circuit boards.

| measured on | mAP50 | mAP50-95 |
| --- | --- | --- |
| val of the demo set (seed 0, {len(val)} boards, {px}, fixed-size letterbox) | {map50:.3f} | {map50_95:.3f} |

Confidence 0.001, NMS IoU 0.7, at most 300 detections; measured on the float16 weights as shipped, run in float32.

Trained on {arguments.boards} boards of the generator's stream "teacher" (version {VERSION}), none of which is in a
demo set: {facts["steps"]} steps of {facts["batch"]} in {facts["minutes"]} minutes on {arguments.threads} CPU threads,
started from {facts["started_from"]}.

    {command}

Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}. Licence: AGPL-3.0-or-later.
"""
    write_text(arguments.out.with_suffix(".md"), page)
    print(f"wrote {arguments.out.name}: {size_mb:.1f} MB, mAP50 {map50:.4f}, mAP50-95 {map50_95:.4f}", flush=True)


def _without_paths(words: list[str]) -> list[str]:
    """Arguments as typed, but files by their name alone and without the work folder: they differ between machines."""
    kept, skip = [], False
    for index, word in enumerate(words):
        if skip or word == "--work":
            skip = not skip
            continue
        kept.append(Path(word).name if index and words[index - 1] in ("--out", "--weights") else word)
    return kept


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
