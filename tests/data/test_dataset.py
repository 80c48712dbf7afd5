"""Loading and checking data sets: every way to name images, and each kind of bad input once."""

import dataclasses
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from nasdistill.data.dataset import dataset_hash, label_path, load_dataset
from nasdistill.data.images import read_content
from nasdistill.errors import InputError

GOOD = "0 0.5 0.5 0.25 0.5\n"


def write_set(
    folder: Path, count: int = 2, yaml: str | None = None, splits: tuple[str, ...] = ("train", "val")
) -> Path:
    rng = np.random.default_rng(0)
    for split in splits:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            cv2.imwrite(str(folder / "images" / split / f"{index:03}.png"), rng.integers(0, 255, (24, 32, 3), np.uint8))
            (folder / "labels" / split / f"{index:03}.txt").write_text(GOOD)
    path = folder / "data.yaml"
    path.write_text(yaml or "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return path


def message_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_loads_folders_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[int, int]] = []
    dataset = load_dataset("set/data.yaml", lambda done, total: calls.append((done, total)))
    assert dataset.names == ("cat", "dog") and dataset.problems == ()
    assert set(dataset.splits) == {"train", "val"}
    assert [path.name for path in dataset.splits["train"].image_paths] == ["000.png", "001.png"]
    assert all(path.is_absolute() for path in dataset.splits["train"].image_paths)
    boxes = dataset.splits["val"].boxes[0]
    assert boxes.dtype == np.float32 and boxes.tolist() == [[0, 0.5, 0.5, 0.25, 0.5]]
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("root", [".", "..", "{absolute}"])
def test_path_key(tmp_path: Path, root: str) -> None:
    folder = tmp_path / "set"
    path = write_set(folder)
    prefix = "set/" if root == ".." else ""
    root = root.format(absolute=folder)
    path.write_text(
        f"path: {root}\nval: {prefix}images/val\nnames: {{0: cat, 1: dog}}\nnc: 2\ndownload: rm -rf nothing\n"
    )
    assert len(load_dataset(path).splits["val"]) == 2


def test_lists_of_images_and_mixed_lists(tmp_path: Path) -> None:
    path = write_set(tmp_path, splits=("train", "val", "extra"))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.txt").write_text(
        f"../images/train/000.png\n\n{tmp_path}/images/train/001.png\n../images/train/../train/000.png\n"
    )
    (tmp_path / "val.txt").write_text("./images/val/001.png\n")
    path.write_text("train: [lists/some.txt, images/extra]\nval: val.txt\nnames: [cat, dog]\n")
    dataset = load_dataset(path)
    assert [str(p.relative_to(tmp_path)) for p in dataset.splits["train"].image_paths] == [
        "images/extra/000.png",
        "images/extra/001.png",
        "images/train/000.png",
        "images/train/001.png",
    ]
    assert len(dataset.splits["val"].boxes[0]) == 1


def test_a_test_split_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    path.write_text("val: images/val\ntest: images/test\nnames: [cat, dog]\n")
    dataset = load_dataset(path)
    assert set(dataset.splits) == {"val"}
    assert dataset.problems == (f"{path}: test: {tmp_path}/images/test does not exist; the split is left out",)


