"""Data sets as Ultralytics describes them: a `data.yaml`, image folders or lists, and a label file beside each image.

Every relative path is resolved against the YAML file's folder (Ultralytics takes `path: .` against the current one).
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nasdistill.data.checked import Checked
from nasdistill.data.images import SUFFIXES, decode, read_content
from nasdistill.data.labels import LabelForm, read_labels
from nasdistill.errors import InputError

SPLITS = ("train", "val", "test")
MOST_BAD = 0.05  # share of a split's images or label lines that may be bad
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Split:
    """The images of one split and their labels: `boxes[i]` is (n, 5) float32: class, then x, y, w, h in 0..1.

    `digests`, where there are any, are sha256 of the images' files.
    """

    image_paths: tuple[Path, ...]
    boxes: tuple[np.ndarray, ...]
    digests: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.image_paths)

    @property
    def labelled(self) -> bool:
        """Whether any image has a label."""
        return any(map(len, self.boxes))


@dataclass(frozen=True)
class Dataset:
    """A checked data set. `problems` names what was skipped, by file and line."""

    yaml_path: Path
    names: tuple[str, ...]
    splits: Mapping[str, Split]
    problems: tuple[str, ...] = ()


def load_dataset(
    path: str | Path,
    on_progress: Progress | None = None,
    splits: Collection[str] = SPLITS,
    remembered: Path | None = None,
) -> Dataset:
    """Load and check the named `splits` of a data set from its `data.yaml`.

    `train`, `val` (or `validation`) and `test` are each a folder, a .txt list of images, or a list of those; `val` is
    required. `names` is a list or a mapping from 0, 1, …; `nc` must agree with it. With `kpt_shape` label lines may carry
    keypoints after their box, which are left out. Further keys are ignored (`download` is never run). Labels are found by
    Ultralytics' rule: the last `images` folder becomes `labels`; an image without a label file is background. Bad images
    and label lines are skipped and reported in `problems`. `on_progress(done, total)` counts images. Those that a file,
    `remembered`, says were whole are not read again unless their size or time of change is another.

    Raises:
        InputError: a file is missing or malformed, a split is empty, more than 5 % of it is bad, or there is no
            label in `val`.
    """
    yaml_path = Path(path)
    settings = _read_yaml(yaml_path)
    names = _read_names(settings, yaml_path)
    root = yaml_path.absolute().parent / _as_text(settings.get("path") or ".", "path", yaml_path)
    settings.setdefault("val", settings.get("validation"))
    if not isinstance(settings.get("val"), str | list):
        raise InputError(f"{yaml_path}: key 'val' must name the validation images, got {settings.get('val')!r}")
    problems: list[str] = []
    if "test" in splits and isinstance(settings.get("test"), str) and not _resolve(settings["test"], root).exists():
        # nothing is trained or chosen on it, and files that name a test set nobody downloaded are common
        problems.append(f"{yaml_path}: test: {root / settings['test']} does not exist; the split is left out")
        settings = {**settings, "test": None}
    named = [key for key in SPLITS if key in splits and settings.get(key) is not None]
    listed = {key: _list_images(settings[key], root, f"{yaml_path}: {key}") for key in named}
    total, done = sum(map(len, listed.values())), 0
    form, known = LabelForm(len(names), _keypoint_values(settings, yaml_path)), Checked(remembered)
    checked = {}
    for key, images in listed.items():
        split, found = _check_split(images, form, known, f"{yaml_path}: {key}", done, total, on_progress)
        if key == "val" and not split.labelled:
            raise InputError(
                f"{yaml_path}: val: none of the {len(split)} images has a label; {label_path(images[0])}, say, was looked for"
            )
        checked[key] = split
        problems += found
        done += len(images)
    known.save()
    return Dataset(yaml_path, names, checked, tuple(problems))


def read_names(path: str | Path) -> tuple[str, ...]:
    """The class names of a data set, before any of its images is looked at. Raises InputError."""
    return _read_names(_read_yaml(Path(path)), Path(path))


def dataset_hash(dataset: Dataset, splits: Sequence[str] = ("train", "val")) -> str:
    """sha256 (hex) over class names, and image bytes and boxes of the named splits in order; file names don't count."""
    total = hashlib.sha256(repr(dataset.names).encode())
    for key in splits:
        split = dataset.splits.get(key)
        total.update(f"\n{key} {len(split) if split else 0}\n".encode())
        if split is None:
            continue
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            digests = split.digests or pool.map(_file_digest, split.image_paths)
            for digest, boxes in zip(digests, split.boxes, strict=True):
                total.update(digest)
                total.update(f"{len(boxes)} ".encode())
                total.update(np.ascontiguousarray(boxes, dtype="<f4").tobytes())
    return total.hexdigest()


def _file_digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such data.yaml file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{path}{line}: not valid YAML ({reason})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys such as 'val' and 'names', got {type(content).__name__}")
    return content


def _as_text(value: Any, key: str, yaml_path: Path) -> str:
    if not isinstance(value, str):
        raise InputError(f"{yaml_path}: key '{key}' must be a path, got {value!r}")
    return value


