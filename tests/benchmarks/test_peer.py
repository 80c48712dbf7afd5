"""The peer's training: it is our student, our teacher and our data that Ultralytics trains, and it truly distils."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small import NAMES, TINY_YOLOV5, raw_heads, small_teacher, tiny_student

from benchmarks import _peer
from nasdistill.data.dataset import load_dataset

SIZE = 64


def test_ultralytics_builds_the_same_student() -> None:
    student = tiny_student(seed=5)
    theirs = _peer.as_ultralytics(student.model, "yolov5", TINY_YOLOV5, NAMES)
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ours, others = raw_heads(student.model, images), raw_heads(theirs, images)
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    with pytest.raises(ValueError, match="another student"):
        _peer.as_ultralytics(student.model, "yolov5", {"depth": 0.33, "width": 0.125}, NAMES)


def test_the_linked_data_set_is_the_same(demo_yaml: Path, tmp_path: Path) -> None:
    data = load_dataset(demo_yaml)
    linked = load_dataset(_peer.link_dataset(data, tmp_path / "linked"))
    assert linked.names == data.names
    for split in ("train", "val"):
        assert [path.resolve() for path in linked.splits[split].image_paths] == [
            path.resolve() for path in data.splits[split].image_paths
        ]
        for mine, theirs in zip(data.splits[split].boxes, linked.splits[split].boxes, strict=True):
            assert mine == pytest.approx(theirs, abs=1e-6)


def test_the_peer_distils_as_asked(demo_yaml: Path, tmp_path: Path) -> None:
    student, teacher = tiny_student(), small_teacher().model
    own = _peer.as_ultralytics(student.model, "yolov5", TINY_YOLOV5, NAMES)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    teacher.yaml = _peer.description_of("yolov5", {"depth": 0.33, "width": 0.125}, len(NAMES))
    data = _peer.link_dataset(load_dataset(demo_yaml), tmp_path / "data")
    run = _peer.train_with_ultralytics(own, teacher, data, SIZE, 3.0, 0, tmp_path)
    assert run.steps == len(run.distillation_losses) and all(loss > 0 for loss in run.distillation_losses)
    assert (_peer.BATCH_SIZE, 3, SIZE, SIZE) in run.image_shapes and 0 < run.seconds < 20
    assert all(torch.equal(before[name], tensor) for name, tensor in own.state_dict().items())  # a copy was trained
    trained = _peer.scored_model(run).state_dict()
    assert trained.keys() == before.keys()
    assert not torch.equal(trained["model.0.conv.weight"], before["model.0.conv.weight"])
    assert not list(demo_yaml.parent.rglob("*.cache"))  # nothing is left beside the data


def test_another_start_or_teacher_is_noticed() -> None:
    student, teacher = tiny_student(seed=1).model, small_teacher().model
    _peer.check_models(SimpleNamespace(student_model=student, teacher_model=teacher), student, teacher, SIZE)
    with pytest.raises(AssertionError, match="other weights"):
        other = SimpleNamespace(student_model=tiny_student(seed=2).model, teacher_model=teacher)
        _peer.check_models(other, student, teacher, SIZE)
    with pytest.raises(AssertionError, match="answers differently"):
        other = SimpleNamespace(student_model=student, teacher_model=small_teacher(seed=8).model)
        _peer.check_models(other, student, teacher, SIZE)
