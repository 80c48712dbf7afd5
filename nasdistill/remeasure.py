"""Latency once more, when nothing else runs: the figures of a front are taken side by side on a quiet machine.

During the search a neighbour trains on the other cores, which slows small models more than large ones. Rounds over all
students and devices, instead of all samples of one student after the other, spread slow phases of the machine over all of
them.
"""

import statistics
from collections.abc import Callable, Sequence

from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import open_profiler
from nasdistill.errors import NasdistillError
from nasdistill.measure.costs import device_figures
from nasdistill.records import fields_of
from nasdistill.store.run_folder import RunFolder

ROUNDS = 3
MOST_SECONDS = 40.0
MOST_DISTURBED = 0.25  # of the measurements: single ones are outvoted by the median of the rounds


def remeasure(
    run: RunFolder, devices: Sequence[DeviceProfile], on_progress: Callable[[float], None], log: Callable[[str], None]
) -> int:
    """Measure every complete trial's artifact again on each device, the main one first, and store the median over rounds.

    Returns how many trials were measured. With many students or devices, shorter samples keep the whole near
    MOST_SECONDS. Trials whose artifact is gone, or can no longer be measured (which `log` is told, as it is when the
    machine was busy), keep their figures, and so does every figure that is not reported.
    """
    complete = [result for result in run.trials() if result.state == "complete"]
    artifacts = {result.trial: run.trial_folder(result.trial) / "student.onnx" for result in complete}
    complete = [result for result in complete if artifacts[result.trial].is_file()]
    if not complete:
        return 0
    measurements = ROUNDS * len(complete) * len(devices)
    each = MOST_SECONDS / measurements
    profilers = {}
    for index, device in enumerate(devices):
        quick = {"max_seconds": min(device.max_seconds, max(0.1, each * 0.7)), "warmup_s": min(device.warmup_s, 0.1)}
        profilers[device.name if index else None] = open_profiler(device.model_copy(update=quick))
    measured: dict[int, dict[str, list[float]]] = {result.trial: {} for result in complete}
    done, disturbed, failed = 0, 0, set[int]()
    for _ in range(ROUNDS):
        for result in complete:
            for name, profiler in profilers.items():
                done += 1
                on_progress(done / measurements)
                if result.trial in failed:
                    continue
                try:
                    stats = profiler.measure(artifacts[result.trial])
                except NasdistillError as error:
                    failed.add(result.trial)
                    log(f"trial {result.trial} keeps the latency it had: {error}")
                    continue
                disturbed += stats.disturbed
                for figure, value in device_figures(stats, name).items():
                    measured[result.trial].setdefault(figure, []).append(value)
    if disturbed > MOST_DISTURBED * measurements:
        log(f"the machine was busy in {disturbed} of {measurements} measurements: do not trust the latencies too far")
    complete = [result for result in complete if result.trial not in failed]
    for result in complete:
        fields = fields_of({name: statistics.median(values) for name, values in measured[result.trial].items()})
        fields["further"] = {**result.further, **fields["further"]}
        run.write_trial(result.model_copy(update=fields))
    return len(complete)
