"""The demo boards: reproducible, with boxes that hold what a defect changes, and all six classes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from nasdistill.data.dataset import load_dataset
from nasdistill.data.defects import BOX_MARGIN, CLASS_NAMES
from nasdistill.data.demo import draw_board, make_demo
from nasdistill.errors import InputError


def test_boards_follow_their_seed() -> None:
    image, boxes = draw_board(0, "train", 5)
    again, boxes_again = draw_board(0, "train", 5)
    assert image.shape == (256, 256, 3) and image.dtype == np.uint8
    assert (image == again).all() and (boxes == boxes_again).all()
    for other in (
        draw_board(1, "train", 5),
        draw_board(0, "val", 5),
        draw_board(0, "teacher", 5),
        draw_board(0, "train", 6),
    ):
        assert (image != other[0]).mean() > 0.5


@pytest.mark.parametrize("index", range(40))
def test_boxes_hold_exactly_what_the_defects_change(index: int) -> None:
    board, boxes = draw_board(0, "train", index)
    clean, none = draw_board(0, "train", index, defects=False)
    assert none.shape == (0, 5)
    change = np.abs(board.astype(int) - clean).max(axis=2)
    outside = change.copy()
    for _, x1, y1, x2, y2 in boxes.astype(int):
        inside = change[y1:y2, x1:x2]
        ys, xs = np.nonzero(inside >= inside.max() * 0.5)
        # the strongest change comes near to every side: no box is larger than its defect asks for
        assert xs.min() <= BOX_MARGIN + 3 and ys.min() <= BOX_MARGIN + 3
        assert (x2 - x1) - xs.max() <= BOX_MARGIN + 4 and (y2 - y1) - ys.max() <= BOX_MARGIN + 4
        outside[y1:y2, x1:x2] = 0
    # blur and shading of the edges may just reach over a side
    assert outside.max() <= 0.35 * max(change.max(), 1)
    assert (boxes[:, 1:3] >= 0).all() and (boxes[:, 3:] <= 256).all()


def test_boards_are_varied_and_classes_even() -> None:
    boards = [draw_board(7, "train", index) for index in range(120)]
    boxes = np.concatenate([found for _, found in boards])
    counts = np.bincount(boxes[:, 0].astype(int), minlength=len(CLASS_NAMES))
    assert counts.min() > 0.6 * counts.mean()
    per_board = [len(found) for _, found in boards]
    assert min(per_board) >= 1 and max(per_board) <= 6
    sides = np.sqrt((boxes[:, 3:] - boxes[:, 1:3]).prod(axis=1))
    assert sides.min() >= 6 and sides.max() <= 40
    assert len({tuple(image.mean(axis=(0, 1)).astype(int) // 24) for image, _ in boards}) >= 8


@pytest.mark.parametrize("size", [64, 160, 384])
def test_other_sizes(size: int) -> None:
    image, boxes = draw_board(0, "val", 1, size)
    assert image.shape == (size, size, 3) and (boxes[:, 1:] <= size).all()


def test_set_is_written_once_and_is_the_same_everywhere(tmp_path: Path) -> None:
    path = make_demo(tmp_path / "one", seed=4, train=6, val=3)
    assert path == tmp_path / "one" / "data.yaml"
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*")}
    assert make_demo(tmp_path / "one", seed=4, train=6, val=3) == path
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "one").rglob("*")}
    make_demo(tmp_path / "two", seed=4, train=6, val=3)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert not list(tmp_path.glob(".*building"))
    readme = (tmp_path / "one" / "README.md").read_text()
    assert "synthetic" in readme and "seed=4" in readme


def test_set_loads_with_its_boxes(demo_yaml: Path) -> None:
    dataset = load_dataset(demo_yaml)
    assert dataset.names == CLASS_NAMES and dataset.problems == ()
    assert len(dataset.splits["train"]) == 24 and len(dataset.splits["val"]) == 12
    _, drawn = draw_board(0, "val", 3)
    read = dataset.splits["val"].boxes[3]
    half = read[:, 3:5] / 2
    corners = np.concatenate([read[:, 1:3] - half, read[:, 1:3] + half], axis=1) * 256
    np.testing.assert_allclose(corners, drawn[:, 1:], atol=1e-3)


def test_foreign_folders_and_other_arguments_are_refused(tmp_path: Path) -> None:
    make_demo(tmp_path / "set", train=2, val=1)
    with pytest.raises(InputError, match="made with other arguments"):
        make_demo(tmp_path / "set", train=3, val=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="exists and is no demo set"):
        make_demo(tmp_path / "mine", train=2, val=1)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    with pytest.raises(InputError, match="size 20"):
        make_demo(tmp_path / "other", size=20)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            total.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return total.hexdigest()
