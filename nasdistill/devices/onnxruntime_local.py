"""Latency in ONNX Runtime on this machine's processor: single stream, pinned threads, one measurement at a time."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import onnxruntime as ort

from nasdistill.devices.cores import idle_cores, pinned
from nasdistill.devices.energy import POWERCAP, EnergyMeter
from nasdistill.devices.profile import DeviceProfile
from nasdistill.devices.sampling import SampleStats, sample
from nasdistill.errors import InputError, TrialError
from nasdistill.records import LatencyStats
from nasdistill.store.provenance import cpu_flags, cpu_model, usable_cores

_PROVIDER = "CPUExecutionProvider"
_LOCK_SECONDS = 600.0
_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeLocal:
    """A `Profiler` for ONNX files on the CPU."""

    def __init__(self, profile: DeviceProfile, powercap: Path = POWERCAP) -> None:
        """Raises InputError when the device asks for more threads than this process may use."""
        cores = usable_cores()
        if profile.threads > cores:
            raise InputError(
                f"device {profile.name}: threads={profile.threads}, but this process may use {cores} core(s)"
            )
        self.profile = profile
        self._meter = EnergyMeter(powercap)

    def measure(self, artifact: Path, image_size: int | None = None) -> LatencyStats:
        """Median and 90th percentile of single-stream runs, input copy and output allocation included; and their energy.

        Waits while another process of this user measures on this machine. With one thread, runs that lost the core to
        another program are left out (see `sampling.sample`). A disturbed measurement is repeated once.
        Raises InputError when ONNX Runtime cannot load or run the file, or its input is not the device's batch and
        size; TrialError when the other measurements never end.
        """
        path = Path(artifact)
        if not path.is_file():
            raise InputError(f"{path}: no such model file")
        # The lock is the machine's, not the device file's: two profiles of one processor disturb each other as well.
        lock_file = Path(tempfile.gettempdir()) / f"nasdistill-cpu-{_user()}.lock"
        try:
            with filelock.FileLock(lock_file, timeout=_LOCK_SECONDS):
                stats = self._measure_once(path, image_size)
                if stats.disturbed:
                    # What disturbs only ever adds time, so of two doubtful figures the lower is nearer the truth.
                    again = self._measure_once(path, image_size)
                    stats = min(stats, again, key=lambda one: (one.disturbed, one.median_ms))
        except filelock.Timeout:
            raise TrialError(
                f"latency of {path.name}: another measurement held {lock_file} for {_LOCK_SECONDS:.0f} s"
            ) from None
        return LatencyStats(
            device=self.profile.name,
            median_ms=stats.median_ms,
            p90_ms=stats.p90_ms,
            min_ms=stats.min_ms,
            cv=stats.cv,
            samples=stats.samples,
            disturbed=stats.disturbed,
            energy_mj=stats.energy_mj,
        )

    def reports_energy(self) -> bool:
        """Whether the packages' energy counters can be read here."""
        return self._meter.available

    def describe(self) -> dict[str, Any]:
        """The device file's settings, the runtime's version and options, and the processor."""
        return {
            **self.profile.model_dump(),
            "runtime_version": ort.__version__,
            "provider": _PROVIDER,
            "execution": "sequential; threads spin while they wait; one thread: interrupted runs are left out",
            "pinned": bool(idle_cores(1)),
            "cpu": cpu_model(),
            "cpu_flags": cpu_flags(),
            "cores": usable_cores(),
            "energy": "processor packages (RAPL), all programs and idling included" if self.reports_energy() else None,
        }

    def _measure_once(self, path: Path, image_size: int | None) -> SampleStats:
        # The session is made while pinned, because its threads inherit the cores of the thread that starts them.
        with pinned(idle_cores(self.profile.threads)):
            session = self._session(path)
            feeds = self._feeds(path, session, image_size)
            try:
                return sample(
                    lambda: session.run(None, feeds),
                    self.profile.warmup_s,
                    self.profile.min_samples,
                    self.profile.max_seconds,
                    time.thread_time if self._shows_interruptions() else None,
                    self._meter,
                )
            except Exception as error:
                # ONNX Runtime's exceptions have no common base of their own.
                raise InputError(f"{path}: ONNX Runtime cannot run it ({_first_line(error)})") from None

    def _shows_interruptions(self) -> bool:
        """Whether the calling thread's processor time tells if other programs had the core during a run.

        One thread computes in the calling one; of several, the calling one may rightly wait for the others. On Windows
        that clock only ticks every 16 ms, although it claims to be fine.
        """
        return self.profile.threads == 1 and sys.platform != "win32"

    def _session(self, path: Path) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.profile.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        # As deployed: a waiting thread spins, which costs power but not latency.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        # session.set_denormal_as_zero stays off: it works for the first session of a process only, and then stays on in
        # the calling thread, where it would change the training that follows.
        try:
            return ort.InferenceSession(str(path), options, providers=[_PROVIDER])
        except Exception as error:
            raise InputError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)})") from None

    def _feeds(self, path: Path, session: ort.InferenceSession, image_size: int | None) -> dict[str, Any]:
        """Fixed pseudo-random inputs of the model's own shapes and types; reals in [0, 1), whole numbers 0 or 1."""
        inputs = session.get_inputs()
        if not inputs:
            raise InputError(f"{path}: the model has no input")
        rng = np.random.default_rng(0)
        feeds: dict[str, Any] = {}
        for number, entry in enumerate(inputs):
            shape = list(entry.shape)
            if not all(isinstance(size, int) and size > 0 for size in shape):
                raise InputError(
                    f"{path}: input '{entry.name}' has the open shape {_show(shape)}; export it with a fixed one"
                )
            if entry.type not in _DTYPES:
                raise InputError(f"{path}: input '{entry.name}' is {entry.type}; known: {', '.join(_DTYPES)}")
            if number == 0:
                self._check_image_input(path, entry.name, shape, image_size)
            dtype = _DTYPES[entry.type]
            if np.issubdtype(dtype, np.floating):
                feeds[entry.name] = rng.random(shape).astype(dtype)
            else:
                high = 256 if dtype is np.uint8 else 2
                feeds[entry.name] = rng.integers(0, high, shape).astype(dtype)
        return feeds

    def _check_image_input(self, path: Path, name: str, shape: list[int], image_size: int | None) -> None:
        if not shape or shape[0] != self.profile.batch:
            raise InputError(
                f"{path}: input '{name}' has shape {_show(shape)}, "
                f"device {self.profile.name} needs batch={self.profile.batch}"
            )
        for size, whose in ((image_size, "asked for"), (self.profile.image_size, f"device {self.profile.name}")):
            if size is not None and shape[2:] != [size, size]:
                raise InputError(
                    f"{path}: input '{name}' has shape {_show(shape)}, image_size={size} ({whose}) needs "
                    f"{_show([self.profile.batch, 3, size, size])}"
                )


def _show(shape: list[Any]) -> str:
    return "x".join(str(size) if size is not None else "?" for size in shape) or "scalar"


def _first_line(error: Exception) -> str:
    """The first line of an ONNX Runtime message, which may go on with a stack trace."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _user() -> str:
    """Part of the lock's name: another user's file in the shared temporary folder could not be opened."""
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
