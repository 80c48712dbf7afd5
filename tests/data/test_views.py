"""The pool of views: boxes that follow their pixels, the same pool from the same seed, and pools that are shared."""

import multiprocessing
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdistill.data import views as views_module
from nasdistill.data.augment import Source, ViewPolicy, box_rows, draw_view
from nasdistill.data.dataset import Split, load_dataset
from nasdistill.data.views import Views, build_views, closing_views, letterboxed_split, open_views, view_key
from nasdistill.errors import InputError

PLAIN = ViewPolicy(p_mosaic=0, p_mixup=0, p_hsv=0, p_erase=0, p_flip_horizontal=0, scale=0, translate=0, close_share=0)
NAMES = ("open", "short", "mousebite", "spur", "spurious_copper", "pin_hole")


@pytest.fixture(scope="module")
def split(demo_yaml: Path) -> Split:
    return load_dataset(demo_yaml).splits["train"]


def build(split: Split, folder: Path, count: int = 30, **changes: object) -> Views:
    arguments: dict[str, object] = {"size": 96, "count": count, "policy": ViewPolicy(), "seed": 3} | changes
    return build_views(split, NAMES, folder=folder, **arguments)  # type: ignore[arg-type]


def bright_source(seed: int, size: int = 128, kind: int = 0) -> Source:
    """A dark image of 128 x 96 in its square with one white rectangle, and its box; of odd seeds one of 96 x 128."""
    rng = np.random.default_rng(seed)
    top = (size - 96) // 2
    image = np.full((size, size, 3), 114, np.uint8)
    image[top : top + 96] = 10
    x1, y1 = int(rng.integers(4, 80)), int(rng.integers(top + 4, 80))
    x2, y2 = x1 + int(rng.integers(10, 40)), y1 + int(rng.integers(10, 28))
    image[y1:y2, x1:x2] = 255
    box = np.array([[kind, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]]) / [1, size, size, size, size]
    if seed % 2:
        image = image.transpose(1, 0, 2).copy()
        return Source(image, (top, 0, top + 96, size), box_rows(box[:, [0, 2, 1, 4, 3]], size))
    return Source(image, (0, top, size, top + 96), box_rows(box, size))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6), mosaic=st.booleans())
def test_a_box_encloses_its_pixels(seed: int, mosaic: bool) -> None:
    policy = ViewPolicy(p_mosaic=float(mosaic), p_mixup=0, p_hsv=0, p_erase=0, p_flip_vertical=0.5)
    sources = [bright_source(seed + k) for k in range(4)]
    image, labels = draw_view(sources.__getitem__, 4, 0, False, policy, np.random.default_rng(seed))
    bright = image[..., 0] > 180
    covered = np.zeros_like(bright)
    for _, x, y, w, h in labels:
        x1, x2, y1, y2 = ((x - w / 2) * 128, (x + w / 2) * 128, (y - h / 2) * 128, (y + h / 2) * 128)
        assert -1e-3 <= x1 < x2 <= 128.001 and -1e-3 <= y1 < y2 <= 128.001
        assert x2 - x1 >= 2 - 1e-3 and y2 - y1 >= 2 - 1e-3
        rows, columns = slice(max(0, round(y1) - 1), round(y2) + 1), slice(max(0, round(x1) - 1), round(x2) + 1)
        covered[rows, columns] = True
        ys, xs = np.nonzero(bright[rows, columns])
        assert len(xs), "a box without its object"
        # tight as well: bright pixels reach to within 2 px of every side
        assert xs.min() <= 2 and ys.min() <= 2
        assert xs.max() + 1 >= (columns.stop - columns.start) - 3 and ys.max() + 1 >= (rows.stop - rows.start) - 3
    if not mosaic:  # what is bright and in no box is a sliver of an object that was cut off
        assert (bright & ~covered).sum() <= 0.2 * (1.5**2) * 40 * 28 + 2 * 130


