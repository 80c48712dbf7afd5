"""The teacher's targets: computed once, finished after a crash, laid out anew when torn, shared by processes."""

import os
import sys
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CPU, NAMES, SIZE, fill_all, small_teacher, training_views

from nasdistill.data.views import Views
from nasdistill.space.families import STRIDES
from nasdistill.teacher import cache
from nasdistill.teacher.forms import TargetForm, anchor_count
from nasdistill.teacher.resample import resample
from nasdistill.teacher.targets import (
    create_targets,
    fill_targets,
    is_complete,
    open_targets,
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
    monkeypatch.setattr(cache, "CHUNK", 8)


@pytest.fixture(scope="module")
def whole_cache(views: Views, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a complete cache."""
    folder = tmp_path_factory.mktemp("whole") / "targets"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "CHUNK", 8)
        fill_all(folder, small_teacher(), views)
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def fill(folder: Path, views: Views, ranges: list[tuple[int, int]], **options: object) -> None:
    fill_targets({SIZE: folder}, small_teacher(), views, ORDER, ranges, CPU.device, None, **options)


def test_what_is_stored_is_what_the_teacher_says(tmp_path: Path, views: Views) -> None:
    teacher = small_teacher()
    folder = tmp_path / "targets"
    fill_all(folder, teacher, views)
    assert teacher.forward_passes == 4  # one a chunk of at most 16 views
    stored = open_targets(folder)
    assert stored.arrays["logits"].shape == (COUNT, anchor_count(SIZE, (8, 16, 32)), len(NAMES))
    indices = np.array([0, 7, 8, 29])
    batch = stored.batch(indices, anchor_count(SIZE, (8, 16, 32)))
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
    logits = open_targets(folder).arrays["logits"]
    assert np.array_equal(logits[:16], before)
    assert (np.abs(logits).max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape", "gone", "text"])
@pytest.mark.parametrize("array", ["logits", "attention", "done"])
def test_a_torn_array_is_noticed_and_laid_out_anew(
    tmp_path: Path, whole_cache: dict[str, bytes], array: str, damage: str
) -> None:
    folder, file = tmp_path / "targets", tmp_path / "targets" / f"{array}.npy"
    teacher = small_teacher()
    ranges = create_targets(folder, teacher, COUNT, SIZE, len(NAMES))
    for name, content in whole_cache.items():
        (folder / name).write_bytes(content)
    assert is_complete(folder, "key")
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "other shape":
        np.save(file, np.zeros((3, 4)))
    else:
        file.write_bytes({"cut": content[:-3], "empty": b"", "text": b"x" * len(content)}[damage])
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
        assert stored.arrays["logits"].shape == (COUNT, anchor_count(size, (8, 16, 32)), len(NAMES))
        assert np.load(folder / "done.npy").all()
    same, other = open_targets(folders[SIZE]), open_targets(folders[160])
    assert np.array_equal(same.arrays["attention"], other.arrays["attention"])


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


@pytest.mark.parametrize("to_size", [96, 64, 160, 256])
def test_levels_that_the_teacher_lacks_take_the_most_confident_answer_in_their_cell(to_size: int) -> None:
    """At P6 and P7: what is said comes from the teacher's P5, from the cell's own part of the image, the box in place."""
    old = anchors_of(SIZE)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, len(old), 3, generator=generator)
    distances = torch.rand(2, len(old), 4, generator=generator) * 4
    plain = resample(logits, distances, SIZE, to_size, (8, 16, 32))
    got_logits, got_distances = resample(logits, distances, SIZE, to_size, (8, 16, 32), STRIDES)
    assert got_logits.shape[1] == got_distances.shape[1] == anchor_count(to_size, STRIDES)
    first = anchor_count(to_size, (8, 16, 32))
    assert torch.equal(got_logits[:, :first], plain[0]) and torch.equal(got_distances[:, :first], plain[1])
    index = first
    coarsest = [(place, x * to_size, y * to_size) for place, (level, x, y, _) in enumerate(old) if level == 2]
    for stride in (64, 128):
        cells = -(-to_size // stride)
        for row in range(cells):
            for column in range(cells):
                left, top = column * stride, row * stride
                inside = [place for place, x, y in coarsest if left <= x < left + stride and top <= y < top + stride]
                for image in range(2):
                    said = got_logits[image, index]
                    sources = [place for place, _, _ in coarsest if torch.equal(logits[image, place], said)]
                    assert len(sources) == 1, "nothing is averaged or made up"
                    if inside and SIZE * stride // 32 % to_size == 0:  # the grids fit: all of them are looked at
                        best = max(inside, key=lambda place, image=image: float(logits[image, place].max()))
                        assert sources == [best]
                    _, x, y, cell = old[sources[0]]
                    centre = torch.tensor([column + 0.5, row + 0.5]) * stride
                    theirs = torch.tensor([x, y]) * to_size
                    ltrb = distances[image, sources[0]] * cell * to_size
                    mine = got_distances[image, index] * stride
                    assert torch.allclose(centre - mine[:2], theirs - ltrb[:2], atol=1e-3)
                    assert torch.allclose(centre + mine[2:], theirs + ltrb[2:], atol=1e-3)
                index += 1


def test_a_teacher_with_p6_answers_there_itself() -> None:
    logits, distances = torch.randn(1, anchor_count(128, (8, 16, 32, 64)), 2), torch.rand(1, 340, 4)
    got = resample(logits, distances, 128, 128, (8, 16, 32, 64), STRIDES)
    assert torch.equal(got[0][:, :340], logits) and torch.equal(got[1][:, :340], distances)
    best = logits[0, -4:].amax(dim=1).argmax()
    assert torch.equal(got[0][0, 340], logits[0, -4:][best])


def test_a_batch_is_read_for_the_levels_it_is_wanted_for(tmp_path: Path, views: Views) -> None:
    folder, teacher = tmp_path / "targets", small_teacher()
    fill_all(folder, teacher, views, TargetForm(bins=True, spatial=True, levels=5))
    stored, indices = open_targets(folder), np.array([3, 1])
    everything, few = stored.batch(indices), stored.batch(indices, anchor_count(SIZE, (8, 16, 32)))
    assert everything.logits_bac.shape[1] == anchor_count(SIZE, STRIDES) > few.logits_bac.shape[1] == 189
    for name in ("logits_bac", "distances_ba4", "bins_bar"):
        assert torch.equal(getattr(everything.leading(189), name), getattr(few, name)), name
    assert [tuple(level.shape) for level in few.spatial] == [(2, 12, 12), (2, 6, 6), (2, 3, 3)]
    assert few.leading(189) is few


def test_fewer_levels_are_the_same_without_the_coarsest(tmp_path: Path, views: Views) -> None:
    """What a three-level student reads does not depend on the other families of the space."""
    teacher = small_teacher()
    for levels in (3, 5):
        fill_all(tmp_path / str(levels), teacher, views, TargetForm(bins=True, levels=levels))
    three, five = open_targets(tmp_path / "3"), open_targets(tmp_path / "5")
    indices = np.array([2, 9])
    plain, cut = three.batch(indices), five.batch(indices, 189)
    for name in ("logits_bac", "distances_ba4", "bins_bar"):
        assert torch.equal(getattr(plain, name), getattr(cut, name)), name
    with pytest.raises(ValueError, match="194 anchor points asked for, the targets have 189"):
        three.batch(indices, anchor_count(SIZE, STRIDES))


def test_sparse_anchors_beyond_a_student_s_levels_fall_silent(tmp_path: Path, views: Views) -> None:
    folder, teacher = tmp_path / "targets", small_teacher()
    fill_all(folder, teacher, views, TargetForm(sparse=True, levels=5))
    stored, indices = open_targets(folder), np.arange(COUNT)
    everything, few = stored.batch(indices), stored.batch(indices, 189)
    beyond = everything.anchors_ba >= 189
    assert beyond.any() and not beyond.all(), "P6 repeats the most confident of P5, so some of them are kept"
    assert few.anchors_ba.max() < 189
    assert torch.equal(few.logits_bac[~beyond], everything.logits_bac[~beyond])
    assert torch.equal(few.anchors_ba[~beyond], everything.anchors_ba[~beyond])
    assert few.logits_bac.sigmoid()[beyond].max() < 1e-30


@pytest.mark.parametrize("text", ["", "[]", '{"key": "key"}', '{"version": 1}', "null"])
def test_a_damaged_description_is_no_complete_cache(tmp_path: Path, text: str) -> None:
    (tmp_path / "targets.json").write_text(text)
    assert not is_complete(tmp_path, "key")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: a fresh interpreter takes seconds to import torch")
def test_processes_that_start_at_once_share_one_cache(
    tmp_path: Path, views: Views, whole_cache: dict[str, bytes]
) -> None:
    """Each lays out what is missing and is told to fill all; together they do it once, and none ends before it is done."""
    folder, teacher = tmp_path / "targets", small_teacher()
    waiting, go = os.pipe()
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(go)
                os.read(waiting, 1)  # ends for all of them when the parent closes its side
                create_targets(folder, teacher, COUNT, SIZE, len(NAMES))
                fill(folder, views, [(start, min(COUNT, start + 8)) for start in range(0, COUNT, 8)])
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    os.close(waiting)
    assert create_targets(folder, teacher, COUNT, SIZE, len(NAMES)) == []
    seal_targets(folder, "key", teacher)
    assert is_complete(folder, "key")
    assert not (folder / "locks").exists()
    whole, stored = open_targets(folder), np.frombuffer(whole_cache["logits.npy"], np.uint8)
    assert np.array_equal(np.fromfile(folder / "logits.npy", np.uint8), stored)
    assert whole.channels == (32, 64, 128) and whole.cells == (144, 36, 9)
