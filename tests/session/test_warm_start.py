"""Results of an earlier run that warm a sampler: what is taken, and what is refused with one clear line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nasdistill.config import CLASSIC, SHORT, Recipe, TrainingSettings
from nasdistill.devices.profile import DeviceProfile
from nasdistill.errors import InputError
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import TrialResult
from nasdistill.session.warm_start import keep_warm_start, kept_warm_start, read_warm_start
from nasdistill.space.parse import parse_space
from nasdistill.store.run_folder import RunFolder
from tests.session.small_space import ONE, SPACE, TEXT, TWO, complete_trial

PREPARED = {"starts": 3, "pretrained": {}, "images_per_epoch": 100}


def inputs(**changes: Any) -> Any:
    device = DeviceProfile(name="here", runtime="onnxruntime")
    fields = {"space": SPACE, "device": device, "data_hash": "d", "teacher": SimpleNamespace(sha256="t"), **changes}
    return SimpleNamespace(**{"devices": (fields["device"],), **fields})


def earlier(folder: Path, results: list[TrialResult]) -> Path:
    run = RunFolder.create(folder)
    same = inputs()
    run.update_run(
        space_text=same.space.text,
        device=same.device.model_dump(),
        data_hash="d",
        teacher={"sha256": "t", "map50": 0.9},
    )
    for one in results:
        run.write_trial(one)
    return folder


def test_the_complete_trials_of_an_earlier_run_are_kept_by_the_new_one(tmp_path: Path) -> None:
    failed = TrialResult(trial=1, state="failed", family="yolov5", reason="broken", params=ONE)
    path = earlier(tmp_path / "old", [complete_trial(0, ONE), failed, complete_trial(2, TWO, epochs=8)])
    assert [one.trial for one in read_warm_start(path, inputs()).results] == [0, 2]
    new = RunFolder.create(tmp_path / "new")
    new.update_run(preparation=PREPARED)
    eight = TrainingSettings(epochs=8)
    RunFolder.open(path).update_run(training=eight.model_dump(), preparation=PREPARED)
    assert kept_warm_start(new, eight) == []
    keep_warm_start(new, read_warm_start(path, inputs()))
    assert [warmth.fidelity for warmth in kept_warm_start(new, eight)] == [0.5, 1.0]
    thirds = TrainingSettings(epochs=12, epoch_parts=3)
    assert [warmth.fidelity for warmth in kept_warm_start(new, thirds)] == [1.0, 2.0]
    for epochs, parts in ((5, 3), (49, 1), (7, 5)):  # equal lengths are equal, whatever rounding does
        same = TrainingSettings(epochs=epochs, epoch_parts=parts)
        alike = earlier(tmp_path / f"old-{epochs}", [complete_trial(0, ONE, epochs=epochs)])
        RunFolder.open(alike).update_run(training=same.model_dump(), preparation=PREPARED)
        keep_warm_start(new, read_warm_start(alike, inputs()))
        assert [warmth.fidelity for warmth in kept_warm_start(new, same)] == [1.0]
    # lengths are compared in images, however either run divides its epochs
    RunFolder.open(path).update_run(training=TrainingSettings(epochs=8, epoch_parts=2).model_dump())
    keep_warm_start(new, read_warm_start(path, inputs()))
    assert [warmth.fidelity for warmth in kept_warm_start(new, eight)] == [0.25, 0.5]
    RunFolder.open(path).update_run(preparation={**PREPARED, "images_per_epoch": 50})
    keep_warm_start(new, read_warm_start(path, inputs()))
    assert [warmth.fidelity for warmth in kept_warm_start(new, eight)] == [0.125, 0.25]


@pytest.mark.parametrize(
    ("recipe", "preparation"),
    [
        (CLASSIC, PREPARED),
        (SHORT, {**PREPARED, "starts": 1}),
        (SHORT, {**PREPARED, "pretrained": {"mobilenetv3": {"file": "a.safetensors", "sha256": "0"}}}),
        (SHORT, {}),
    ],
)
def test_scores_by_another_recipe_or_from_other_weights_do_not_compare(
    tmp_path: Path, recipe: Recipe, preparation: dict[str, Any]
) -> None:
    path = earlier(tmp_path / "old", [complete_trial(0, ONE, epochs=8)])
    RunFolder.open(path).update_run(
        training=TrainingSettings(epochs=8, recipe=recipe).model_dump(), preparation=preparation
    )
    new = RunFolder.create(tmp_path / "new")
    new.update_run(preparation=PREPARED)
    keep_warm_start(new, read_warm_start(path, inputs()))
    (warmth,) = kept_warm_start(new, TrainingSettings(epochs=8, recipe=SHORT))
    assert warmth.fidelity is None and warmth.result.latency_ms == 4.0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"space": parse_space(TEXT.replace("256", "192"), "other.yaml")}, "another search space"),
        ({"device": DeviceProfile(name="here", runtime="onnxruntime", threads=2)}, "another device"),
        ({"data_hash": "e"}, "another data"),
        ({"teacher": SimpleNamespace(sha256="u")}, "another teacher"),
    ],
)
def test_a_run_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    path = earlier(tmp_path / "old", [complete_trial(0, ONE)])
    with pytest.raises(InputError, match=word):
        read_warm_start(path, inputs(**changes))


def test_a_run_without_a_complete_trial_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no complete trial"):
        read_warm_start(earlier(tmp_path / "old", []), inputs())


def test_an_earlier_run_with_other_objectives_serves_where_the_figures_are_there(tmp_path: Path) -> None:
    path = earlier(
        tmp_path / "old", [complete_trial(0, ONE).model_copy(update={"params_m": 1.0}), complete_trial(1, TWO)]
    )
    RunFolder.open(path).update_run(objectives=["map50", "latency_ms"])
    three = DEFAULT.against("latency_ms", "params_m")
    assert len(read_warm_start(path, inputs(), three).results) == 2
    with pytest.raises(InputError, match="its trials have no latency_ms@phone"):
        read_warm_start(path, inputs(), DEFAULT.against("latency_ms@phone"))


def test_an_earlier_run_on_another_device_of_the_same_name_is_refused(tmp_path: Path) -> None:
    here, phone = DeviceProfile(name="here", runtime="onnxruntime"), DeviceProfile(name="phone", runtime="onnxruntime")
    path = earlier(tmp_path / "old", [complete_trial(0, ONE)])
    RunFolder.open(path).update_run(further_devices=[phone.model_dump()])
    assert read_warm_start(path, inputs()) and read_warm_start(path, inputs(devices=(here, phone)))
    with pytest.raises(InputError, match="another device of the name phone"):
        read_warm_start(path, inputs(devices=(here, phone.model_copy(update={"threads": 2}))))
