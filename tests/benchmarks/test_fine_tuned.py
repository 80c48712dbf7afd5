"""A front against a tuned standard model: scored on the same images, timed in turns, a faster worse one does not count."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from small import NAMES, SIZE, opinionated, tiny_student

from benchmarks import _peer, fine_tuned, train_teacher
from nasdistill.errors import InputError
from nasdistill.measure.artifact import write_onnx
from nasdistill.records import TrialResult
from nasdistill.store.run_folder import RunFolder

ARCH = {"depth": 0.33, "width": 0.25}


@pytest.fixture
def checkpoint(demo_yaml: Path, tmp_path: Path) -> Path:
    """A YOLOv5n-sized model in the file that `train_teacher` leaves."""
    model = train_teacher.DetectionModel(_peer.description_of("yolov5", ARCH, len(NAMES)), verbose=False)
    opinionated(model)
    model.names = dict(enumerate(("open", "short", "mousebite", "spur", "spurious_copper", "pin_hole")))
    torch.save({"model": deepcopy(model), "train_args": {"imgsz": SIZE}}, tmp_path / "tuned.pt")
    return tmp_path / "tuned.pt"


def finished_run(folder: Path, scores: dict[int, float]) -> RunFolder:
    run = RunFolder.create(folder)
    for trial, score in scores.items():
        result = TrialResult(
            trial=trial,
            family="yolov5",
            state="complete",
            map50=score,
            map50_95=score,
            latency_ms=float(trial),
            fidelity=1.0,
        )
        run.write_trial(result)
        write_onnx(tiny_student(seed=trial).model, SIZE, run.trial_folder(trial) / fine_tuned.ARTIFACT)
    return run


def test_members_that_are_not_slower_are_compared(
    demo_yaml: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path / "run", {1: 0.3, 2: 0.6})
    common = ["--data", str(demo_yaml), "--checkpoint", str(checkpoint), "--image-size", str(SIZE)]
    outcome = fine_tuned.main([str(run.path), *common])
    rows = {row["model"]: row for row in outcome.detail["models"]}
    assert set(rows) == {"trial 1", "trial 2", fine_tuned.TUNED}
    tuned = rows[fine_tuned.TUNED]
    assert max(rows["trial 1"]["latency ms"], rows["trial 2"]["latency ms"]) < tuned["latency ms"]
    assert tuned["params M"] > 1 and tuned["mAP50-95"] < 0.3
    assert outcome.value == pytest.approx(0.6 - tuned["mAP50-95"])
    assert outcome.detail["times_faster_at_its_accuracy"] > 1
    pace = {"trial 1": 1.0, "trial 2": 9.0, fine_tuned.TUNED: 3.0}
    monkeypatch.setattr(fine_tuned, "time_in_turns", lambda artifacts: pace)
    outcome = fine_tuned.main([str(run.path), *common])
    assert outcome.value == pytest.approx(0.3 - tuned["mAP50-95"]), "trial 2 is better, and slower"
    assert outcome.detail["times_faster_at_its_accuracy"] == pytest.approx(3.0)
    (run.trial_folder(2) / fine_tuned.ARTIFACT).unlink()
    with pytest.raises(InputError, match="no exported students of trial 2"):
        fine_tuned.main([str(run.path), *common])


def test_a_model_of_other_classes_is_refused(demo_yaml: Path, checkpoint: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {1: 0.3})
    content = torch.load(checkpoint, weights_only=False)
    content["model"].names = dict(enumerate("abcdef"))
    torch.save(content, checkpoint)
    with pytest.raises(InputError, match="its classes are"):
        fine_tuned.main([str(run.path), "--data", str(demo_yaml), "--checkpoint", str(checkpoint)])
