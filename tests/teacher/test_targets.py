"""The teacher's targets: computed once, finished after a crash, laid out anew when torn, shared by processes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, NAMES, SIZE, fill_all, small_teacher, training_views

from nasdistill.data.views import Views
from nasdistill.teacher import targets
from nasdistill.teacher.targets import (
    STRIDES,
    anchor_count,
    create_targets,
    fill_targets,
    is_complete,
    open_targets,
    resample,
    seal_targets,
)

ORDER = range(len(NAMES))
COUNT = 30


@pytest.fixture(scope="module")
def views(demo_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Views:
    return training_views(demo_yaml, tmp_path_factory.mktemp("pool") / "views", COUNT)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 views: 30 views make three whole ones and a rest of 6."""
    monkeypatch.setattr(targets, "CHUNK", 8)


def fill(folder: Path, views: Views, ranges: list[tuple[int, int]], **options: object) -> None:
    fill_targets({SIZE: folder}, small_teacher(), views, ORDER, ranges, CPU.device, None, **options)


def test_what_is_stored_is_what_the_teacher_says(tmp_path: Path, views: Views) -> None:
    teacher = small_teacher()
    folder = tmp_path / "targets"
    fill_all(folder, teacher, views)
    assert teacher.forward_passes == 4  # one a chunk of at most 16 views
    stored = open_targets(folder)
    assert stored.logits.shape == (COUNT, anchor_count(SIZE, STRIDES), len(NAMES))
    indices = np.array([0, 7, 8, 29])
    batch = stored.batch(indices)
    online = teacher(torch.from_numpy(views.images[indices]).float() / 255, ORDER)
    # float16 rounds to a relative 2**-11; logits and distances are far from its limits
    for read, said in ((batch.logits_bac, online.logits_bac), (batch.distances_ba4, online.distances_ba4)):
        assert read.dtype == torch.float32
        assert ((read - said).abs() <= said.abs() * 2**-11 + 1e-4).all()
        assert said.abs().max() > 1
    assert [tuple(level.shape) for level in batch.attention] == [(4, 32), (4, 64), (4, 128)]
    for level, maps in zip(batch.attention, online.features, strict=True):
        assert torch.allclose(level, maps.mean(dim=(2, 3)), atol=1e-5)


def test_after_a_crash_only_the_rest_is_left(tmp_path: Path, views: Views) -> None:
    folder, teacher = tmp_path / "targets", small_teacher()
    ranges = create_targets(folder, teacher, COUNT, SIZE, len(NAMES))
    assert ranges == [(0, 8), (8, 16), (16, 24), (24, 30)]
    seen = []

    def die_in_the_third_chunk(count: int) -> None:
        seen.append(count)
        if sum(seen) > 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(folder, views, ranges, on_progress=die_in_the_third_chunk, batch_size=4)
    before = np.load(folder / "logits.npy")[:16].copy()
    assert not is_complete(folder, "key")
    with pytest.raises(FileNotFoundError):
        open_targets(folder)
    left = create_targets(folder, teacher, COUNT, SIZE, len(NAMES))
    assert left == [(16, 24), (24, 30)]
    fill(folder, views, left)
    assert create_targets(folder, teacher, COUNT, SIZE, len(NAMES)) == []
    seal_targets(folder, "key", teacher)
    assert is_complete(folder, "key") and not is_complete(folder, "another key")
    logits = open_targets(folder).logits
    assert np.array_equal(logits[:16], before)
    assert (np.abs(logits).max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "gone", "text"])
@pytest.mark.parametrize("array", ["logits", "attention", "done"])
def test_a_torn_array_is_noticed_and_laid_out_anew(tmp_path: Path, views: Views, array: str, damage: str) -> None:
    folder, file = tmp_path / "targets", tmp_path / "targets" / f"{array}.npy"
    teacher = small_teacher()
    ranges = create_targets(folder, teacher, COUNT, SIZE, len(NAMES))
    done = np.load(folder / "done.npy", mmap_mode="r+")
    done[:] = 1
    done.flush()
    seal_targets(folder, "key", teacher)
    assert is_complete(folder, "key")
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "other shape":
        np.save(file, np.zeros((3, 4)))
    else:
        file.write_bytes({"cut": content[:-3], "empty": b"", "text": b"x" * len(content)}[damage])
    if array != "done" and damage != "other shape":
        assert not is_complete(folder, "key")
    assert create_targets(folder, teacher, COUNT, SIZE, len(NAMES)) == ranges
    assert not (folder / "targets.json").exists()


