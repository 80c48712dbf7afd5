"""Energy of this machine's processor packages, from the counters that Linux shows as powercap (RAPL).

They count what whole packages take, other programs and idling included, without memory; Intel's and AMD's drivers use the
same names. Since 2020 only root may read them unless the machine's owner allows more. Source: the kernel's
Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
# Zones with a second number are parts of a package: adding them would count twice.
_PACKAGE = re.compile(r"intel-rapl:\d+")


@dataclass(frozen=True)
class _Zone:
    counter: Path
    range_uj: int
    """The counter begins anew at 0 beyond this."""


class EnergyMeter:
    """The packages' counters that can be read under `root`; there may be none."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = tuple(zone for folder in sorted(root.glob("intel-rapl:*")) if (zone := _zone(folder)) is not None)

    @property
    def available(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._zones)

    def read(self) -> tuple[int, ...] | None:
        """The counters in microjoule; None where there are none, or (any more) no leave to read them."""
        values = [_number(zone.counter) for zone in self._zones]
        known = tuple(value for value in values if value is not None)
        return known if known and len(known) == len(values) else None

    def spent_mj(self, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> float | None:
        """Millijoule between two readings, less than one turn of a counter apart; None where one is missing, or when the
        counters did not move: they are renewed every millisecond or so."""
        if before is None or after is None:
            return None
        total = 0
        for zone, start, end in zip(self._zones, before, after, strict=True):
            total += end - start if end >= start else end - start + zone.range_uj
        return total / 1000 if total > 0 else None


def _zone(folder: Path) -> _Zone | None:
    """A package's zone, where it can be read; the zone of the whole platform has the packages in it."""
    try:
        name = (folder / "name").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    counter, range_uj = folder / "energy_uj", _number(folder / "max_energy_range_uj")
    if not _PACKAGE.fullmatch(folder.name) or not name.startswith("package") or range_uj is None:
        return None
    return None if _number(counter) is None else _Zone(counter, range_uj)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
