"""The seam between a device file and whatever measures on it: a runtime is one entry in `RUNTIMES`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from nasdistill.devices.profile import DeviceProfile
from nasdistill.errors import InputError
from nasdistill.records import LatencyStats
from nasdistill.strict_yaml import nearest_hint


class Profiler(Protocol):
    """Measures artifacts on one device; may be kept for a whole run, pickled, and used from several processes."""

    def measure(self, artifact: Path, image_size: int | None = None) -> LatencyStats:
        """Latency of the model in `artifact`, which takes square images of `image_size` pixels (None: not checked).

        Raises InputError, in one line, when the device cannot run this artifact.
        """
        ...

    def reports_energy(self) -> bool:
        """Whether `measure` can tell the energy of a batch."""
        ...

    def describe(self) -> dict[str, Any]:
        """The device and how it measures, as plain JSON for `run.json`."""
        ...


def _open_onnxruntime(profile: DeviceProfile) -> Profiler:
    # Imported on use: reading a device file must not load the runtime.
    from nasdistill.devices.onnxruntime_local import OnnxRuntimeLocal

    return OnnxRuntimeLocal(profile)


RUNTIMES: dict[str, Callable[[DeviceProfile], Profiler]] = {"onnxruntime": _open_onnxruntime}


def energy_missing(profile: DeviceProfile) -> str | None:
    """Why a device reports no energy, for a message; None where it does. Raises InputError as `open_profiler`."""
    if open_profiler(profile).reports_energy():
        return None
    return (
        f"device {profile.name} does not report energy (on Linux: readable /sys/class/powercap/intel-rapl:*/energy_uj)"
    )


def open_profiler(profile: DeviceProfile) -> Profiler:
    """The profiler for a device. Raises InputError for an unknown runtime or a device this machine cannot be."""
    if profile.runtime not in RUNTIMES:
        hint = nearest_hint(profile.runtime, RUNTIMES)
        raise InputError(
            f"device {profile.name}: unknown runtime '{profile.runtime}'; allowed: {', '.join(RUNTIMES)}{hint}"
        )
    return RUNTIMES[profile.runtime](profile)
