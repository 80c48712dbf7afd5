"""A teacher trained further: other weights in a checkpoint that a search reads, and only where its classes are the data's."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import strengthen_teacher
from nasdistill.errors import InputError
from nasdistill.prepare.inputs import DEMO_TEACHER
from nasdistill.teacher.teacher import load_teacher


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASDISTILL_CACHE", str(tmp_path / "cache"))


def test_it_becomes_a_checkpoint_that_a_search_reads(
    demo_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stronger.pt"
    given = {"data": demo_yaml, "teacher": DEMO_TEACHER, "to": file, "image-size": 128, "batch": 2}
    given |= {"minutes": 0.01, "views-per-image": 1, "threads": 1}
    strengthen_teacher.main([f"--{name}={value}" for name, value in given.items()])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    before, after = load_teacher(DEMO_TEACHER), load_teacher(file)
    assert (after.names, after.image_size) == (before.names, 128)
    assert after.parameters_m == before.parameters_m
    weights = [teacher.model.state_dict()["model.0.conv.weight"] for teacher in (before, after)]
    assert not torch.equal(*weights)
    assert told["steps"] >= 1 and 0 <= told["after"] <= 1


def test_classes_in_another_order_are_refused(demo_yaml: Path, tmp_path: Path) -> None:
    other = tmp_path / "data.yaml"
    text = demo_yaml.read_text()
    assert "0: open\n" in text and "1: short\n" in text
    text = text.replace("0: open\n", "0: SHORT\n").replace("1: short\n", "1: open\n").replace("SHORT", "short")
    other.write_text(text.replace(": images", f": {demo_yaml.parent}/images"))
    with pytest.raises(InputError, match="the teacher's classes are"):
        strengthen_teacher.main(["--data", str(other), "--teacher", str(DEMO_TEACHER), "--to", str(tmp_path / "t.pt")])
    assert not (tmp_path / "t.pt").exists()
