"""A search space: which parameters there are given those chosen so far, and the way to and from `TrialConfig`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nasdistill.errors import InputError
from nasdistill.records import Scalar, TrialConfig
from nasdistill.space.canonical import canonical
from nasdistill.space.common import COMMON
from nasdistill.space.families import FAMILIES
from nasdistill.space.parameters import Choice, Parameter, Range
from nasdistill.space.rules import Rule

# Positions of the anchors within a family's sizes: the first ones of a run should span sizes as well as families.
_ANCHOR_SIZES = ("largest", "smallest", "middle")
FEWEST_ANCHORS = 3


HUB, INSTALLED = "hub", "installed"
"""Stand for timm's hub, and for an installed package of weights, among a family's `weights`."""


@dataclass(frozen=True)
class SearchSpace:
    """What a search may choose from.

    `families` holds each family's own parameters by their short name (`width`), `common` those of every student by
    their flat name (`image_size`, `weight.cls`). `text` is the YAML it was read from, `source` the file (or label).
    `weights` names the files (relative to `source`'s folder, HUB or INSTALLED) that a family's supernets start from.
    """

    name: str
    description: str
    source: Path
    text: str
    families: Mapping[str, Mapping[str, Parameter]]
    common: Mapping[str, Parameter]
    recipe: str | None = None
    """The recipe that the file asks for, and how views are drawn; None: the default, or what the command line says."""
    views: str | None = None
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def parameters(self, chosen: Mapping[str, Scalar]) -> dict[str, Parameter]:
        """The parameters still to choose, by flat name: `family` first, then all others; {} at the end.

        Raises InputError for a family that this space does not have.
        """
        if "family" not in chosen:
            return {"family": Choice(tuple(self.families))}
        everything = self._all_of(str(chosen["family"]))
        return {name: parameter for name, parameter in everything.items() if name not in chosen}

    def contains(self, params: Mapping[str, Scalar]) -> str | None:
        """None when the flat `params` are one complete point of this space, else the reason why they are not."""
        if "family" not in params:
            return "family is missing"
        if params["family"] not in self.families:
            return f"family={params['family']} is not in {self.name}; it has {', '.join(self.families)}"
        everything = self._all_of(str(params["family"]))
        for name in params:
            if name != "family" and name not in everything:
                return f"{name} is no parameter of {params['family']} in {self.name}"
        for name, parameter in everything.items():
            if name not in params:
                return f"{name} is missing"
            if not parameter.contains(params[name]):
                return f"{name}={params[name]} is outside {self.name} ({parameter})"
        return None

    def complete(self, params: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """`params` with the parameters that they leave out and that leave no choice.

        A space that offers one value says it for the point: one written by hand, or in a run from before the parameter
        was there.
        """
        given = dict(params)
        if "family" not in given and len(self.families) == 1:
            given["family"] = next(iter(self.families))
        if given.get("family") not in self.families:
            return given
        fixed = (
            (name, values[0])
            for name, parameter in self.parameters(given).items()
            if (values := parameter.grid()) is not None and len(values) == 1
        )
        return {**given, **dict(fixed)}

    def config(self, params: Mapping[str, Scalar]) -> TrialConfig:
        """The trial for one point. Raises InputError when `params`, completed, do not lie in this space."""
        params = self.complete(params)
        reason = self.contains(params)
        if reason is not None:
            raise InputError(f"search space {self.name}: {reason}")
        family = str(params["family"])
        arch = {
            name: parameter.nearest(params[f"{family}.{name}"]) for name, parameter in self.families[family].items()
        }
        fields = {COMMON[name].field: parameter.nearest(params[name]) for name, parameter in self.common.items()}
        return TrialConfig.model_validate({"family": family, "arch": arch, **fields})

    def canonical(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """Equal for complete points that are the same trial: the same student after rounding, taught the same way."""
        return canonical(params)

    def sample(self, rng: random.Random) -> dict[str, Scalar]:
        """A random complete point: the family evenly, then each parameter evenly over its range (or log range)."""
        chosen: dict[str, Scalar] = {}
        while following := self.parameters(chosen):
            chosen.update({name: parameter.sample(rng) for name, parameter in following.items()})
        return chosen

    def anchors(self) -> list[dict[str, Scalar]]:
        """Complete points to start from, without duplicates: one a family, at least FEWEST_ANCHORS where there are so many.

        The families take turns at the largest, the smallest and a middle size, so that the points span sizes as well as
        families; a search of a dozen trials has no more to spare. Architecture and image size go together from small to
        large; the recipe stays at its midpoints. The middle size is pruned by the middle ratio, the others by the lowest.
        """
        points: list[dict[str, Scalar]] = []
        for turn in range(len(_ANCHOR_SIZES)):
            for index, family in enumerate(self.families):
                point = self._anchor(family, _ANCHOR_SIZES[(index + turn) % len(_ANCHOR_SIZES)])
                if point not in points:
                    points.append(point)
            if len(points) >= FEWEST_ANCHORS:
                break
        return points

    def believed(self) -> dict[str, float]:
        """How students are best taught before anything is known: the middle of each range of the recipe, by flat name.

        The anchors have these values too. Of architecture, image size and pruning nothing is believed: small and large
        ones are wanted on a front.
        """
        return {
            name: parameter.midpoint()
            for name, parameter in self.common.items()
            if COMMON[name].is_recipe and isinstance(parameter, Range) and parameter.low < parameter.high
        }

    def grid_size(self) -> int | None:
        """How many points there are, or None when a continuous range makes them infinite."""
        total = 0
        for family in self.families:
            size = 1
            for parameter in self._all_of(family).values():
                grid = parameter.grid()
                if grid is None:
                    return None
                size *= len(grid)
            total += size
        return total

    def _all_of(self, family: str) -> dict[str, Parameter]:
        if family not in self.families:
            raise InputError(f"search space {self.name}: no family '{family}'; it has {', '.join(self.families)}")
        own = {f"{family}.{name}": parameter for name, parameter in self.families[family].items()}
        return {**own, **self.common}

    def _anchor(self, family: str, size: str) -> dict[str, Scalar]:
        point: dict[str, Scalar] = {"family": family}
        for name, parameter in self.families[family].items():
            point[f"{family}.{name}"] = _sized(parameter, FAMILIES[family].parameters[name].rule, size)
        for name, parameter in self.common.items():
            if name == "image_size":
                # Of two image sizes the middle point takes the larger: with the smaller of two architectures it then
                # differs from both ends.
                point[name] = _sized(parameter, COMMON[name].rule, size, middle_of_two=1)
            elif name == "prune.ratio":
                point[name] = _sized(parameter, COMMON[name].rule, "middle" if size == "middle" else "smallest")
            else:
                point[name] = parameter.midpoint()
        return point


def flat_params(config: TrialConfig) -> dict[str, Scalar]:
    """A trial's parameters under the flat names of the trials table (`family`, `yolov5.width`, `weight.cls`, …)."""
    own = {f"{config.family}.{name}": value for name, value in config.arch.items()}
    common = {name: getattr(config, entry.field) for name, entry in COMMON.items()}
    chosen = {name: value for name, value in common.items() if value is not None}
    return {"family": config.family, **own, **chosen}


def _sized(parameter: Parameter, rule: Rule, size: str, middle_of_two: int = 0) -> Scalar:
    """The value that makes the smallest, middle or largest student; an even number of values has two middle ones."""
    if isinstance(parameter, Range) and parameter.values() is None:
        return {"smallest": parameter.low, "middle": parameter.midpoint(), "largest": parameter.high}[size]
    ordered = sorted(parameter.grid() or (), key=rule.rank)
    middle = (len(ordered) - 1 + middle_of_two) // 2
    return ordered[{"smallest": 0, "middle": middle, "largest": -1}[size]]