def test_flips_scale_and_shift_move_boxes_exactly() -> None:
    source = bright_source(5)
    plain, labels = draw_view([source].__getitem__, 1, 0, False, PLAIN, np.random.default_rng(0))
    assert (plain == source.image).all()
    np.testing.assert_allclose(box_rows(labels, 128), source.rows, atol=1e-4)
    both = PLAIN.model_copy(update={"p_flip_horizontal": 1.0, "p_flip_vertical": 1.0})
    turned, labels = draw_view([source].__getitem__, 1, 0, False, both, np.random.default_rng(0))
    assert (turned == source.image[::-1, ::-1]).all()
    expected = 128 - source.rows[:, [3, 4, 1, 2]]
    np.testing.assert_allclose(box_rows(labels, 128)[:, 1:5], expected, atol=1e-4)
    for key, turned in (("p_flip_horizontal", source.image[:, ::-1]), ("p_flip_vertical", source.image[::-1])):
        one = PLAIN.model_copy(update={key: 1.0})
        assert (draw_view([source].__getitem__, 1, 0, False, one, np.random.default_rng(0))[0] == turned).all(), key


def test_a_mosaic_shows_four_images_and_a_closing_view_one() -> None:
    sources = [bright_source(number, kind=number) for number in range(4)]
    policy = PLAIN.model_copy(update={"p_mosaic": 1.0})

    def kinds(closing: bool) -> set[int]:
        views = (draw_view(sources.__getitem__, 4, 0, closing, policy, np.random.default_rng(n)) for n in range(60))
        return {int(kind) for _, labels in views for kind in labels[:, 0]}

    assert kinds(False) == {0, 1, 2, 3} and kinds(True) == {0}


@pytest.mark.parametrize(("shape", "inner"), [((40, 80), (0, 24, 96, 72)), ((80, 40), (24, 0, 72, 96))])
def test_where_an_image_lies_in_its_square(tmp_path: Path, shape: tuple[int, int], inner: tuple[int, ...]) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((*shape, 3), np.uint8))
    split = Split((tmp_path / "a.png",), (np.zeros((0, 5), np.float32),))
    square, found, _ = views_module._letterboxed(split, 0, 96)
    ys, xs = np.nonzero(square[..., 0] == 0)
    assert found == inner == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_mixup_keeps_both_sets_of_boxes_and_erasing_drops_hidden_ones() -> None:
    sources = [bright_source(2), bright_source(4)]
    mixed = PLAIN.model_copy(update={"p_mixup": 1.0})
    image, labels = draw_view(sources.__getitem__, 2, 0, False, mixed, np.random.default_rng(0))
    assert len(labels) == 2
    first, second = (source.image[..., 0] == 255 for source in sources)
    assert 100 < image[first & ~second].mean() < 200 and 100 < image[second & ~first].mean() < 200, "about half of each"
    _, labels = draw_view(sources.__getitem__, 2, 0, True, mixed, np.random.default_rng(0))
    assert len(labels) == 1, "a closing view is never mixed"
    erased = PLAIN.model_copy(update={"p_erase": 1.0})
    kept = [
        len(draw_view(sources.__getitem__, 2, 0, False, erased, np.random.default_rng(seed))[1]) for seed in range(200)
    ]
    assert 0 < kept.count(0) < 60


