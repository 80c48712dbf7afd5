"""Timing one callable: the statistics against hand-made samples, and when sampling ends."""

import gc
import itertools
import time
from types import SimpleNamespace

import pytest

from nasdistill.devices import sampling
from nasdistill.devices.sampling import sample, summarize


def test_statistics_of_known_samples() -> None:
    stats = summarize([float(value) for value in (3, 1, 2, 5, 4, 6, 8, 7, 10, 9)])
    assert (stats.median_ms, stats.p90_ms, stats.min_ms, stats.samples) == (5.5, 9.0, 1.0, 10)
    assert stats.disturbed, "the second half is much slower"
    steady = summarize([2.0] * 7)
    assert (steady.median_ms, steady.p90_ms, steady.cv, steady.disturbed) == (2.0, 2.0, 0.0, False)
    assert summarize([4.0]).samples == 1


def test_one_interrupt_is_no_disturbance_but_a_slower_half_or_wild_times_are() -> None:
    assert not summarize([1.0] * 20 + [50.0] + [1.0] * 19).disturbed
    assert summarize([1.0] * 20 + [1.2] * 20).disturbed
    assert not summarize([1.0] * 20 + [1.05] * 20).disturbed
    wild = summarize([1.0, 1.0, 2.0] * 14)
    assert wild.disturbed
    assert wild.cv > 0.25


def test_sampling_stops_at_the_time_limit_with_few_samples_of_a_slow_model() -> None:
    calls: list[float] = []
    stats = sample(lambda: calls.append(time.sleep(0.02) or 0.0), warmup_s=0.0, min_samples=1000, max_seconds=0.1)
    assert 4 <= stats.samples <= 6
    assert len(calls) == stats.samples + 1, "one warm-up run"
    assert stats.median_ms >= 20


def test_a_model_slower_than_the_limit_still_gets_four_samples() -> None:
    assert sample(lambda: time.sleep(0.01), warmup_s=0.0, min_samples=10, max_seconds=0.001).samples == 4


def test_sampling_ends_early_once_the_median_has_settled() -> None:
    stats = sample(lambda: time.sleep(0.002), warmup_s=0.01, min_samples=20, max_seconds=20.0)
    assert 20 <= stats.samples < 2000


class Processor:
    """A clock for the module under test: each run takes 2 ms of work, and what other programs take in turn besides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others_s: list[float]) -> None:
        self.others_s = itertools.cycle(others_s)
        self.now_s = 100.0
        self.busy_s = 0.0
        monkeypatch.setattr(sampling, "time", SimpleNamespace(perf_counter=lambda: self.now_s))

    def run(self) -> None:
        self.busy_s += 0.002
        self.now_s += 0.002 + next(self.others_s)


def test_runs_that_lost_the_processor_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor(monkeypatch, [0.0, 0.003, 0.004])
    stats = sample(processor.run, 0.0, min_samples=6, max_seconds=5.0, busy_clock=lambda: processor.busy_s)
    assert (stats.samples, stats.disturbed) == (6, False)
    assert (stats.median_ms, stats.p90_ms) == (pytest.approx(2.0), pytest.approx(2.0))
    everything = sample(processor.run, 0.0, min_samples=6, max_seconds=5.0)
    assert everything.median_ms == pytest.approx(5.0)
    assert everything.disturbed


def test_when_all_runs_lost_the_processor_their_own_time_counts_and_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor(monkeypatch, [0.003, 0.001])
    stats = sample(processor.run, 0.0, min_samples=6, max_seconds=0.1, busy_clock=lambda: processor.busy_s)
    assert stats.disturbed
    assert stats.median_ms == pytest.approx(2.0)
    assert 24 <= stats.samples <= 26, "until the time is over, as no run was undivided"


def test_the_processor_time_of_this_thread_is_near_its_wall_time_when_it_computes() -> None:
    stats = sample(lambda: sum(range(20_000)), 0.0, min_samples=20, max_seconds=3.0, busy_clock=time.thread_time)
    assert stats.samples >= 4
    assert stats.median_ms > 0.01
    slept = sample(lambda: time.sleep(0.002), 0.0, min_samples=4, max_seconds=0.05, busy_clock=time.thread_time)
    assert slept.disturbed
    assert slept.median_ms < 1.0


def test_the_garbage_collector_is_off_meanwhile_and_on_again_after_an_error() -> None:
    seen: list[bool] = []

    def run() -> None:
        seen.append(gc.isenabled())
        if len(seen) == 3:
            raise RuntimeError("broken model")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="broken model"):
        sample(run, warmup_s=0.0, min_samples=5, max_seconds=1.0)
    assert seen == [False, False, False]
    assert gc.isenabled()
