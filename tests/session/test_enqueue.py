"""Configurations to begin with: what a file of them may look like, and what is refused with one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasdistill.errors import InputError
from nasdistill.session.enqueue import read_configurations
from nasdistill.space.parse import parse_space
from nasdistill.store.tables import write_trials_csv
from tests.session.small_space import ONE, SPACE, TWO, complete_trial


@pytest.mark.parametrize("name", ["points.yaml", "points.json", "points.csv", "trials.csv"])
def test_every_format_gives_the_same_complete_points(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "trials.csv":
        full = read_configurations(_written(tmp_path / "a.json", json.dumps([ONE, TWO])), SPACE)
        write_trials_csv(path, [complete_trial(i, {**p, "init": "warmed"}) for i, p in enumerate(full)], {0})
    elif name == "points.csv":
        path.write_text(
            "family,yolov5.width,mobilenetv3.variant,image_size\nyolov5,0.125,,256\nmobilenetv3,,small_075,128\n"
        )
    else:
        path.write_text(json.dumps([ONE, TWO]))
    first, second = read_configurations(path, SPACE)
    assert {name: first[name] for name in ONE} == ONE and first["yolov5.depth"] == 0.33
    assert {name: second[name] for name in TWO} == TWO and second["mobilenetv3.neck"] == 32
    assert SPACE.contains(first) is None and SPACE.contains(second) is None


@pytest.mark.parametrize("text", ["5e-05", "1e-3", "0.001"])
@pytest.mark.parametrize("name", ["points.yaml", "points.json"])
def test_small_numbers_are_numbers_however_they_are_written(tmp_path: Path, name: str, text: str) -> None:
    space = parse_space(
        "name: a\nfamilies: {yolov5: {depth: 0.33, width: 0.125}}\nimage_size: 128\n"
        "stages: {stage2_learning_rate: {range: [1e-6, 0.1], log: true}}\n",
        "a.yaml",
    )
    path = _written(tmp_path / name, f'[{{"family": "yolov5",\n"stages.stage2_learning_rate": {text}}}]')
    (point,) = read_configurations(path, space)
    assert point["stages.stage2_learning_rate"] == float(text)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x", ("expected a file ending in",)),
        ("a.json", '[{"family": 1,\n}]', ("a.json, line 2",)),
        ("a.yaml", "[1", ("a.yaml, line 1",)),
        ("a.yaml", "[{family: 2024-13-45}]", ("not valid YAML",)),
        ("a.yaml", "3", ("expected a list",)),
        ("a.yaml", "[]", ("no configuration",)),
        ("a.yaml", "[3]", ("entry 1", "got 3")),
        ("a.json", json.dumps([ONE, {**ONE, "yolov5.width": 0.3}]), ("entry 2", "yolov5.width=0.3 is outside")),
        ("a.json", json.dumps([{**ONE, "family": "yolov6"}]), ("entry 1", "family=yolov6", "mobilenetv3")),
        ("a.json", json.dumps([{**ONE, "widht": 1}]), ("entry 1", "widht is no parameter")),
        ("a.json", json.dumps([{**ONE, "image_size": [128]}]), ("entry 1", "image_size is [128]")),
        ("a.json", json.dumps([{"family": "yolov5", "image_size": 128}]), ("yolov5.width is missing",)),
        ("a.csv", "family,image_size\nyolov5\n", ("line 2", "not as many cells")),
        ("a.csv", "family,image_size,yolov5.width\nyolov5,128,2\n", ("line 2", "yolov5.width=2 is outside")),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, name: str, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        read_configurations(_written(tmp_path / name, text), SPACE)
    assert str(error.value).startswith("--enqueue") and "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
