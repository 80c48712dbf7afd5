"""`--data none`: how many images a budget can have synthesised, and the data set made of them."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasdistill.data_free.inversion import Inversion, InversionSettings
from nasdistill.data_free.layouts import draw_layouts
from nasdistill.data_free.synthesis import Synthesis, check_names, synthesise
from nasdistill.distill.compute import choose_compute, release_gpu_memory
from nasdistill.errors import InputError
from nasdistill.records import Precision
from nasdistill.teacher.teacher import Teacher

SHARE = 1 / 3  # of a time budget, at most
VALIDATION_SHARE = 0.25  # of the batches
USUAL_BATCHES = 16  # where the budget is not one of time
MOST_BATCHES = 64
FEWEST_BATCHES = 2  # one to train on, one to score on
FULL_BATCH_SIZE = 320  # images larger than this come in smaller batches: their maps would not fit in memory
TIMED_STEPS = 3


@dataclass(frozen=True)
class Synthetic:
    """A synthesised data set: its data.yaml, and what `run.json` says of it. `seconds` is what making it took."""

    data: Path
    image_size: int
    train_batches: int
    val_batches: int
    batch_size: int
    seed: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values for `run.json`."""
        facts = asdict(self)
        del facts["data"]  # a path of this machine
        return facts


def synthetic_data(
    teacher: Teacher,
    size: int,
    seed: int,
    precision: Precision,
    cache: Path,
    budget_s: float | None,
    threads: int,
    batches: tuple[int, int] | None = None,
    on_progress: Callable[[str, float | None], None] = lambda text, share: None,
    settings: InversionSettings | None = None,
) -> Synthetic:
    """Synthesise a training and a validation split of images of `size` pixels from a teacher, in this process.

    How many follows from the time that a batch takes: at most a third of `budget_s` (None: so many as usual), or it is
    said by `batches` (train, val). `on_progress(text, share)` tells how far it is.

    Raises:
        InputError: the teacher has no BatchNorm layers or class names that cannot be used, or the budget is too small.
    """
    began = time.monotonic()
    threads_before = torch.get_num_threads()
    compute = choose_compute(precision).without_float16()
    settings = settings or InversionSettings(batch_size=batch_size(size))
    compute.place(teacher.model)
    what = Synthesis(
        teacher=teacher,
        size=size,
        seed=seed,
        settings=settings,
        device=compute.device,
        autocast=compute.autocast,
    )
    check_names(what.names, teacher.name)
    deadline = None
    on_progress("timing the synthesis of images", None)
    batch_s = batch_seconds(what, threads)
    if batches is None and budget_s is not None:
        batches = divided(affordable_batches(budget_s, batch_s))
        left = sum(batches) - what.batches_there(cache, batches)
        if left * batch_s > SHARE * budget_s:
            least = math.ceil(FEWEST_BATCHES * batch_s / SHARE)
            raise InputError(
                f"--budget {budget_s:.0f}s: a third of it is too little to synthesise {FEWEST_BATCHES} batches of images, "
                f"{batch_s:.0f} s each here; give at least {least}s"
            )
        deadline = began + SHARE * budget_s - batch_s
    train, val = batches or divided(USUAL_BATCHES)
    on_progress("synthesising images", 0.0)
    data, train, val = synthesise(
        what, cache, train, val, deadline, lambda share: on_progress("synthesising images", share)
    )
    teacher.model.cpu()
    release_gpu_memory()
    torch.set_num_threads(threads_before)  # this process only coordinates from here on
    return Synthetic(data, size, train, val, settings.batch_size, seed, round(time.monotonic() - began, 1))


def batch_size(size: int) -> int:
    """Images in a batch: 16, of large ones fewer, at least 4 (their statistics are those of a batch)."""
    return max(4, min(16, round(16 * (FULL_BATCH_SIZE / size) ** 2)))


def batch_seconds(what: Synthesis, threads: int) -> float:
    """Seconds that a batch takes, from a few steps of one; leaves torch with one thread or with `threads`, as is faster.

    Threads wait for one another in every layer: small images, or other work on the machine, make many of them slower than
    one.
    """
    few = what.settings.model_copy(update={"steps": TIMED_STEPS})
    inversion = Inversion(what.teacher, few, what.device, what.autocast)
    layouts = draw_layouts(few.batch_size, what.teacher.classes, np.random.default_rng(0))
    seconds = {}
    for tried in sorted({1, threads}):
        torch.set_num_threads(tried)
        moments: list[float] = []
        inversion(layouts, few.batch_size, what.size, 0, lambda step: moments.append(time.perf_counter()))  # noqa: B023
        moments.append(time.perf_counter())
        seconds[tried] = (moments[-1] - moments[1]) / (TIMED_STEPS - 1)  # the first step allocates
    best = min(seconds, key=lambda tried: seconds[tried])
    torch.set_num_threads(best)
    return seconds[best] * what.settings.steps


def affordable_batches(budget_s: float, batch_s: float) -> int:
    """Batches in a third of the budget, 2 to 64.

    Rounded down to a power of the square root of 2, so that the same budget on the same machine gives the same images
    (and finds them in the cache) although timings vary.
    """
    fitting = min(max(SHARE * budget_s / batch_s, FEWEST_BATCHES), MOST_BATCHES)
    return max(FEWEST_BATCHES, math.floor(2 ** (math.floor(2 * math.log2(fitting)) / 2)))


def divided(batches: int) -> tuple[int, int]:
    """Batches to train on and to score on, at least one of each."""
    val = max(1, round(VALIDATION_SHARE * batches))
    return max(1, batches - val), val
