"""Synthesised data sets: what is in them, and that nothing is lost when a process is killed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from small import small_teacher

from nasdistill.data.dataset import Dataset, load_dataset
from nasdistill.data.images import read_image
from nasdistill.data_free.inversion import InversionSettings
from nasdistill.data_free.synthesis import Synthesis, check_names, pseudo_labels, synthesise
from nasdistill.errors import InputError

CPU = torch.device("cpu")
SETTINGS = InversionSettings(steps=2, learning_rate=0.05, batch_size=2)


def synthesis(seed: int = 0) -> Synthesis:
    return Synthesis(teacher=small_teacher(), size=64, seed=seed, settings=SETTINGS, device=CPU, autocast=None)


def images_of(dataset: Dataset, split: str) -> np.ndarray:
    return np.stack([read_image(path) for path in dataset.splits[split].image_paths])


class Killed(BaseException):
    """What nothing catches."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two batches to train on and one to score on, made without an interruption."""
    data, train, val = synthesise(synthesis(), tmp_path_factory.mktemp("whole"), 2, 1)
    assert (train, val) == (2, 1)
    return load_dataset(data)


def test_labels_are_the_teachers_own_detections(whole: Dataset) -> None:
    assert whole.names == small_teacher().names and whole.problems == ()
    assert {split: len(content) for split, content in whole.splits.items()} == {"train": 4, "val": 2}
    images = torch.from_numpy(images_of(whole, "train")).permute(0, 3, 1, 2)
    expected = pseudo_labels(small_teacher(), images, CPU, None)
    assert sum(map(len, expected)) > 0
    for found, rows in zip(whole.splits["train"].boxes, expected, strict=True):
        np.testing.assert_allclose(found, rows, atol=1e-5)
    splits = [images_of(whole, split) for split in ("train", "val")]
    assert not any(np.array_equal(first, second) for first in splits[0] for second in splits[1])


def test_killed_half_way_it_goes_on_to_the_same_images(whole: Dataset, tmp_path: Path) -> None:
    def kill(share: float) -> None:
        if share > 0.8:  # within the last of three batches
            raise Killed

    with pytest.raises(Killed):
        synthesise(synthesis(), tmp_path, 2, 1, on_progress=kill)
    folder = synthesis().folder(tmp_path)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*")) == ["train/0000", "val/0000"]
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    data, *_ = synthesise(synthesis(), tmp_path, 2, 1)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "finished batches are not made again"
    for split in ("train", "val"):
        assert np.array_equal(images_of(load_dataset(data), split), images_of(whole, split))


def test_a_larger_set_goes_on_from_a_smaller_one_and_a_deadline_stops_it(whole: Dataset, tmp_path: Path) -> None:
    small, *_ = synthesise(synthesis(), tmp_path, 1, 1)
    assert np.array_equal(images_of(load_dataset(small), "train"), images_of(whole, "train")[:2])
    late, train, val = synthesise(synthesis(), tmp_path, 3, 1, deadline=0.0)
    assert (late, train, val) == (small, 1, 1)
    assert synthesis(seed=1).key != synthesis().key
    assert synthesis().batches_there(tmp_path, (3, 1)) == 2


def test_what_cannot_be_a_data_set_is_said() -> None:
    check_names(["a", "b"], "t.pt")
    for names in (["a", "a"], ["a", " "]):
        with pytest.raises(InputError, match=r"--data none: the teacher t\.pt has the class name"):
            check_names(names, "t.pt")


def test_a_teacher_that_sees_nothing_is_refused(tmp_path: Path) -> None:
    what = synthesis()
    for branch in what.teacher.model.model[-1].cv3:
        torch.nn.init.constant_(branch[-1].bias, -30.0)
    with pytest.raises(InputError, match=r"sees no object in 2 images synthesised from it \(train\)"):
        synthesise(what, tmp_path, 1, 0)