def test_a_wrong_leading_dot_dot_is_forgiven(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    path.write_text("train: ../images/train\nval: ../images/val\nnames: [cat, dog]\n")
    dataset = load_dataset(path)
    assert len(dataset.splits["train"]) == 2 and len(dataset.splits["val"].boxes[0]) == 1


def test_label_path_follows_the_last_images_folder() -> None:
    assert label_path(Path("/a/images/b/images/c/d.jpeg")) == Path("/a/images/b/labels/c/d.txt")
    assert label_path(Path("/a/images.jpg")) == Path("/a/images.txt")
    assert label_path(Path("/a/my_images/x.v1.png")) == Path("/a/my_images/x.v1.txt")


def test_an_image_without_a_label_file_is_background(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    (tmp_path / "labels" / "val" / "000.txt").unlink()
    dataset = load_dataset(path)
    assert [boxes.shape for boxes in dataset.splits["val"].boxes] == [(0, 5), (1, 5)] and dataset.problems == ()


def test_validation_images_without_any_label_are_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    (tmp_path / "labels" / "train").rename(tmp_path / "labels" / "nowhere")
    assert not sum(map(len, load_dataset(path).splits["train"].boxes)), "the teacher alone may teach"
    (tmp_path / "labels" / "val").rename(tmp_path / "labels" / "elsewhere")
    first = tmp_path / "labels" / "val" / "000.txt"
    with pytest.raises(
        InputError, match=re.escape(f"{path}: val: none of the 2 images has a label; {first}, say, was")
    ):
        load_dataset(path)


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("val: images/val\nnames: [a\nb: 1\n", ", line "),
        ("- 1\n", "expected keys such as 'val' and 'names', got list"),
        ("", "expected keys such as 'val' and 'names', got NoneType"),
        ("train: images/train\nnames: [a, b]\n", "key 'val' must name the validation images, got None"),
        ("val: images/none\nnames: [a, b]\n", "no such folder or .txt list of images"),
        ("val: data.yaml\nnames: [a, b]\n", "neither a folder nor a .txt list"),
        ("val: [3]\nnames: [a, b]\n", "expected a folder or a .txt list of images, got 3"),
        ("val: images/val\n", "key 'names' must be a list or a mapping of class names, got None"),
        ("val: images/val\nnames: []\n", "key 'names' must be a list"),
        ("val: images/val\nnames: {0: a, 2: b}\n", "keys of 'names' must be 0..1 without a gap, got [0, 2]"),
        ("val: images/val\nnames: {a: 0}\n", "keys of 'names' must be 0, 1, 2, …, got ['a']"),
        ("val: images/val\nnames: [a, a]\n", "holds a class name twice"),
        ("val: images/val\nnames: [a, null]\n", "must be a class name"),
        ("val: images/val\nnames: [a, b]\nnc: 3\n", "'nc' is 3, but 'names' has 2 entries"),
        ("val: images/val\nnames: [a, b]\npath: 3\n", "key 'path' must be a path, got 3"),
        ("val: images/val\nnames: [a, b]\nkpt_shape: 17\n", "key 'kpt_shape' must be [keypoints, 2 or 3], got 17"),
    ],
)
def test_bad_yaml(tmp_path: Path, yaml: str, expected: str) -> None:
    path = write_set(tmp_path)
    path.write_text(yaml)
    message = message_of(path)
    assert expected in message and str(path) in message


def test_missing_yaml_and_empty_split(tmp_path: Path) -> None:
    assert "no such data.yaml file" in message_of(tmp_path / "data.yaml")
    path = write_set(tmp_path)
    (tmp_path / "empty").mkdir()
    path.write_text("val: empty\nnames: [a, b]\n")
    assert f"{path}: val: no images found in {tmp_path}" in message_of(path)


def test_a_list_that_names_no_image(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    (tmp_path / "val.txt").write_text("images/val/000.png\nREADME\n")
    path.write_text("val: val.txt\nnames: [a, b]\n")
    assert "val.txt, line 2: 'README' is no image" in message_of(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of 0..1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not one of 0..1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not one of 0..1"),
        ("0 0.5 0.5 0.1", "expected a class and 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "expected a class and 4 numbers"),
        ("0 0.5 1.5 0.1 0.1", "box value 1.5 outside 0..1"),
        ("0 -0.5 0.5 0.1 0.1", "box value -0.5 outside 0..1"),
        ("0 0.5 0.5 0 0.1", "box has no area: width 0, height 0.1"),
        ("0 1.009 0.5 0.01 0.1", "box lies outside the image: centre 1.009, 0.5, width 0.01, height 0.1"),
        ("0 0.5 0.5 nan 0.1", "a value is not finite"),
        ("0 0.5 0.5 inf 0.1", "a value is not finite"),
        ("cat 0.5 0.5 0.1 0.1", "not all numbers: 'cat 0.5 0.5 0.1 0.1'"),
    ],
)
def test_bad_label_lines_are_skipped_named_and_counted(tmp_path: Path, line: str, expected: str) -> None:
    path = write_set(tmp_path, count=20)
    label = tmp_path / "labels" / "val" / "003.txt"
    label.write_text(GOOD + line + "\n")
    dataset = load_dataset(path)
    assert len(dataset.problems) == 1
    assert dataset.problems[0].startswith(f"{label}, line 2: ") and expected in dataset.problems[0]
    assert dataset.splits["val"].boxes[3].tolist() == [[0, 0.5, 0.5, 0.25, 0.5]]


def test_more_than_a_twentieth_of_bad_lines_is_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path, count=4)
    (tmp_path / "labels" / "val" / "001.txt").write_text("7 0.5 0.5 0.1 0.1\n")
    message = message_of(path)
    assert "val: 1 of 4 label lines are bad (at most 5% may be), first: " in message
    assert "001.txt, line 1: class 7 is not one of 0..1" in message