def test_cutmix_keeps_boxes_of_what_can_be_seen() -> None:
    """A red object in the view, a green one in the second: boxes are there and as large as what is seen of each."""
    sources = []
    for kind, (x, y) in enumerate([(20, 30), (70, 60)]):
        image = np.zeros((128, 128, 3), np.uint8)
        image[y : y + 30, x : x + 40, kind] = 255
        rows = np.array([[kind, x, y, x + 40, y + 30, 40 * 30]], np.float64)
        sources.append(Source(image, (0, 0, 128, 128), rows))
    # the second view is drawn at random from both: seeds that drew the first again show nothing green
    cut = PLAIN.model_copy(update={"p_cutmix": 1.0})
    seen = {"red": 0, "hidden": 0, "green": 0}
    for seed in range(120):
        view, labels = draw_view(sources.__getitem__, 2, 0, False, cut, np.random.default_rng(seed))
        red, green = view[..., 0] > 128, view[..., 1] > 128
        kinds = labels[:, 0].tolist()
        if not green.any() and kinds.count(0) == 2:
            continue  # mixed with itself
        assert (0 in kinds) == (red.sum() >= 0.5 * 40 * 30) or red.sum() == 40 * 30
        seen["red" if 0 in kinds else "hidden"] += 1
        for row in box_rows(labels[labels[:, 0] == 1], 128):
            rows, columns = np.flatnonzero(green.any(axis=1)), np.flatnonzero(green.any(axis=0))
            tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            np.testing.assert_allclose(row[1:5], tight, atol=1e-3)
            seen["green"] += 1
    assert all(count > 5 for count in seen.values()), seen
    _, labels = draw_view(sources.__getitem__, 2, 0, True, cut, np.random.default_rng(0))
    assert labels[:, 0].tolist() == [0], "a closing view is never mixed"


def test_all_views_of_a_light_policy_are_light(split: Split, tmp_path: Path) -> None:
    assert build(split, tmp_path / "light", policy=PLAIN).closing.all()
    heavy = build(
        split, tmp_path / "heavy", policy=PLAIN.model_copy(update={"p_cutmix": 0.5, "close_share": 0.5})
    ).closing
    assert heavy.any() and not heavy.all()


def test_colours_change_within_limits() -> None:
    source = bright_source(1)
    colourful = Source(np.full((64, 64, 3), (200, 80, 40), np.uint8), (0, 0, 64, 64), source.rows[:0])
    policy = PLAIN.model_copy(update={"p_hsv": 1.0})
    views = [draw_view([colourful].__getitem__, 1, 0, False, policy, np.random.default_rng(s))[0] for s in range(20)]
    assert len({view[0, 0].tobytes() for view in views}) > 10
    assert all(view[..., 0].max() > view[..., 2].max() for view in views), "the hue moves a little only"