def test_one_pass_of_the_teacher_serves_students_of_every_size(tmp_path: Path, views: Views) -> None:
    teacher = small_teacher()
    folders = {size: tmp_path / str(size) for size in (SIZE, 64, 160)}
    for size, folder in folders.items():
        ranges = create_targets(folder, teacher, COUNT, size, len(NAMES))
    fill_targets(folders, teacher, views, ORDER, ranges, CPU.device, None)
    assert teacher.forward_passes == 4
    for size, folder in folders.items():
        seal_targets(folder, "key", teacher)
        stored = open_targets(folder)
        assert stored.logits.shape == (COUNT, anchor_count(size, STRIDES), len(NAMES))
        assert np.load(folder / "done.npy").all()
    same, other = open_targets(folders[SIZE]), open_targets(folders[160])
    assert np.array_equal(same.attention, other.attention)


def anchors_of(size: int) -> list[tuple[int, float, float, float]]:
    """Level, centre x and y in 0..1 and cell size in 0..1 of every anchor, P3 first, row by row."""
    found = []
    for level, stride in enumerate((8, 16, 32)):
        cells = size // stride
        for row in range(cells):
            found += [(level, (column + 0.5) / cells, (row + 0.5) / cells, 1 / cells) for column in range(cells)]
    return found


@pytest.mark.parametrize("to_size", [64, 160, 96])
def test_a_resampled_anchor_says_what_the_nearest_one_does(to_size: int) -> None:
    """Slowly and obviously: search the nearest anchor of the level, compare boxes as corners in 0..1 of the image."""
    old, new = anchors_of(SIZE), anchors_of(to_size)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, len(old), 3, generator=generator)
    distances = torch.rand(1, len(old), 4, generator=generator) * 4
    got_logits, got_distances = resample(logits, distances, SIZE, to_size, (8, 16, 32))
    assert got_logits.shape == (1, len(new), 3)

    def corners(anchor: tuple[int, float, float, float], ltrb: torch.Tensor) -> torch.Tensor:
        _, x, y, cell = anchor
        left, top, right, bottom = (float(side) * cell for side in ltrb)
        return torch.tensor([x - left, y - top, x + right, y + bottom])

    for index, anchor in enumerate(new):
        away = [
            (anchor[1] - other[1]) ** 2 + (anchor[2] - other[2]) ** 2 if other[0] == anchor[0] else 9.0 for other in old
        ]
        nearest = [place for place, way in enumerate(away) if way <= min(away) + 1e-9]  # a tie allows several
        same = [place for place in nearest if torch.equal(got_logits[0, index], logits[0, place])]
        assert len(same) == 1
        expected = corners(old[same[0]], distances[0, same[0]])
        assert torch.allclose(corners(anchor, got_distances[0, index]), expected, atol=1e-5)


@pytest.mark.parametrize("text", ["", "[]", '{"key": "key"}', '{"version": 1}', "null"])
def test_a_damaged_description_is_no_complete_cache(tmp_path: Path, text: str) -> None:
    (tmp_path / "targets.json").write_text(text)
    assert not is_complete(tmp_path, "key")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: a fresh interpreter takes seconds to import torch")
def test_processes_that_start_at_once_share_one_cache(tmp_path: Path, views: Views) -> None:
    """Each lays out what is missing, then fills its chunk; no one wipes what another has written."""
    folder, teacher = tmp_path / "targets", small_teacher()
    waiting, go = os.pipe()
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(go)
                os.read(waiting, 1)  # ends for all of them when the parent closes its side
                create_targets(folder, teacher, COUNT, SIZE, len(NAMES))
                logits = np.load(folder / "logits.npy", mmap_mode="r+")
                logits[number * 8 : number * 8 + 8] = number + 1
                done = np.load(folder / "done.npy", mmap_mode="r+")
                done[number] = 1
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    os.close(waiting)
    assert create_targets(folder, teacher, COUNT, SIZE, len(NAMES)) == []
    written = np.load(folder / "logits.npy")
    assert (written == np.repeat([1, 2, 3, 4], 8)[:COUNT, None, None]).all()
    seal_targets(folder, "key", teacher)
    assert json.loads((folder / "targets.json").read_text())["channels"] == [32, 64, 128]
    assert open_targets(folder).channels == (32, 64, 128)