def test_truncated_images_are_skipped_or_refused(tmp_path: Path) -> None:
    path = write_set(tmp_path, count=20)
    rng = np.random.default_rng(1)
    bad = tmp_path / "images" / "val" / "005.png"
    bad.write_bytes(bad.read_bytes()[:-40])
    dataset = load_dataset(path)
    assert dataset.problems == (f"{bad}: not a readable image, or a truncated one",)
    assert len(dataset.splits["val"]) == 19 and bad not in dataset.splits["val"].image_paths
    photo = tmp_path / "images" / "val" / "020.jpg"
    cv2.imwrite(str(photo), rng.integers(0, 255, (64, 64, 3), np.uint8))
    photo.write_bytes(photo.read_bytes()[:2000])
    message = message_of(path)
    assert "val: 2 of 21 images are bad" in message and str(bad) in message


def test_outlines_become_boxes_and_slight_overshoot_is_clipped(tmp_path: Path) -> None:
    path = write_set(tmp_path, count=1)
    (tmp_path / "labels" / "val" / "000.txt").write_text("1 0.1 0.2 0.5 0.2 0.3 0.6\n0 0.995 0.5 0.02 0.5\n")
    boxes = load_dataset(path).splits["val"].boxes[0]
    np.testing.assert_allclose(boxes, [[1, 0.3, 0.4, 0.4, 0.4], [0, 0.9925, 0.5, 0.015, 0.5]], atol=1e-6)


def test_outlines_may_reach_over_the_edge_as_boxes_may(tmp_path: Path) -> None:
    path = write_set(tmp_path, count=1)
    outline = "0 -0.02 0.1 0.3 0.1 0.3 0.4 -0.02 0.4\n"
    (tmp_path / "labels" / "val" / "000.txt").write_text(outline + "0 0.14 0.25 0.32 0.3\n")
    dataset = load_dataset(path)
    assert dataset.problems == ()
    np.testing.assert_allclose(dataset.splits["val"].boxes[0], [[0, 0.15, 0.25, 0.3, 0.3]] * 2, atol=1e-6)
    (tmp_path / "labels" / "val" / "000.txt").write_text("0 10 10 30 10 30 40\n")  # in pixels
    assert "box value 30 outside 0..1" in message_of(path)


@pytest.mark.parametrize(("shape", "points"), [("[12, 2]", 24), ("[4, 3]", 12)])
def test_keypoints_are_left_out(tmp_path: Path, shape: str, points: int) -> None:
    """Those that are not seen lie at 0, 0: read as an outline, every box would reach to the corner."""
    path = write_set(tmp_path, count=1)
    path.write_text(path.read_text() + f"kpt_shape: {shape}\n")
    (tmp_path / "labels" / "val" / "000.txt").write_text("1 0.5 0.5 0.4 0.3" + " 0" * points + "\n" + GOOD)
    dataset = load_dataset(path)
    assert dataset.problems == ()
    np.testing.assert_allclose(dataset.splits["val"].boxes[0], [[1, 0.5, 0.5, 0.4, 0.3], [0, 0.5, 0.5, 0.25, 0.5]])


