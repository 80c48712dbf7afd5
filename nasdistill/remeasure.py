"""Latency once more, when nothing else runs: the figures of a front are taken side by side on a quiet machine.

During the search a neighbour trains on the other cores, which slows small models more than large ones. Rounds over all
students, instead of all samples of one student after the other, spread slow phases of the machine over all of them.
"""

import statistics
from collections.abc import Callable

from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import open_profiler
from nasdistill.records import LatencyStats
from nasdistill.store.run_folder import RunFolder

ROUNDS = 3
MOST_SECONDS = 40.0


def remeasure(run: RunFolder, device: DeviceProfile, on_progress: Callable[[float], None]) -> int:
    """Measure every complete trial's artifact again and store the median over rounds; returns how many were measured.

    With many students, fewer rounds and shorter samples keep the whole within about MOST_SECONDS. Trials whose artifact
    is gone keep their latency.
    """
    complete = [result for result in run.trials() if result.state == "complete"]
    artifacts = {result.trial: run.trial_folder(result.trial) / "student.onnx" for result in complete}
    complete = [result for result in complete if artifacts[result.trial].is_file()]
    if not complete:
        return 0
    each = MOST_SECONDS / (ROUNDS * len(complete))
    profiler = open_profiler(
        device.model_copy(
            update={"max_seconds": min(device.max_seconds, max(0.1, each * 0.7)), "warmup_s": min(device.warmup_s, 0.1)}
        )
    )
    measured: dict[int, list[LatencyStats]] = {result.trial: [] for result in complete}
    for turn in range(ROUNDS):
        for index, result in enumerate(complete):
            measured[result.trial].append(profiler.measure(artifacts[result.trial]))
            on_progress((turn * len(complete) + index + 1) / (ROUNDS * len(complete)))
    for result in complete:
        stats = measured[result.trial]
        run.write_trial(
            result.model_copy(
                update={
                    "latency_ms": statistics.median(one.median_ms for one in stats),
                    "latency_p90_ms": statistics.median(one.p90_ms for one in stats),
                }
            )
        )
    return len(complete)
