"""Whether what is kept of the teacher teaches what the teacher says: cached against online, sparse against full.

    python -m benchmarks.cache_agreement [--quick] [--json] [--out] [--data D --teacher T]

For each loss, on the same batches and the same student: the relative difference between the loss from the full cache and
from the teacher itself; the cosine between the student's gradients under sparse and full targets, for the losses that
sparse targets serve; and the bytes of both forms, as they lie on disk.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._harness import Goal, Outcome, run_benchmark, spread
from benchmarks._losses import MIXES, Mix, form_of
from benchmarks._training import Setting, add_input_arguments, open_setting
from nasdistill.config import TrainingSettings
from nasdistill.distill.compute import choose_compute
from nasdistill.distill.connectors import Connectors
from nasdistill.distill.feed import Feed
from nasdistill.distill.objective import DistillationLoss
from nasdistill.records import Scalar
from nasdistill.teacher.cache import bytes_per_view
from nasdistill.teacher.forms import TargetForm, layout_of, maps_layout
from nasdistill.teacher.targets import target_shape

GOAL = Goal(1e-3)
COSINE_GOAL, BYTES_GOAL = Goal(0.99, at_most=False), Goal(0.05)
ARCH: dict[str, Scalar] = {"depth": 0.33, "width": 0.125}
COMPARED = (
    "channel_attention",
    "cbam",
    "cwd",
    "pkd",
    "score_weighted",
    "cls",
    "bckd",
    "box",
    "ld",
    "detections",
    "default",
)
SERVED_BY_SPARSE = ("channel_attention", "cbam", "cls", "bckd", "box", "ld", "detections", "default")
IMAGE_SIZE, BATCH_SIZE, TEMPERATURE = 256, 16, 2.0


def losses_and_gradients(setting: Setting, feed: Feed, mix: Mix, batches: int) -> tuple[list[float], list[Tensor]]:
    """The teacher's part of the loss and the student's gradient (flat), on each of `batches` batches."""
    compute = choose_compute(setting.training.precision)
    student = setting.student("yolov5", ARCH)
    torch.manual_seed(0)
    connectors = Connectors(student.pyramid_channels, setting.inputs.teacher.neck_channels)
    compute.place(student.model.train())
    compute.place(connectors)
    student.head.dfl.requires_grad_(False)
    criterion = DistillationLoss(student, connectors, mix.losses)
    weights, values, gradients = replace(mix.weights, label=0.0), [], []
    for indices in feed.indices(batches, BATCH_SIZE, seed=0):
        batch = feed.batch(indices, compute.device)
        with compute.context():
            output = student.model(batch.images)
        total = criterion(output, batch.targets, batch.labels, weights, TEMPERATURE)["total"]
        student.model.zero_grad(set_to_none=True)
        total.backward()
        values.append(total.item())
        parts = [p.grad.flatten().cpu() for p in student.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(parts))
    return values, gradients


def measure(options: argparse.Namespace) -> Outcome:
    """Fill both forms of the cache and compare."""
    torch.set_num_threads(1)
    batches, views = (2, 32) if options.quick else (10, 160)
    # float32 on both sides: what is compared is the cache, not two roundings of the teacher
    training = TrainingSettings(views_per_image=1, max_views=views, precision="float32")
    form = form_of([MIXES[name] for name in COMPARED])
    sparse_form = TargetForm(True, form.bins, form.spatial, form.detections)
    rows, worst, cosines = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        full = open_setting(options.data, options.teacher, Path(folder), training, [IMAGE_SIZE], form=form)
        sparse = open_setting(options.data, options.teacher, Path(folder), training, [IMAGE_SIZE], form=sparse_form)
        for name in COMPARED:
            mix = MIXES[name]
            cached, gradients = losses_and_gradients(full, full.feed(), mix, batches)
            online, _ = losses_and_gradients(full, full.online_feed(form), mix, batches)
            apart = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(cached, online, strict=True)]
            worst += apart
            row: dict[str, object] = {"loss": name, "cached / online - 1 (worst)": max(apart), "gradient cosine": "-"}
            if name in SERVED_BY_SPARSE:
                _, others = losses_and_gradients(sparse, sparse.feed(), mix, batches)
                found = [
                    float(torch.cosine_similarity(a.double(), b.double(), dim=0))
                    for a, b in zip(others, gradients, strict=True)
                ]
                cosines += found
                row["gradient cosine"] = f"{min(found):.4f}"
            rows.append(row)
        teacher = full.inputs.teacher
        shape = target_shape(teacher, IMAGE_SIZE, len(full.inputs.class_order))
        full_bytes = bytes_per_view({**layout_of(form, shape), **maps_layout(shape)})
        sparse_bytes = bytes_per_view(layout_of(sparse_form, shape))
    share = sparse_bytes / full_bytes
    for what, goal, value in (
        ("least gradient cosine, sparse against full", COSINE_GOAL, min(cosines)),
        ("bytes, sparse / full", BYTES_GOAL, share),
    ):
        print(f"{what} {value:.4f}, goal {goal}: {'met' if goal.met_by(value) else 'MISSED'}")
    return Outcome(
        value=max(worst),
        unit="relative difference of the loss, cached and online, the worst",
        goal=GOAL,
        spread=spread(worst),
        detail={
            "losses": rows,
            "gradient_cosine": {**spread(cosines), "least": min(cosines), "goal_met": COSINE_GOAL.met_by(min(cosines))},
            "bytes_a_view": {"full": full_bytes, "sparse": sparse_bytes, "share": share},
            "teacher": {"name": teacher.name, "params_m": teacher.parameters_m},
            "data": full.data_name,
            "batches": batches,
        },
        table=rows,
    )


def main(argv: Sequence[str] | None = None) -> Outcome:
    """Run the benchmark as the command line (or `argv`) says."""
    return run_benchmark(
        "cache_agreement", "Cached against online, sparse against full targets.", measure, add_input_arguments, argv
    )


if __name__ == "__main__":
    main()
