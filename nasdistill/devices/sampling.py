"""Timing one callable: warm-up, samples until the median settles, and what the samples say about disturbance."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from nasdistill.devices.energy import EnergyMeter

# Half of the samples may differ from the other half by this share of the median before sampling ends early.
_SETTLED = 0.02
# Beyond these the machine was busy with something else.
_DISTURBED_HALVES = 0.10
_DISTURBED_CV = 0.25
# Share of the slowest samples that `cv` leaves out: a single interrupt should not condemn a measurement.
_DROPPED = 0.05
# A run that had the processor for less than this share of its time was interrupted by another program.
_UNDIVIDED = 0.95
# Taken however slow the model is: fewer say nothing about spread.
_FEWEST_SAMPLES = 4


@dataclass(frozen=True)
class SampleStats:
    """Statistics of run times, in milliseconds; `cv` is without the slowest 5 %."""

    median_ms: float
    p90_ms: float
    min_ms: float
    cv: float
    samples: int
    disturbed: bool
    energy_mj: float | None = None
    """Of the whole processor for one run, the samples that were left out included; None where nothing reports it."""


def sample(
    run: Callable[[], object],
    warmup_s: float,
    min_samples: int,
    max_seconds: float,
    busy_clock: Callable[[], float] | None = None,
    meter: EnergyMeter | None = None,
) -> SampleStats:
    """Time `run` one call after the other.

    Runs for `warmup_s` seconds first (at least once), then samples until there are `min_samples` and their median has
    settled, or `max_seconds` are over. A model so slow that this would give fewer than 4 samples takes longer.

    `busy_clock` gives the seconds for which `run` has had the processor (`time.thread_time` for work in one thread).
    With it, runs during which another program had the processor are left out. When fewer than 4 are left, the times
    that `run` itself had the processor are taken instead, which is near the truth, and the result is `disturbed`.
    `meter` is read before the first sample and after the last.
    """
    # The collector would otherwise strike in the middle of a sample.
    collecting = gc.isenabled()
    gc.disable()
    try:
        clock = time.perf_counter
        warm = clock() + warmup_s
        run()
        while clock() < warm:
            run()
        times_s: list[float] = []
        busy_s: list[float] = []
        charged = meter.read() if meter else None
        started = clock()
        next_check = min_samples
        while True:
            busy_before = busy_clock() if busy_clock else 0.0
            before = clock()
            run()
            after = clock()
            busy_s.append(min(busy_clock() - busy_before, after - before) if busy_clock else after - before)
            if busy_s[-1] >= _UNDIVIDED * (after - before):
                times_s.append(after - before)
            if len(busy_s) < _FEWEST_SAMPLES:
                continue
            if after - started >= max_seconds:
                break
            if len(times_s) >= next_check:
                if _halves_differ(times_s) <= _SETTLED:
                    break
                # Checking costs time of its own, so the next look comes after a quarter more samples.
                next_check += max(1, len(times_s) // 4)
        spent_mj = meter.spent_mj(charged, meter.read()) if meter else None
    finally:
        if collecting:
            gc.enable()
    interrupted = len(times_s) < _FEWEST_SAMPLES
    stats = summarize([seconds * 1000 for seconds in (busy_s if interrupted else times_s)])
    energy_mj = None if spent_mj is None else spent_mj / len(busy_s)
    return replace(stats, disturbed=stats.disturbed or interrupted, energy_mj=energy_mj)


def summarize(times_ms: list[float]) -> SampleStats:
    """Statistics of run times in the order they were taken (at least one)."""
    ordered = sorted(times_ms)
    kept = ordered[: max(1, len(ordered) - int(len(ordered) * _DROPPED))]
    cv = statistics.pstdev(kept) / statistics.fmean(kept)
    return SampleStats(
        median_ms=statistics.median(ordered),
        # Nearest rank: the smallest sample that 90 % do not exceed.
        p90_ms=ordered[-(-len(ordered) * 9 // 10) - 1],
        min_ms=ordered[0],
        cv=cv,
        samples=len(ordered),
        disturbed=_halves_differ(times_ms) > _DISTURBED_HALVES or cv > _DISTURBED_CV,
    )


def _halves_differ(times: list[float]) -> float:
    """How far the median of the first half is from that of the second, as a share of the smaller."""
    half = len(times) // 2
    if half == 0:
        return 0.0
    first, second = statistics.median(times[:half]), statistics.median(times[half:])
    return abs(first - second) / min(first, second)
