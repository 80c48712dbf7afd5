"""What a search is for: devices, objectives and limits together, refused before anything is spent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nasdistill.devices.onnxruntime_local import OnnxRuntimeLocal
from nasdistill.errors import InputError
from nasdistill.session.goals import goals_of


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    found = []
    for name, more in (("phone", ""), ("board", ""), ("batched", "batch: 4\n")):
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"name: {name}\nruntime: onnxruntime\n{more}")
        found.append(str(file))
    return found


def test_without_any_word_it_is_accuracy_and_latency_on_this_machine() -> None:
    goals = goals_of({})
    assert [device.name for device in goals.devices] == ["local"]
    assert goals.objectives.names == ["map50_95", "latency_ms"] and goals.needed == ("latency_ms",)
    assert goals.notes == []


def test_three_devices_are_timed_and_two_searched_for(files: list[str]) -> None:
    goals = goals_of({"device": ["local", *files[:2]]})
    assert goals.objectives.names == ["map50_95", "latency_ms", "latency_ms@phone"]
    (note,) = goals.notes
    assert "on board every student is timed" in note
    assert goals_of({"device": ["local", files[0]]}).notes == []
    (note,) = goals_of({"device": ["local", files[0]], "objectives": ["map50", "latency_ms@phone"]}).notes
    assert "on local every student" in note


def test_limits_are_on_the_runs_devices(files: list[str]) -> None:
    goals = goals_of({"device": ["local", files[0]], "constraint": ["latency_ms@phone<=3"]})
    assert goals.needed == ("latency_ms", "latency_ms@phone")
    with pytest.raises(InputError, match="no device 'board'"):
        goals_of({"device": ["local", files[0]], "constraint": ["latency_ms@board<=3"]})


def test_a_run_that_was_moved_goes_on_with_the_device_it_recorded(files: list[str]) -> None:
    settings = {"device": ["local", *files[:2]]}
    devices = goals_of(settings).devices
    recorded = {"device": devices[0].model_dump(), "further_devices": [one.model_dump() for one in devices[1:]]}
    recorded = json.loads(json.dumps(recorded))
    Path(files[0]).unlink()
    Path(files[1]).write_text("name: board\nruntime: onnxruntime\nthreads: 3\n")
    found = goals_of(settings, recorded).devices
    assert found[:2] == devices[:2]
    assert found[2].threads == 3, "what is there is read, for the run to see whether it changed"
    with pytest.raises(InputError, match=r"phone\.yaml"):
        goals_of(settings)
    with pytest.raises(InputError, match=r"phone\.yaml"):
        goals_of(settings, {"device": recorded["device"], "further_devices": [{"name": "phone", "shape": "flat"}]})


def test_devices_that_cannot_be_together(files: list[str]) -> None:
    with pytest.raises(InputError, match="a second device named phone"):
        goals_of({"device": [files[0], "local", files[0]]})
    with pytest.raises(InputError, match="device batched: batch=4, but local has batch=1"):
        goals_of({"device": ["local", files[2]]})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"objectives": ["map50", "energy_mj"]}, "--objectives: energy_mj: device local does not report energy"),
        ({"constraint": ["energy_mj<=3"]}, "--constraint: energy_mj: device local does not report energy"),
    ],
)
def test_energy_needs_a_device_that_reports_it(
    settings: dict[str, list[str]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeLocal, "reports_energy", lambda self: False)
    with pytest.raises(InputError, match=words):
        goals_of(settings)
    monkeypatch.setattr(OnnxRuntimeLocal, "reports_energy", lambda self: True)
    assert "energy_mj" in goals_of(settings).needed


def test_energy_of_a_further_device(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeLocal, "reports_energy", lambda self: self.profile.name == "local")
    settings = {"device": ["local", files[0]], "objectives": ["map50", "energy_mj"]}
    assert goals_of(settings).objectives.names == settings["objectives"]
    with pytest.raises(InputError, match="energy_mj@phone: device phone does not report energy"):
        goals_of(settings | {"objectives": ["map50", "energy_mj@phone"]})
