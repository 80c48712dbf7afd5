"""The shipped demo teacher: small, described, and as good on the demo's val split as it says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from nasdistill.data.dataset import load_dataset
from nasdistill.data.defects import CLASS_NAMES
from nasdistill.data.demo import VERSION, make_demo
from nasdistill.data.views import letterboxed_split
from nasdistill.teacher import train_demo_teacher
from nasdistill.teacher.teacher import load_teacher

SHIPPED = Path(train_demo_teacher.__file__).with_name("demo_teacher.safetensors")


@pytest.fixture(scope="module")
def metadata() -> dict[str, str]:
    with safe_open(SHIPPED, framework="pt") as file:
        return dict(file.metadata())


def test_it_is_small_and_describes_itself(metadata: dict[str, str]) -> None:
    assert SHIPPED.stat().st_size <= 10_000_000
    assert tuple(json.loads(metadata["names"])) == CLASS_NAMES
    assert int(metadata["demo_version"]) == VERSION, "the boards have changed: train the demo teacher again"
    assert "/" not in metadata["command"] and metadata["license"] == "AGPL-3.0-or-later"
    page = SHIPPED.with_suffix(".md").read_text(encoding="utf-8")
    assert "synthetic" in page and f"{float(metadata['map50']):.3f}" in page


def test_it_scores_what_it_says(metadata: dict[str, str], tmp_path: Path) -> None:
    data = load_dataset(make_demo(tmp_path / "demo", train=1))
    size = int(metadata["image_size"])
    val = letterboxed_split(data.splits["val"], data.names, size, tmp_path / "val")
    teacher = load_teacher(SHIPPED)
    assert teacher.names == data.names and teacher.image_size == size
    map50, map50_95 = train_demo_teacher.measure(teacher.model, val)
    assert map50 == pytest.approx(float(metadata["map50"]), abs=0.005)
    assert map50_95 == pytest.approx(float(metadata["map50_95"]), abs=0.005)


def test_matching_gives_each_label_to_one_detection() -> None:
    truth = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]])
    box = [16.0, 16.0, 48.0, 48.0]
    found = torch.tensor([[*box, 0.9, 0], [*box, 0.8, 1], [*box, 0.7, 1], [16.0, 16.0, 48.0, 40.0, 0.6, 1]])
    assert train_demo_teacher.match(found, truth, 64).sum(axis=1).tolist() == [0, 10, 0, 0]
    np.testing.assert_array_equal(train_demo_teacher.match(found[3:], truth, 64)[0], np.arange(10) <= 5)


def test_script_trains_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    numbers = {"--boards": 4, "--views": 8, "--steps": 2, "--batch": 2, "--size": 64, "--threads": 1}
    options = [str(word) for pair in numbers.items() for word in pair]
    train_demo_teacher.main(["--out", str(out), "--work", str(tmp_path / "work"), *options])
    teacher = load_teacher(out)
    assert teacher.names == CLASS_NAMES and teacher.image_size == 64
    page = out.with_suffix(".md").read_text(encoding="utf-8")
    assert "2 steps of 2" in page and str(tmp_path) not in page
    assert "train_demo_teacher --out t.safetensors --boards 4" in page
