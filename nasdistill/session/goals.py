"""What a search is for: on which devices, by which objectives, within which limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasdistill.devices.profile import DeviceProfile, load_devices
from nasdistill.devices.profiler import energy_missing
from nasdistill.errors import InputError
from nasdistill.pareto.limits import Limit, parse_constraints
from nasdistill.pareto.objectives import Objectives, parse_objectives

DEFAULT_DEVICE = "local"


@dataclass(frozen=True)
class Goals:
    """`devices` begin with the main one, whose latency is `latency_ms`."""

    devices: tuple[DeviceProfile, ...]
    objectives: Objectives
    constraints: tuple[Limit, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """The costs that every student must have."""
        named = [*self.objectives.costs, *(limit.objective for limit in self.constraints)]
        return tuple(dict.fromkeys(objective.name for objective in named))

    @property
    def notes(self) -> list[str]:
        """Lines that a person should see once: what is measured but not searched for."""
        searched = [cost.device for cost in self.objectives.costs if cost.is_measured]
        aside = [one.name for index, one in enumerate(self.devices) if (one.name if index else None) not in searched]
        if len(self.devices) == 1 or not aside:
            return []
        names = ", ".join(self.objectives.names)
        return [f"objectives are {names}: on {', '.join(aside)} every student is timed and has its front, no more"]


def goals_of(settings: Mapping[str, Any], recorded: Mapping[str, Any] | None = None) -> Goals:
    """The goals that a run's settings name, checked; `recorded` is the `run.json` of one that is gone on with, whose device
    files may have stayed behind.

    Raises:
        InputError: unknown devices, two of one name, objectives or constraints that cannot be, or energy on a device that
            does not report it.
    """
    kept = recorded or {}
    profiles = [one for one in (kept.get("device"), *kept.get("further_devices", ())) if isinstance(one, Mapping)]
    devices = load_devices(settings.get("device") or [DEFAULT_DEVICE], profiles)
    names = [device.name for device in devices]
    objectives = parse_objectives(settings.get("objectives") or (), names)
    goals = Goals(devices, objectives, parse_constraints(settings.get("constraint") or (), names))
    for needed in goals.needed:
        figure, _, further = needed.partition("@")
        if figure == "energy_mj":
            reason = energy_missing(devices[names.index(further) if further else 0])
            if reason is not None:
                option = "--objectives" if needed in objectives.names else "--constraint"
                raise InputError(f"{option}: {needed}: {reason}")
    return goals
