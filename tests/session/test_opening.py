"""What a run that goes on opens: that with which it was begun."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from nasdistill.prepare import starts
from nasdistill.prepare.inputs import DEMO_TEACHER, Inputs
from nasdistill.progress import Progress
from nasdistill.report.live import LiveDisplay
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.session.goals import goals_of
from nasdistill.session.opening import _of_small_objects, open_inputs
from nasdistill.session.preparation import _starts, changed_starts

SPACE = "name: lite\nfamilies: {efficientnet_lite0: {neck: 32, weights: installed}}\nimage_size: 96\n"


def test_weights_that_were_installed_meanwhile_are_left_out_of_a_run_that_began_without(
    demo_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line that tells how to install them must not cost the run."""
    (tmp_path / "space.yaml").write_text(SPACE)
    names: dict[str, Any] = {"data": str(demo_yaml), "teacher": str(DEMO_TEACHER), "teacher_yaml": None}
    settings = {**names, "space": str(tmp_path / "space.yaml")}

    def opened(recorded: dict[str, Any]) -> Inputs:
        progress, clock = Progress(LiveDisplay(Console(quiet=True))), BudgetClock(parse_budget("1trials"))
        inputs, _ = open_inputs(
            settings,
            recorded,
            goals_of({}),
            clock,
            workers=1,
            trust_teacher=False,
            cache=tmp_path,
            progress=progress,
        )
        return inputs

    with monkeypatch.context() as without:
        without.setattr(starts, "PACKAGES", {"tf_efficientnet_lite0": "no_such_package"})
        begun = opened({})
    assert not begun.pretrained and "after pip install no_such_package" in begun.notes[0]
    recorded = {"preparation": _starts(begun)}
    again = opened(recorded)
    assert not again.pretrained and changed_starts(recorded, again) is None
    assert again.notes[-1].endswith("this run began without these weights and goes on without")
    new = opened({"preparation": {"starts": None, "pretrained": None}})  # of an earlier version
    assert list(new.pretrained) == ["efficientnet_lite0"] and len(new.notes) == 1
    assert changed_starts({"preparation": _starts(new)}, begun) is not None  # what a run had must be there


def test_objects_that_students_cannot_see_are_told() -> None:
    def told(sides: list[float]) -> list[str]:
        boxes = np.array([[0, 0.5, 0.5, side, 0.5] for side in sides], np.float32).reshape(-1, 5)
        split = SimpleNamespace(boxes=(boxes, np.zeros((0, 5), np.float32)))
        inputs: Any = SimpleNamespace(
            image_sizes=(256, 320), dataset=SimpleNamespace(splits={"val": split}), teacher_size=640
        )
        return _of_small_objects(inputs)

    assert told([]) == told([0.5] * 9 + [0.01]) == []
    (line,) = told([0.5] * 3 + [0.02])  # 6.4 px of 320
    assert line.startswith("25% or more of the objects") and "320 px (the teacher's have 640)" in line
