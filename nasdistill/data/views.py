"""The fixed pool of views that all trials of a run share, on disk and memory-mapped.

A folder holds `images.npy` (n, 3, s, s) uint8 RGB, `labels.npz` (box rows, offsets, and what else belongs to a view)
and, written last, `views.json`: without it the pool is not complete and is built anew. Pools are built in a hidden
folder beside and renamed, under a file lock, so several processes may ask for the same one.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from nasdistill.data.augment import Source, ViewPolicy, box_rows, draw_view
from nasdistill.data.dataset import Split
from nasdistill.data.images import fit, letterbox, letterbox_boxes, read_image
from nasdistill.errors import InputError
from nasdistill.store.arrays import new_array
from nasdistill.store.atomic import write_text

VERSION = 4  # raise it when the same arguments would give other views
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Views:
    """An opened pool. `images` (n, 3, s, s) uint8 stays on disk; pages are shared between processes.

    `cls_boxes` (m, 5) float32 holds class, x, y, w, h in 0..1 of all views; view i has rows offsets[i]:offsets[i + 1].
    `closing` (n,) bool: light, drawn without Mosaic, MixUp and CutMix.
    """

    folder: Path
    names: tuple[str, ...]
    images: np.ndarray
    cls_boxes: np.ndarray
    offsets: np.ndarray
    closing: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Side of the square views in pixels."""
        return int(self.images.shape[-1])

    def boxes(self, index: int) -> np.ndarray:
        """Labels of one view, (k, 5) float32: class, then x, y, w, h in 0..1."""
        return np.asarray(self.cls_boxes[self.offsets[index] : self.offsets[index + 1]])

    def batch_labels(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Labels of a batch for Ultralytics' loss, all float32: `batch_idx` (m,), `cls` (m, 1), `bboxes` (m, 4)."""
        parts = [self.boxes(int(index)) for index in indices]
        rows = np.concatenate(parts) if parts else np.zeros((0, 5), np.float32)
        batch_index = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.float32)
        return {"batch_idx": batch_index, "cls": rows[:, :1].copy(), "bboxes": rows[:, 1:].copy()}


def view_key(data_hash: str, size: int, count: int, policy: ViewPolicy, seed: int) -> str:
    """sha256 (hex) of all that a pool depends on; `data_hash` as from `dataset_hash`."""
    facts = {"version": VERSION, "data": data_hash, "size": size, "count": count, "seed": seed}
    return hashlib.sha256(json.dumps({**facts, "policy": policy.model_dump()}, sort_keys=True).encode()).hexdigest()


def build_views(
    split: Split,
    names: Sequence[str],
    size: int,
    count: int,
    policy: ViewPolicy,
    seed: int,
    folder: Path,
    on_progress: Progress | None = None,
    workers: int = 1,
) -> Views:
    """Build a pool of `count` augmented views of `size` x `size` pixels in `folder`, or open it when it is there.

    View i is made from image i % n first, and depends on (seed, i) and the images alone, whatever `workers` (threads).

    Raises:
        InputError: the split is empty, an image cannot be read, or the disk is too small.
    """
    _check_arguments(split, size, count)
    facts = {"kind": "views", "count": count, "seed": seed, "policy": policy.model_dump()}

    def fill(pool: "_Pool") -> None:
        with _letterboxed_sources(split, size, pool.folder / "sources.npy", workers) as source:
            closing = closing_views(len(split), count, policy.close_share, seed)

            def draw(index: int) -> np.ndarray:
                rng = np.random.default_rng([seed, index])
                image, labels = draw_view(source, len(split), index % len(split), bool(closing[index]), policy, rng)
                pool.images[index] = image.transpose(2, 0, 1)
                return labels

            pool.closing[:] = closing | policy.is_light
            pool.run(draw, workers, on_progress)

    return _build(folder, split, names, size, count, facts, fill)


def letterboxed_split(
    split: Split, names: Sequence[str], size: int, folder: Path, on_progress: Progress | None = None, workers: int = 1
) -> Views:
    """The images of a split, letterboxed to `size` and otherwise as they are, in the form of a pool; for validation."""
    _check_arguments(split, size, len(split))

    def fill(pool: "_Pool") -> None:
        def draw(index: int) -> np.ndarray:
            square, _, boxes = _letterboxed(split, index, size)
            pool.images[index] = square.transpose(2, 0, 1)
            return boxes

        pool.closing[:] = True
        pool.run(draw, workers, on_progress)

    return _build(folder, split, names, size, len(split), {"kind": "letterboxed", "count": len(split)}, fill)