def test_pool_is_the_same_whatever_the_number_of_workers(split: Split, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    one = build(split, tmp_path / "one", on_progress=lambda done, total: calls.append((done, total)))
    four = build(split, tmp_path / "four", workers=4)
    longer = build(split, tmp_path / "longer", count=40, policy=ViewPolicy(close_share=0.0))
    other = build(split, tmp_path / "other", seed=4)
    assert calls[-1] == (30, 30) and len(calls) == 30
    assert one.images.shape == (30, 3, 96, 96) and one.images.dtype == np.uint8 and one.size == 96
    assert (one.images[:] == four.images[:]).all() and (one.cls_boxes == four.cls_boxes).all()
    assert (one.images[:] != other.images[:]).any()
    same = ~one.closing
    assert same.any() and (one.images[:][same] == longer.images[:30][same]).all()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["images.npy", "labels.npz", "views.json"]


def test_views_open_as_they_were_built(split: Split, tmp_path: Path) -> None:
    built = build(split, tmp_path / "pool")
    opened = open_views(tmp_path / "pool")
    assert isinstance(opened.images, np.memmap) and not opened.images.flags.writeable
    assert (opened.images[:] == built.images[:]).all() and opened.names == NAMES and len(opened) == 30
    labels = opened.batch_labels(np.array([2, 7, 3]))
    assert {key: value.dtype.name for key, value in labels.items()} == dict.fromkeys(labels, "float32")
    for place, index in enumerate([2, 7, 3]):
        rows = labels["batch_idx"] == place
        np.testing.assert_array_equal(
            np.concatenate([labels["cls"][rows], labels["bboxes"][rows]], axis=1), opened.boxes(index)
        )
    empty = opened.batch_labels([])
    assert empty["cls"].shape == (0, 1) and empty["bboxes"].shape == (0, 4) and empty["batch_idx"].shape == (0,)


@given(images=st.integers(1, 12), count=st.integers(1, 60), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_closing_views_are_the_last_share_of_each_image(images: int, count: int, share: float, seed: int) -> None:
    closing = closing_views(images, count, share, seed)
    for image in range(images):
        mine = closing[image::images]
        assert list(mine) == sorted(mine), "closing views come last"
        assert abs(mine.sum() - share * len(mine)) <= 1 + 1e-9


def test_a_pool_that_is_there_is_not_built_again(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(split, tmp_path / "pool")
    monkeypatch.setattr(views_module, "draw_view", None)  # would raise if it were called
    again = build(split, tmp_path / "pool")
    assert len(again) == 30
    with pytest.raises(TypeError):
        build(split, tmp_path / "pool", seed=9)
    assert not (tmp_path / ".pool.building").exists()
    assert len(open_views(tmp_path / "pool")) == 30, "a failed rebuild leaves the old pool alone"


@pytest.mark.parametrize("damage", ["views.json", "labels.npz", "images.npy"])
def test_a_half_built_pool_is_rebuilt(split: Split, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "pool"
    whole = np.array(build(split, folder).images)
    if damage == "views.json":
        (folder / damage).unlink()
    else:
        content = (folder / damage).read_bytes()
        (folder / damage).write_bytes(content[: len(content) // 2])
    (tmp_path / ".pool.building").mkdir()
    (tmp_path / ".pool.building" / "images.npy").write_bytes(b"left over")
    with pytest.raises(FileNotFoundError):
        open_views(folder)
    assert (build(split, folder).images[:] == whole).all()


def _build_in_process(folder: Path, split: Split, barrier: object, answers: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    progress: list[int] = []
    views = build(split, folder, on_progress=lambda done, total: progress.append(done))
    answers.put((len(progress), int(views.images[:].astype(np.int64).sum())))  # type: ignore[attr-defined]


def test_two_processes_may_ask_at_once(split: Split, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_build_in_process, args=(tmp_path / "pool", split, barrier, answers)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    found = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert [built for built, _ in found] == [0, 30], "one of them builds, the other one opens"
    assert found[0][1] == found[1][1]


def test_letterboxed_split_keeps_images_and_moves_boxes(shared_dir: Path, tmp_path: Path) -> None:
    whole = load_dataset(shared_dir / "data" / "bccd" / "data.yaml").splits["val"]
    split = Split(whole.image_paths[:5], whole.boxes[:5])
    views = letterboxed_split(split, ("RBC", "WBC", "Platelets"), 160, tmp_path / "val")
    assert views.images.shape == (5, 3, 160, 160) and views.closing.all()
    assert (np.array(views.images[:, :, :20]) == 114).all() and (np.array(views.images[:, :, 140:]) == 114).all()
    for index in range(5):
        mine, theirs = views.boxes(index), split.boxes[index]
        np.testing.assert_allclose(mine[:, [0, 1, 3]], theirs[:, [0, 1, 3]], atol=1e-6)
        np.testing.assert_allclose(mine[:, 2], (theirs[:, 2] * 120 + 20) / 160, atol=1e-6)
        np.testing.assert_allclose(mine[:, 4], theirs[:, 4] * 120 / 160, atol=1e-6)


def test_key_changes_with_everything_a_pool_depends_on() -> None:
    keys = {
        view_key("a", 96, 30, ViewPolicy(), 3),
        view_key("b", 96, 30, ViewPolicy(), 3),
        view_key("a", 128, 30, ViewPolicy(), 3),
        view_key("a", 96, 31, ViewPolicy(), 3),
        view_key("a", 96, 30, ViewPolicy(p_mixup=0.2), 3),
        view_key("a", 96, 30, ViewPolicy(), 4),
    }
    assert len(keys) == 6 and view_key("a", 96, 30, ViewPolicy(), 3) in keys


def test_bad_arguments_and_a_full_disk(split: Split, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one image"):
        build(Split((), ()), tmp_path / "none")
    with pytest.raises(InputError, match="size 16 and count 30"):
        build(split, tmp_path / "small", size=16)
    with pytest.raises(InputError, match=r"the views need \d+ MB, the disk has \d+ MB free"):
        build(split, tmp_path / "huge", size=4096, count=10**7)
    assert not list(tmp_path.glob(".*building"))
