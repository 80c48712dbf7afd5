"""What an exported student costs: on every device of the run, and wherever it runs. All known before any training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nasdistill.devices.profiler import Profiler
from nasdistill.measure.complexity import complexity
from nasdistill.records import LatencyStats


@dataclass(frozen=True)
class Costs:
    """Figures by name, those of further devices included (`latency_ms@phone`); what a device does not report is left out."""

    figures: Mapping[str, float]
    disturbed: bool
    """A device was too busy to trust its figures."""

    def __str__(self) -> str:
        """The latencies: `3.20 ms, 5.11 ms on phone (disturbed)`."""
        shown = [f"{self.figures['latency_ms']:.2f} ms"]
        for name, value in self.figures.items():
            figure, _, device = name.partition("@")
            if device and figure == "latency_ms":
                shown.append(f"{value:.2f} ms on {device}")
        return ", ".join(shown) + (" (disturbed)" if self.disturbed else "")


def costs_of(
    model: nn.Module, artifact: Path, image_size: int, profiler: Profiler, further: Mapping[str, Profiler]
) -> Costs:
    """Time `artifact`, the export of `model`, with `profiler` and with those of further devices, one after the other.

    Raises InputError where a device cannot run it.
    """
    figures = dict[str, float]()
    measured: dict[str | None, LatencyStats] = {None: profiler.measure(artifact, image_size)}
    measured |= {device: one.measure(artifact, image_size) for device, one in further.items()}
    for device, stats in measured.items():
        figures |= device_figures(stats, device)
    facts = complexity(model, image_size, artifact)
    figures |= {"params_m": facts.params_m, "gflops": facts.gflops, "size_mb": facts.size_mb}
    return Costs(figures, any(stats.disturbed for stats in measured.values()))


def device_figures(stats: LatencyStats, device: str | None) -> dict[str, float]:
    """A measurement as figures by name; `device` is None for the run's main one."""
    told = {"latency_ms": stats.median_ms, "latency_p90_ms": stats.p90_ms, "energy_mj": stats.energy_mj}
    suffix = f"@{device}" if device else ""
    return {name + suffix: value for name, value in told.items() if value is not None}