def test_only_the_named_splits_are_looked_at(tmp_path: Path) -> None:
    """Many a data.yaml lists test images that nobody downloaded."""
    path = write_set(tmp_path)
    (tmp_path / "test.txt").write_text("images/test/000.png\n")
    path.write_text("train: images/train\nvalidation: images/val\ntest: test.txt\nnames: [cat, dog]\n")
    assert "test: 1 of 1 images are bad" in message_of(path)
    dataset = load_dataset(path, splits=("train", "val"))
    assert set(dataset.splits) == {"train", "val"} and dataset.problems == ()


def test_hash_follows_content_only(tmp_path: Path) -> None:
    first, second = load_dataset(write_set(tmp_path / "a")), load_dataset(write_set(tmp_path / "b"))
    reread = dataclasses.replace(first, splits={k: dataclasses.replace(s, digests=()) for k, s in first.splits.items()})
    assert dataset_hash(first) == dataset_hash(reread)
    assert dataset_hash(first) == dataset_hash(second) and len(dataset_hash(first)) == 64
    assert dataset_hash(first) != dataset_hash(first, ("val",))
    (tmp_path / "b" / "labels" / "val" / "001.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    changed = load_dataset(tmp_path / "b" / "data.yaml")
    assert dataset_hash(first) != dataset_hash(changed) and dataset_hash(first, ("train",)) == dataset_hash(
        changed, ("train",)
    )
    os.utime(tmp_path / "a" / "images" / "val" / "000.png", (0, 0))
    assert dataset_hash(load_dataset(tmp_path / "a" / "data.yaml")) == dataset_hash(first)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("aerialcars", {"train": (438, 4076), "val": (48, 440), "test": (106, 1005)}),
        ("bccd", {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}),
        ("coco256", {"train": (128, 926), "val": (64, 394), "test": (64, 504)}),
        ("deeppcb", {"train": (852, 5832), "val": (148, 1041), "test": (500, 3140)}),
    ],
)
def test_shared_sets_hold_what_their_readmes_say(
    shared_dir: Path, name: str, counts: dict[str, tuple[int, int]]
) -> None:
    dataset = load_dataset(shared_dir / "data" / name / "data.yaml")
    for split, (images, boxes) in counts.items():
        if split in dataset.splits:
            assert len(dataset.splits[split]) == images
            assert sum(map(len, dataset.splits[split].boxes)) == boxes
    assert {"train", "val"} <= set(dataset.splits)
    assert dataset.problems == ()


class TestRemembered:
    """Images that an earlier command found whole."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        path = write_set(tmp_path / "set")
        for image in path.parent.glob("images/*/*.png"):
            os.utime(image, (1e9, 1e9))
        return path

    def test_they_are_not_read_again_and_say_the_same(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        memory, read = data.parent / "cache" / "memory.json", []

        def reading(path: Path) -> np.ndarray:
            read.append(path.name)
            return read_content(path)

        monkeypatch.setattr("nasdistill.data.dataset.read_content", reading)
        first, again = (load_dataset(data, remembered=memory) for _ in range(2))
        assert len(read) == 4 and dataset_hash(first) == dataset_hash(again)
        assert again.splits["val"].digests == first.splits["val"].digests
        (data.parent / "labels/val/000.txt").write_text("1 0.5 0.5 0.25 0.5\n")
        assert load_dataset(data, remembered=memory).splits["val"].boxes[0][0, 0] == 1, "labels are"
        memory.write_text(memory.read_text()[:-20])
        assert dataset_hash(load_dataset(data, remembered=memory)) != dataset_hash(first) and len(read) == 8

    def test_what_changed_is(self, data: Path) -> None:
        memory, image = data.parent / "memory.json", data.parent / "images/val/000.png"
        before = dataset_hash(load_dataset(data, remembered=memory))
        content = image.read_bytes()
        image.write_bytes(content[:-40])
        assert "val: 1 of 2 images are bad" in str(
            pytest.raises(InputError, load_dataset, data, remembered=memory).value
        )
        cv2.imwrite(str(image), np.zeros((24, 32, 3), np.uint8))
        changed = load_dataset(data, remembered=memory)
        assert dataset_hash(changed) != before
        # and as it was just written, it is looked at again, whatever its time of change says
        assert str(image) not in json.loads(memory.read_text()) and len(json.loads(memory.read_text())) == 3
