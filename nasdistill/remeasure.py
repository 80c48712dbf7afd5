"""Latency once more, when nothing else runs: the figures of a front are taken side by side on a quiet machine.

During the search a neighbour trains on the other cores, which slows small models more than large ones. Rounds over all
students and devices, instead of all samples of one student after the other, spread slow phases of the machine over all of
them.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.profiler import Profiler, open_profiler
from nasdistill.errors import NasdistillError
from nasdistill.measure.costs import device_figures
from nasdistill.pareto.objectives import ACCURACY, Objectives
from nasdistill.records import TrialResult, fields_of
from nasdistill.store.run_folder import RunFolder

ROUNDS = 3
MOST_SECONDS = 40.0
LEAST_S = 0.3  # of a measurement: opening the model, looking for idle cores, warm-up, samples
CLEARLY = 1.5  # more than a neighbour on the other cores slows a student down
_TEACHER = "the teacher"
_RUNS = 6  # of a slow model in a measurement: one to warm up, samples
MOST_DISTURBED = 0.25  # of the measurements: single ones are outvoted by the median of the rounds


def remeasure(
    run: RunFolder,
    devices: Sequence[DeviceProfile],
    objectives: Objectives,
    on_progress: Callable[[float], None],
    log: Callable[[str], None],
    teacher: Path | None = None,
) -> int:
    """Measure complete trials' artifacts again on each device, the main one first, and store the median over rounds.

    Returns how many trials were measured. The exported `teacher` takes its turns among them, so that a speed-up compares
    figures of the same minute; `run.json` keeps its new ones. With many students or devices the whole is kept near
    MOST_SECONDS: by shorter samples, by leaving out those that no busy machine can have kept off the front (CLEARLY), and
    by fewer rounds.
    Trials whose artifact is gone, or cannot be measured on every device (which `log` is told, as it is when the machine was
    busy), keep their figures, and so does every figure that is not reported.
    """
    began = time.monotonic()
    complete = [result for result in run.trials() if result.state == "complete"]
    artifacts = {result.trial: run.trial_folder(result.trial) / "student.onnx" for result in complete}
    complete = [result for result in complete if artifacts[result.trial].is_file()]
    if not complete:
        return 0
    if ROUNDS * LEAST_S * len(complete) * len(devices) > MOST_SECONDS:
        chosen = [result for result in complete if not _clearly_beaten(result, complete, objectives)]
        log(f"{len(complete) - len(chosen)} of {len(complete)} students are clearly beaten and keep their latency")
        complete = chosen
    subjects = {_TEACHER: teacher} if teacher is not None and _is_quick(run.read_run()) else {}
    subjects |= {f"trial {result.trial}": artifacts[result.trial] for result in complete}
    measurements = ROUNDS * len(subjects) * len(devices)
    each = MOST_SECONDS / measurements
    profilers = _profilers([device.quick(max(0.1, each * 0.7)) for device in devices])
    measured: dict[str, dict[str, list[float]]] = {subject: {} for subject in subjects}
    done, disturbed, failed = 0, 0, set[str]()
    for rounds in range(ROUNDS):
        spent = time.monotonic() - began
        if rounds and spent + spent / rounds > MOST_SECONDS:
            break
        for subject, artifact in subjects.items():
            for name, profiler in profilers.items():
                done += 1
                on_progress(done / measurements)
                if subject in failed:
                    continue
                try:
                    stats = profiler.measure(artifact)
                except NasdistillError as error:
                    failed.add(subject)
                    if not rounds:
                        measured[subject].clear()  # no new figure of one device beside an old one of another
                    kept = "is measured no further" if rounds else "keeps the latency it had"
                    log(f"{subject} {kept}: {error}")
                    continue
                disturbed += stats.disturbed
                for figure, value in device_figures(stats, name).items():
                    measured[subject].setdefault(figure, []).append(value)
    if disturbed > MOST_DISTURBED * done:
        log(f"the machine was busy in {disturbed} of {done} measurements: do not trust the latencies too far")
    medians = {
        subject: {name: statistics.median(values) for name, values in figures.items()}
        for subject, figures in measured.items()
    }
    if medians.get(_TEACHER):
        run.update_run(teacher={**run.read_run()["teacher"], **medians[_TEACHER]})
    complete = [result for result in complete if medians[f"trial {result.trial}"]]
    for result in complete:
        fields = fields_of(medians[f"trial {result.trial}"])
        fields["further"] = {**result.further, **fields["further"]}
        run.write_trial(result.model_copy(update=fields))
    return len(complete)


def timed_beside(
    result: TrialResult, artifact: Path, known: TrialResult, known_artifact: Path, devices: Sequence[DeviceProfile]
) -> TrialResult:
    """`result` with what `artifact` would have taken on each device, the main one first, when `known` was timed.

    The two artifacts take turns, and the figures of `known` are scaled by the ratio of their medians: a machine is not as
    fast in every half hour, and those figures were taken beside the teacher's and all others'.

    Raises:
        NasdistillError: an artifact cannot be measured.
    """
    fields: dict[str, float] = {}
    for device, profiler in _profilers(devices).items():
        told: dict[Path, list[dict[str, float]]] = {artifact: [], known_artifact: []}
        for _ in range(ROUNDS):
            for model, figures in told.items():
                figures.append(device_figures(profiler.measure(model), device))
        # energy is not read in every round, nor perhaps of both
        medians = [
            {name: statistics.median(one[name] for one in rounds if name in one) for name in set().union(*rounds)}
            for rounds in told.values()
        ]
        for name, value in medians[0].items():
            # a 90th percentile is too noisy for a ratio of its own
            scaled_by = name.replace("_p90", "")
            before, beside = known.figure(name), medians[1].get(scaled_by)
            fields[name] = value if before is None or beside is None else before * medians[0][scaled_by] / beside
    changed = fields_of(fields)
    return result.model_copy(update={**changed, "further": {**result.further, **changed["further"]}})


def _profilers(devices: Sequence[DeviceProfile]) -> dict[str | None, Profiler]:
    """A profiler for each device by the name in its figures, None for the main one."""
    # the size is known to be right for students, and the teacher may have its own
    sized = [device.model_copy(update={"image_size": None}) for device in devices]
    return {device.name if index else None: open_profiler(device) for index, device in enumerate(sized)}


def _is_quick(recorded: Mapping[str, Any]) -> bool:
    """Whether the teacher's turns leave most of the time to the students."""
    latency_ms = recorded["teacher"]["latency_ms"]
    return bool(ROUNDS * _RUNS * latency_ms / 1000 < MOST_SECONDS / 4)


def _clearly_beaten(result: TrialResult, others: Sequence[TrialResult], objectives: Objectives) -> bool:
    """Whether another is at least as accurate and as cheap, and CLEARLY times as fast on every device."""

    def beats(other: TrialResult) -> bool:
        if any((other.figure(name) or 0.0) < (result.figure(name) or 0.0) for name in ACCURACY):
            return False
        exact = [cost for cost in objectives.costs if not cost.is_latency]
        if any((cost.of(other) or 0.0) > (cost.of(result) or 0.0) for cost in exact):
            return False
        latencies = ["latency_ms", *(name for name in result.further if name.startswith("latency_ms@"))]
        return all((other.figure(name) or math.inf) * CLEARLY <= (result.figure(name) or 0.0) for name in latencies)

    return any(beats(other) for other in others)