def open_views(folder: Path) -> Views:
    """Open a complete pool.

    Raises:
        FileNotFoundError: there is none, or it is not complete.
    """
    try:
        facts = json.loads((folder / "views.json").read_text(encoding="utf-8"))
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        with np.load(folder / "labels.npz", allow_pickle=False) as file:
            labels = {name: file[name] for name in ("cls_boxes", "offsets", "closing")}
        names = tuple(facts["names"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise FileNotFoundError(f"{folder}: holds no complete pool of views") from error
    count = len(images)
    if images.shape[1:] != (3, facts["size"], facts["size"]) or labels["offsets"].shape != (count + 1,):
        raise FileNotFoundError(f"{folder}: its arrays do not belong together")
    return Views(folder, names, images, **labels)


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds a complete pool; what it was made from is said by its name (`view_key`), not looked at."""
    try:
        open_views(folder)
    except FileNotFoundError:
        return False
    return True


def closing_views(images: int, count: int, share: float, seed: int) -> np.ndarray:
    """Which of `count` views are closing ones (bool): the last `share` of each image's views.

    Where that is no whole number, a coin that belongs to the image decides between the two nearest ones.
    """
    index = np.arange(count)
    total = (count - 1 - index % images) // images + 1  # views of the image that view i is made from
    coin = np.random.default_rng([seed, 0, 1]).random(images)[index % images]
    return np.asarray(index // images >= total - np.floor(share * total + coin))


class _Pool:
    """The arrays of a pool while it is being filled."""

    def __init__(self, folder: Path, size: int, count: int) -> None:
        self.folder = folder
        self.images = _new_array(folder / "images.npy", (count, 3, size, size))
        self.closing = np.zeros(count, bool)
        self.labels: list[np.ndarray] = []

    def run(self, draw: Callable[[int], np.ndarray], workers: int, on_progress: Progress | None) -> None:
        """Draw all views, in order of their labels; OpenCV and copying release the interpreter's lock."""
        count = len(self.images)
        with ThreadPoolExecutor(max(1, workers)) as threads:
            drawn = threads.map(draw, range(count)) if workers > 1 else map(draw, range(count))
            for labels in drawn:
                self.labels.append(labels)
                if on_progress is not None:
                    on_progress(len(self.labels), count)

    def save(self) -> None:
        self.images.flush()
        offsets = np.cumsum([0, *(len(labels) for labels in self.labels)]).astype(np.int64)
        rows = np.concatenate(self.labels).astype(np.float32).reshape(-1, 5)
        arrays = {"cls_boxes": rows, "offsets": offsets, "closing": self.closing}
        np.savez(self.folder / "labels.npz", **arrays)  # type: ignore[arg-type]


def _build(
    folder: Path,
    split: Split,
    names: Sequence[str],
    size: int,
    count: int,
    facts: Mapping[str, Any],
    fill: Callable[[_Pool], None],
) -> Views:
    """Open the pool in `folder` when it is complete and made from the same things; build it otherwise."""
    description = {"version": VERSION, "size": size, "names": list(names), "images": _fingerprint(split), **facts}
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        with contextlib.suppress(OSError, ValueError):
            if json.loads((folder / "views.json").read_text(encoding="utf-8")) == json.loads(json.dumps(description)):
                return open_views(folder)
        building = folder.with_name(f".{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            pool = _Pool(building, size, count)
            fill(pool)
            pool.save()
            write_text(building / "views.json", json.dumps(description, indent=1))
            del pool  # Windows moves no folder with an open map in it
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(building, folder)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        return open_views(folder)


def _check_arguments(split: Split, size: int, count: int) -> None:
    if not len(split):
        raise InputError("a pool of views needs at least one image")
    if size < 32 or count < 1:
        raise InputError(f"views: size {size} and count {count} must be at least 32 and 1")


def _fingerprint(split: Split) -> str:
    """A quick stand-in for the content of a split: names, file sizes, times of change and boxes."""
    digest = hashlib.sha256()
    for path, boxes in zip(split.image_paths, split.boxes, strict=True):
        try:
            state = path.stat()
        except OSError as error:
            raise InputError(f"{path}: the image cannot be read ({error.strerror})") from error
        digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns} {len(boxes)}\n".encode())
        digest.update(np.ascontiguousarray(boxes, dtype="<f4").tobytes())
    return digest.hexdigest()


def _letterboxed(split: Split, index: int, size: int) -> tuple[np.ndarray, tuple[int, int, int, int], np.ndarray]:
    """The image in its square, where it lies in it (x1, y1, x2, y2), and its boxes in the square."""
    image = read_image(split.image_paths[index])
    height, width = image.shape[:2]
    square = letterbox(image, size)
    boxes = split.boxes[index].copy()
    boxes[:, 1:] = letterbox_boxes(boxes[:, 1:], width, height, size)
    inner_width, inner_height, left, top = fit(width, height, size)
    return square, (left, top, left + inner_width, top + inner_height), boxes


@contextlib.contextmanager
def _letterboxed_sources(split: Split, size: int, path: Path, workers: int) -> Iterator[Callable[[int], Source]]:
    """Each source image letterboxed once, in a file that is gone afterwards (the page cache holds what fits)."""
    images = _new_array(path, (len(split), size, size, 3))
    with ThreadPoolExecutor(max(1, workers)) as threads:
        known = list(threads.map(functools.partial(_placed, images, split, size), range(len(split))))
    try:
        yield known.__getitem__
    finally:
        known.clear()
        del images
        path.unlink(missing_ok=True)


def _placed(images: np.ndarray, split: Split, size: int, index: int) -> Source:
    """An image of the split, letterboxed into its place in `images`."""
    square, inner, boxes = _letterboxed(split, index, size)
    images[index] = square
    return Source(images[index], inner, box_rows(boxes, size))


def _new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new memory-mapped uint8 array."""
    return new_array(path, shape, "|u1", "views")
