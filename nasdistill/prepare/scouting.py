"""Costs of untrained students all over the search space: with them a sampler knows latency before it proposes anything.

A trial's own measurement comes too late for that, and a dozen of them say little: in a short search the large students
may all have had the large input size, and which of the two is slow nobody can tell. Building, exporting and timing a student
takes a second or two, training it minutes.
"""

import functools
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from nasdistill.compress.prune import STAGES, prune, pruning_of
from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import open_profiler
from nasdistill.measure.artifact import write_onnx
from nasdistill.measure.costs import costs_of
from nasdistill.records import Scalar, Scouted, TrialConfig
from nasdistill.space.search_space import SearchSpace
from nasdistill.store.room import is_full_disk
from nasdistill.students.families import build_student
from nasdistill.tasks import Report, Task

MOST = 64
PRUNED = {f"prune_{stage}" for stage in STAGES}
MOST_DRAWS = 4 * MOST
QUICK_S = 0.3  # of one measurement: many rough ones say more here than a few exact ones


def scout_points(space: SearchSpace, seed: int) -> list[dict[str, Scalar]]:
    """Up to MOST random points whose students differ, always the same ones."""
    rng = random.Random(seed)
    found: dict[str, dict[str, Scalar]] = {}
    for _ in range(MOST_DRAWS):
        params = space.sample(rng)
        found.setdefault(_built(space.config(params)), params)
        if len(found) == MOST:
            break
    return list(found.values())


def scout_tasks(
    points: Sequence[Mapping[str, Scalar]],
    space: SearchSpace,
    names: Sequence[str],
    devices: Sequence[DeviceProfile],
    seconds: float,
    workers: int,
) -> Sequence[Task[list[Scouted]]]:
    """Work that measures the points, as many as `workers` at once get through in about `seconds`.

    Each task returns a list of `Scouted`; a student that cannot be built or timed is left out.
    """
    shares = [points[first::workers] for first in range(workers)]
    return [functools.partial(_scout, share, space, tuple(names), tuple(devices), seconds) for share in shares if share]


def _scout(
    points: Sequence[Mapping[str, Scalar]],
    space: SearchSpace,
    names: tuple[str, ...],
    devices: tuple[DeviceProfile, ...],
    seconds: float,
    report: Report,
) -> list[Scouted]:
    torch.set_num_threads(1)
    main, *others = [open_profiler(device.quick(QUICK_S)) for device in devices]
    further = {device.name: profiler for device, profiler in zip(devices[1:], others, strict=True)}
    started, found = time.monotonic(), list[Scouted]()
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "student.onnx"
        for done, params in enumerate(points):
            share = max((time.monotonic() - started) / seconds, done / len(points))
            if share >= 1.0:
                break
            report(f"{share:.3f}")
            config = space.config(params)
            try:
                student = build_student(config.family, config.arch, names)
                model = prune(student, pruning_of(config, devices[0].channel_multiple)).student.model
                write_onnx(model, config.image_size, artifact, devices[0].batch)
                figures = costs_of(model, artifact, config.image_size, main, further).figures
            except Exception as error:  # whatever it is: as a trial it would fail, and say why
                if is_full_disk(error):
                    raise
                continue
            found.append(Scouted(params=dict(params), figures=dict(figures)))
    return found


def _built(config: TrialConfig) -> str:
    """What of a trial its student's shapes depend on."""
    return config.model_dump_json(include={"family", "arch", "image_size", "prune_ratio", *PRUNED})