def _read_names(settings: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Class names from `names` (list, or mapping with the keys 0..n-1), checked against `nc`."""
    found, count = settings.get("names"), settings.get("nc")
    if isinstance(found, dict):
        keys = list(found)
        if any(isinstance(key, bool) or not str(key).isdecimal() for key in keys):
            raise InputError(f"{path}: keys of 'names' must be 0, 1, 2, …, got {keys}")
        by_index = {int(key): value for key, value in found.items()}
        if sorted(by_index) != list(range(len(keys))):
            allowed = f"0..{len(keys) - 1} without a gap"
            raise InputError(f"{path}: keys of 'names' must be {allowed}, got {sorted(by_index)}")
        found = [by_index[index] for index in range(len(keys))]
    if not isinstance(found, list) or not found:
        raise InputError(f"{path}: key 'names' must be a list or a mapping of class names, got {found!r}")
    if any(isinstance(name, dict | list) or name is None or not str(name).strip() for name in found):
        raise InputError(f"{path}: every entry of 'names' must be a class name, got {found}")
    names = tuple(str(name) for name in found)
    if len(set(names)) != len(names):
        raise InputError(f"{path}: 'names' holds a class name twice: {list(names)}")
    if count is not None and count != len(names):
        raise InputError(f"{path}: 'nc' is {count!r}, but 'names' has {len(names)} entries")
    return names


def _keypoint_values(settings: Mapping[str, Any], path: Path) -> int:
    """How many numbers the keypoints of a label line are."""
    shape = settings.get("kpt_shape")
    if shape is None:
        return 0
    if not (
        isinstance(shape, list) and len(shape) == 2 and all(type(number) is int and number > 0 for number in shape)
    ):
        raise InputError(f"{path}: key 'kpt_shape' must be [keypoints, 2 or 3], got {shape!r}")
    return int(shape[0] * shape[1])


def _list_images(entry: Any, root: Path, where: str) -> list[Path]:
    """All image files of a split's entry, sorted, each once."""
    entries = entry if isinstance(entry, list) else [entry]
    images: dict[Path, None] = {}
    for item in entries:
        if not isinstance(item, str):
            raise InputError(f"{where}: expected a folder or a .txt list of images, got {item!r}")
        source = _resolve(item, root)
        if source.is_dir():
            found = [Path(folder) / name for folder, _, files in os.walk(source, followlinks=True) for name in files]
            images.update(dict.fromkeys(sorted(file for file in found if _is_image(file))))
        elif source.is_file() and source.suffix.lower() == ".txt":
            images.update(dict.fromkeys(_read_list(source)))
        elif source.is_file() and _is_image(source):
            images[source] = None
        else:
            reason = "neither a folder nor a .txt list" if source.exists() else "no such folder or .txt list of images"
            raise InputError(f"{where}: {source}: {reason}")
    if not images:
        searched = ", ".join(str(root / item) for item in entries)
        raise InputError(f"{where}: no images found in {searched} (known: {', '.join(sorted(SUFFIXES))})")
    return sorted(images)


def _resolve(item: str, root: Path) -> Path:
    """Where an entry points to. As in Ultralytics, a wrong leading ../ (Roboflow writes it) is left out."""
    source = root / item
    if not source.exists() and item.startswith("../") and (root / item[3:]).exists():
        return root / item[3:]
    return source


def _read_list(source: Path) -> list[Path]:
    """The images that a .txt file lists, one a line, relative to the file."""
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read as a list of images ({error})") from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            image = Path(os.path.normpath(source.parent / line.strip()))
            if not _is_image(image):
                known = ", ".join(sorted(SUFFIXES))
                raise InputError(f"{source}, line {number}: {line.strip()!r} is no image (known: {known})")
            found.append(image)
    return found


def _is_image(path: Path) -> bool:
    return path.suffix[1:].lower() in SUFFIXES and not path.name.startswith("._")


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder `images` of its path becomes `labels`, the suffix .txt."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _check_split(
    images: Sequence[Path],
    form: LabelForm,
    known: Checked,
    where: str,
    before: int,
    total: int,
    on_progress: Progress | None,
) -> tuple[Split, list[str]]:
    """Decode every image that is not known, and parse every label file of a split."""

    def check(image: Path) -> tuple[bytes | str, np.ndarray, int, list[str]]:
        digest = known.digest(image)
        if digest is None:
            began_ns = time.time_ns()
            try:
                content = read_content(image)
                decode(content, image)
            except InputError as error:
                return str(error), np.zeros((0, 5), np.float32), 0, []
            digest = hashlib.sha256(content.data).digest()
            known.note(image, digest, began_ns)
        return digest, *read_labels(label_path(image), form)

    kept: list[tuple[Path, np.ndarray, bytes]] = []
    image_problems: list[str] = []
    line_problems: list[str] = []
    lines = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter's lock
        for done, (image, result) in enumerate(zip(images, pool.map(check, images), strict=True), 1):
            digest, boxes, line_count, bad_lines = result
            if isinstance(digest, str):
                image_problems.append(digest)
            else:
                kept.append((image, boxes, digest))
            lines += line_count
            line_problems += bad_lines
            if on_progress is not None:
                on_progress(before + done, total)
    for found, count, what in ((image_problems, len(images), "images"), (line_problems, lines, "label lines")):
        if len(found) > MOST_BAD * count:
            share = f"{len(found)} of {count} {what} are bad (at most {MOST_BAD:.0%} may be)"
            raise InputError(f"{where}: {share}, first: {found[0]}")
    paths, boxes_of, digests = zip(*kept, strict=True) if kept else ((), (), ())
    return Split(paths, boxes_of, digests), image_problems + line_problems
