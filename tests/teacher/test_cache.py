"""The chunked cache: finished, not started over; damage is found chunk by chunk; a full disk leaves nothing."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nasdistill.errors import InputError
from nasdistill.store import arrays as store_arrays
from nasdistill.store import room as store_room
from nasdistill.teacher import cache
from nasdistill.teacher.cache import ChunkedCache, bytes_per_view, is_complete, open_sealed, seal, to_fill

LAYOUT = {"answers": ((3, 2), "<f2"), "places": ((5,), "<u2")}
COUNT = 10


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHUNK", 4)


def make(folder: Path) -> ChunkedCache:
    return ChunkedCache(folder, LAYOUT, COUNT, {"colour": "blue"})


def fill(found: ChunkedCache, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Fill ranges with the views' numbers; returns those that were there to be filled."""
    arrays, filled = found.open("r+"), []
    for start, stop in to_fill([found], ranges):
        for name in LAYOUT:
            numbers = np.arange(start, stop).reshape(-1, *[1] * (arrays[name].ndim - 1))
            arrays[name][start:stop] = numbers
        found.finish(arrays, start)
        filled.append((start, stop))
    return filled


def whole(folder: Path) -> ChunkedCache:
    made = make(folder)
    fill(made, made.lay_out())
    seal(folder, "targets.json", {"key": "key"})
    return made


def test_filled_once_and_opened_as_described(tmp_path: Path) -> None:
    made = make(tmp_path / "c")
    ranges = made.lay_out()
    assert ranges == [(0, 4), (4, 8), (8, 10)]
    with pytest.raises(ValueError, match="parts of it are missing"):
        seal(made.folder, "targets.json", {})
    assert fill(made, ranges[:2]) == ranges[:2]
    assert make(made.folder).lay_out() == ranges[2:]
    assert fill(made, ranges) == ranges[2:]  # what is done is not done again
    seal(made.folder, "targets.json", {"key": "key"})
    opened, facts = open_sealed(made.folder)
    assert facts["colour"] == "blue" and opened.layout == LAYOUT and opened.count == COUNT
    assert opened.open()["places"][:, 0].tolist() == list(range(COUNT))
    assert is_complete(made.folder, "key") and not is_complete(made.folder, "other")


def test_bytes_are_what_lies_on_disk(tmp_path: Path) -> None:
    made = whole(tmp_path / "c")
    assert bytes_per_view(LAYOUT) == 3 * 2 * 2 + 5 * 2
    assert sum(array.nbytes for array in made.open().values()) == COUNT * bytes_per_view(LAYOUT)


def test_a_flipped_bit_costs_its_chunk_alone(tmp_path: Path) -> None:
    made = whole(tmp_path / "c")
    answers = np.load(made.folder / "answers.npy", mmap_mode="r+")
    answers[5, 1, 1] = 77
    answers.flush()
    assert not is_complete(made.folder, "key")
    assert make(made.folder).lay_out() == [(4, 8)]
    assert not (made.folder / "targets.json").exists()
    fill(made, [(4, 8)])
    seal(made.folder, "targets.json", {"key": "key"})
    assert is_complete(made.folder, "key")
    assert np.load(made.folder / "answers.npy")[5, 1, 1] == 5


@pytest.mark.parametrize("text", ["", "[]", '{"key": "key"}', "null", '{"key": "key", "layout": {"a": 3}, "count": 1}'])
@pytest.mark.parametrize("file", ["targets.json", "plan.json"])
def test_a_damaged_description(tmp_path: Path, file: str, text: str) -> None:
    made = whole(tmp_path / "c")
    (made.folder / file).write_text(text)
    if file == "targets.json":
        assert not is_complete(made.folder, "key")
    left = made.lay_out()
    assert left == ([] if file == "targets.json" or json.loads(text or "0") != 0 else [(0, 4), (4, 8), (8, 10)])


def test_chunks_of_others_are_left_to_them_and_waited_for(tmp_path: Path) -> None:
    made = make(tmp_path / "c")
    ranges = made.lay_out()
    other = make(made.folder)
    seen = []
    with other.claimed(0, wait=False) as mine:
        assert mine
        turns = to_fill([made], ranges)
        seen += [next(turns), next(turns)]
        with made.claimed(0, wait=False) as also_mine:
            assert not also_mine
    seen.append(next(turns))  # the other gave up: nobody has done it
    turns.close()
    assert seen == [(4, 8), (8, 10), (0, 4)]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = store_room.DISK_RESERVE + COUNT * bytes_per_view(LAYOUT) - 1
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store_room.shutil, "disk_usage", lambda path: usage._replace(free=free))
    with pytest.raises(InputError, match=r"the teacher's targets need 0 MB, the disk has \d+ MB free"):
        make(tmp_path / "c").lay_out()
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to ask for blocks on this system")
def test_a_disk_that_fills_up_meanwhile_leaves_no_half_written_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def full(descriptor: int, offset: int, length: int) -> None:
        calls.append(length)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_arrays.os, "posix_fallocate", full)
    with pytest.raises(InputError, match="the teacher's targets cannot be written \\(No space left on device\\)"):
        make(tmp_path / "c").lay_out()
    assert len(calls) == 2 and not (tmp_path / "c").exists()
