"""Families whose students nobody will ask for are planned, since the plan divides the time, and not warmed."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nasdistill.config import TrainingSettings
from nasdistill.prepare import families
from nasdistill.session import preparation


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"pretrained": {}}, "the pretrained weights of its search space changed"),
        ({"starts": families.WARM_VERSION - 1}, "an earlier version began this run"),
    ],
)
def test_other_starting_weights_are_noticed(changes: dict[str, Any], words: str | None) -> None:
    file = SimpleNamespace(path=Path("some/backbone.safetensors"), sha256="abc", whole=True)
    inputs: Any = SimpleNamespace(pretrained={"mobilenetv3": file})
    recorded = {"preparation": {**preparation._starts(inputs), **changes}}
    found = preparation.changed_starts(json.loads(json.dumps(recorded)), inputs)
    assert (found is None) if words is None else (found is not None and found.startswith(words))
    assert preparation.changed_starts({}, inputs) is None


@pytest.mark.parametrize(
    ("wanted", "warmed"), [(None, ["yolov5", "mobilenetv3-small", "efficientnet_lite0"]), (["yolov5"], ["yolov5"])]
)
def test_lineages_that_are_not_wanted_are_not_warmed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: list[str] | None, warmed: list[str]
) -> None:
    plans = [
        SimpleNamespace(
            lineage=SimpleNamespace(name=name, family=name.split("-")[0]), sliced=name == "yolov5", pretrained=None
        )
        for name in ("yolov5", "mobilenetv3-small", "efficientnet_lite0")
    ]
    asked: list[Sequence[Any]] = []
    said: list[str] = []
    monkeypatch.setattr(families, "plan_warming", lambda *arguments: plans)
    monkeypatch.setattr(families, "warm_tasks", lambda plans, *rest: asked.append(plans) or [])
    inputs = SimpleNamespace(
        teacher=None,
        dataset=SimpleNamespace(names=()),
        lineages=(),
        pretrained={},
        class_order=(),
        space=SimpleNamespace(weights={"efficientnet_lite0": ("installed",)}),
    )
    session: Any = SimpleNamespace(
        inputs=inputs,
        progress=SimpleNamespace(log=said.append, tasks=lambda text, tasks, run: []),
        cache=tmp_path,
        run=SimpleNamespace(path=tmp_path),
        place=SimpleNamespace(run_tasks=None),
    )
    found, steps = preparation._warm_families(session, TrainingSettings(), [], 60.0, 2, wanted)
    assert (found, steps) == (plans, 0)
    assert [plan.lineage.name for plan in asked[0]] == warmed
    assert len(said) == len(warmed) - 1  # all but the one that is cut from the teacher start from random weights
    assert ["'weights: hub' of mobilenetv3" in line for line in said] == [True, False][: len(said)]
