"""Search-space files read strictly: from YAML text to `SearchSpace`, or one line that says what is wrong and where."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from nasdistill.config import RECIPES
from nasdistill.records import Scalar, ViewsName
from nasdistill.space.common import COMMON
from nasdistill.space.families import FAMILIES, STRIDES, narrowest
from nasdistill.space.parameters import Choice, Parameter, Range
from nasdistill.space.rules import OneOf, Rule, Whole
from nasdistill.space.search_space import HUB, INSTALLED, SearchSpace
from nasdistill.strict_yaml import Value, parse_yaml

_TOP_KEYS = ("name", "description", "recipe", "views", "families", "image_size", "distill", "stages", "prune")
_MOST_STEPS = 10_000


def parse_space(text: str, source: str) -> SearchSpace:
    """The search space in a YAML text; `source` names the file in errors.

    Raises InputError with file, line and key for anything that is not in the documented format.
    """
    root = parse_yaml(text, source)
    top = root.mapping(_TOP_KEYS, required=("name", "families", "image_size"))
    name = top["name"].text()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise top["name"].error(f"'{name}' may hold letters, digits, '.', '_' and '-' only")
    families: dict[str, dict[str, Parameter]] = {}
    weights: dict[str, tuple[str, ...]] = {}
    for family, value in top["families"].mapping(tuple(FAMILIES)).items():
        known = FAMILIES[family].parameters
        own = value.mapping((*known, "weights"), required=FAMILIES[family].required)
        if "weights" in own:
            weights[family] = tuple(_weights(own["weights"], Path(source).parent))
        # what is left out stays out of the trials table, too: it is not searched
        families[family] = {key: _parameter(own[key], known[key].rule) for key in known if key in own}
        _check_widths(family, own, families[family])
    if not families:
        raise top["families"].error(f"names no family; there are {', '.join(FAMILIES)}")
    common = _common_parameters(top)
    for family, value in top["families"].mapping(tuple(FAMILIES)).items():
        _check_levels(value.mapping((*FAMILIES[family].parameters, "weights")), families[family], common)
    return SearchSpace(
        name=name,
        description=" ".join(top["description"].text().split()) if "description" in top else "",
        source=Path(source),
        text=text,
        families=families,
        common=common,
        recipe=_one_of(top.get("recipe"), tuple(RECIPES)),
        views=_one_of(top.get("views"), get_args(ViewsName)),
        weights=weights,
    )


def _one_of(value: Value | None, names: tuple[str, ...]) -> str | None:
    """A setting of the whole run: one name, not a choice."""
    return None if value is None else str(_scalar(value, OneOf(names)))


def _weights(value: Value, folder: Path) -> Iterator[str]:
    """A file of pretrained weights, `hub`, `installed`, or a list of those."""
    for item in value.items() if value.is_list() else [value]:
        name = item.text()
        if name not in (HUB, INSTALLED) and not (folder / name).is_file():
            allowed = f"a file beside this one, '{INSTALLED}' for a package's, or '{HUB}' for timm's"
            raise item.error(f"no such file: {folder / name} ({allowed})")
        yield name


def _check_widths(family: str, own: Mapping[str, Value], parameters: Mapping[str, Parameter]) -> None:
    """Refuse a width whose smallest value leaves a layer without channels."""
    smallest = {name: low for name, parameter in parameters.items() if not isinstance(low := _ends(parameter)[0], str)}
    for name, text in narrowest(family, smallest).items():
        raise own[name].error(text)


def _check_levels(
    own: Mapping[str, Value], parameters: Mapping[str, Parameter], common: Mapping[str, Parameter]
) -> None:
    """Refuse more pyramid levels than the smallest input has room for: the coarsest cell must fit into it."""
    if "levels" not in parameters:
        return
    levels, size = int(_ends(parameters["levels"])[1]), int(_ends(common["image_size"])[0])
    stride = STRIDES[levels - 1]
    if stride > size:
        most = sum(stride <= size for stride in STRIDES)
        raise own["levels"].error(
            f"level P{levels + 2} has a stride of {stride} px, more than the smallest image_size of {size}; "
            + (f"at most {most} levels fit" if most >= 3 else "leave levels out, or raise image_size")
        )


def _ends(parameter: Parameter) -> tuple[Scalar, Scalar]:
    """The smallest and the largest number of a parameter; of names, the first twice."""
    if isinstance(parameter, Range):
        return parameter.low, parameter.high
    numbers = [value for value in parameter.values if isinstance(value, int | float)]
    return (min(numbers), max(numbers)) if numbers else (parameter.values[0], parameter.values[0])


def _common_parameters(top: Mapping[str, Value]) -> dict[str, Parameter]:
    common: dict[str, Parameter] = {}
    for name, entry in COMMON.items():
        value = _find(top, entry.path)
        if value is not None:
            common[name] = _parameter(value, entry.rule)
        elif entry.default is not None:
            common[name] = Choice((entry.default,))
        else:
            assert not entry.is_required, f"{name} has no default, so its key is required"
    return common


def _find(top: Mapping[str, Value], path: tuple[str, ...]) -> Value | None:
    """The value under the keys of `path`, checking on the way that each level has only keys that some path uses."""
    level = top
    for depth, key in enumerate(path):
        if key not in level:
            return None
        value = level[key]
        if depth == len(path) - 1:
            return value
        here = path[: depth + 1]
        allowed = dict.fromkeys(entry.path[depth + 1] for entry in COMMON.values() if entry.path[: depth + 1] == here)
        level = value.mapping(tuple(allowed))
    return None


def _parameter(value: Value, rule: Rule) -> Parameter:
    """A single value, a list of values, or `{range: [low, high], step: …, log: …}`."""
    if value.is_mapping():
        return _range(value, rule)
    if not value.is_list():
        return Choice((_scalar(value, rule),))
    values: list[Scalar] = []
    for item in value.items():
        converted = _scalar(item, rule)
        if converted in values:
            raise item.error(f"{converted} is listed twice")
        values.append(converted)
    return Choice(tuple(values))


def _scalar(value: Value, rule: Rule) -> Scalar:
    try:
        return rule.convert(value.scalar())
    except ValueError as error:
        raise value.error(str(error)) from None


def _range(value: Value, rule: Rule) -> Range:
    if isinstance(rule, OneOf):
        raise value.error(f"expected a name or a list of names ({', '.join(rule.names)}), got keys and values")
    keys = value.mapping(("range", "step", "log"), required=("range",))
    ends = keys["range"].items()
    if len(ends) != 2:
        raise keys["range"].error(f"expected [low, high], got {len(ends)} values")
    low, high = (_scalar(end, rule) for end in ends)
    assert not isinstance(low, str) and not isinstance(high, str)
    if low >= high:
        raise keys["range"].error(f"low {low} is not below high {high}; write a single value to fix it")
    log = keys["log"].scalar() if "log" in keys else False
    if not isinstance(log, bool):
        raise keys["log"].error(f"expected true or false, got {log!r}")
    step = _step(keys["step"], rule) if "step" in keys else rule.multiple if isinstance(rule, Whole) else None
    if log:
        if step is not None:
            where = keys.get("step", keys["log"])
            raise where.error("a log range cannot have steps" + ("; list the values" if "step" not in keys else ""))
        if low <= 0:
            raise keys["range"].error(f"a log range needs low above 0, got {low}")
    if step is not None:
        _check_steps(keys.get("step", keys["range"]), low, high, step)
    return Range(low, high, step, log)


def _step(value: Value, rule: Rule) -> float:
    step = value.scalar()
    if isinstance(step, bool | str) or step <= 0:
        raise value.error(f"expected a number above 0, got {step!r}")
    if not isinstance(rule, Whole):
        return float(step)
    if step != int(step) or int(step) % rule.multiple:
        raise value.error(f"expected a multiple of {rule.multiple}, got {step}")
    return int(step)


def _check_steps(where: Value, low: float, high: float, step: float) -> None:
    count = (high - low) / step
    if count > _MOST_STEPS:
        raise where.error(f"{step} makes more than {_MOST_STEPS} steps from {low} to {high}; leave it out")
    whole = round(count)
    if whole < 1 or abs(count - whole) > 1e-6:
        reachable = low + int(count) * step
        raise where.error(f"steps of {step} from {low} do not end at {high} but at {reachable:.12g}")
