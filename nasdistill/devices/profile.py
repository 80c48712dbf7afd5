"""Device files: which runtime and settings latency is measured with, read strictly from YAML."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nasdistill.errors import InputError
from nasdistill.records import DEVICE_NAME
from nasdistill.strict_yaml import nearest_hint, parse_yaml, read_yaml

QUICK_WARM_UP_S = 0.1
_SHIPPED = Path(__file__).resolve().parent / "shipped"


class DeviceProfile(BaseModel):
    """How latency is measured: all that tells one figure from another apart from the model itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=f"^{DEVICE_NAME}$")]
    runtime: str
    """A key of `nasdistill.devices.profiler.RUNTIMES`."""
    precision: Literal["fp32"] = "fp32"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    image_size: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] | None = None
    """Side of the square input in pixels that every model must have; None: each model's own."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 1
    channel_multiple: Annotated[int, Field(ge=1, le=128)] = 4
    """Pruned layers keep a multiple of this many channels: what the device's kernels fill their registers with."""
    warmup_s: Annotated[float, Field(ge=0.0, le=60.0, allow_inf_nan=False)] = 0.2
    min_samples: Annotated[int, Field(ge=4, le=100_000)] = 30
    max_seconds: Annotated[float, Field(gt=0.0, le=600.0, allow_inf_nan=False)] = 1.0

    def quick(self, seconds: float) -> DeviceProfile:
        """The same device measured for at most `seconds` a model, and hardly warmed up: for many rough figures."""
        shorter = {"max_seconds": min(self.max_seconds, seconds), "warmup_s": min(self.warmup_s, QUICK_WARM_UP_S)}
        return self.model_copy(update=shorter)


def load_device(name_or_path: str | Path, kept: Mapping[str, Any] | None = None) -> DeviceProfile:
    """The device in a file, or the shipped one of that name.

    Anything with a folder separator or ending in .yaml or .yml is a file. `kept` is the profile as a run recorded it: it
    counts where the file is not there, since runs are moved without it. Raises InputError, in one line, for an unknown
    name, an unreadable file or anything the file may not contain.
    """
    path = Path(name_or_path)
    if path.suffix.lower() not in (".yaml", ".yml") and path.name == str(name_or_path):
        shipped = {file.stem: file for file in sorted(_SHIPPED.glob("*.yaml"))}
        name = str(name_or_path)
        if name not in shipped:
            hint = nearest_hint(name, shipped)
            raise InputError(f"unknown device '{name}'; give a .yaml file or one of: {', '.join(shipped)}{hint}")
        path = shipped[name]
    elif kept is not None and not path.exists():
        with contextlib.suppress(ValidationError):
            return DeviceProfile.model_validate(kept)
    _, text = read_yaml(path, "device file")
    return parse_device(text, str(path))


def load_devices(
    names_or_paths: Sequence[str | Path], kept: Sequence[Mapping[str, Any]] = ()
) -> tuple[DeviceProfile, ...]:
    """The devices of one run, the main one first; see `load_device`.

    Raises InputError too where two have the same name, or take batches of different sizes: one export is timed on all.
    """
    devices = tuple(
        load_device(one, kept[index] if index < len(kept) else None) for index, one in enumerate(names_or_paths)
    )
    for index, device in enumerate(devices):
        if any(device.name == other.name for other in devices[:index]):
            raise InputError(
                f"--device {names_or_paths[index]}: a second device named {device.name}; give each its own name"
            )
        if device.batch != devices[0].batch:
            raise InputError(
                f"device {device.name}: batch={device.batch}, but {devices[0].name} has batch={devices[0].batch}; the same "
                "exported file is timed on all devices"
            )
    return devices


def parse_device(text: str, source: str) -> DeviceProfile:
    """The device in a YAML text; `source` names the file in errors. Raises InputError with file, line and key."""
    root = parse_yaml(text, source)
    required = [name for name, field in DeviceProfile.model_fields.items() if field.is_required()]
    values = root.mapping(tuple(DeviceProfile.model_fields), required=required)
    try:
        return DeviceProfile.model_validate({key: value.scalar_or_none() for key, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise values[key].error(f"{first['msg']}, got {first['input']!r}") from None


def shipped_file(name: str) -> Path:
    """Where the file of a shipped device lies, to be copied."""
    return _SHIPPED / f"{name}.yaml"


def list_devices() -> list[DeviceProfile]:
    """The shipped devices, by name."""
    return [load_device(path) for path in sorted(_SHIPPED.glob("*.yaml"))]
