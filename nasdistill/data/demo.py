"""The embedded demo set: synthetic circuit boards with six kinds of defects, drawn from a seed."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from nasdistill.data.boards import draw_layout
from nasdistill.data.defects import CLASS_NAMES, add_defects
from nasdistill.data.photograph import photograph
from nasdistill.errors import InputError
from nasdistill.store.atomic import write_text

VERSION = 1  # raise it when the same seed would give other boards: the demo teacher must then be trained again
STREAMS = {"train": 0, "val": 1, "teacher": 2}  # seeds of different streams never give the same board

README = """# Synthetic circuit boards
These images are synthetic: a seeded program drew them, no board was photographed. They show traces, pads and vias
with six kinds of defects ({names}). Made by nasdistill's demo generator, version {version}, with
{arguments}. They are for trying nasdistill out; results on them say little about real boards.
"""


def draw_board(
    seed: int, stream: str, index: int, size: int = 256, defects: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one board: RGB uint8 (size, size, 3) and boxes (n, 5) float64 class, x1, y1, x2, y2 in pixels.

    With `defects=False` it is the same board, in the same light, without them.
    """
    layout_rng, defect_rng, photo_rng = (
        np.random.default_rng([VERSION, seed, STREAMS[stream], index, part]) for part in range(3)
    )
    layout = draw_layout(size, layout_rng)
    copper, boxes = add_defects(layout, int(defect_rng.integers(2, 7)), defect_rng)
    if not defects:
        copper, boxes = layout.copper, boxes[:0]
    return photograph(layout, copper, photo_rng), boxes


def make_demo(
    folder: str | Path, seed: int = 0, train: int = 256, val: int = 96, size: int = 256, train_stream: str = "train"
) -> Path:
    """Write the demo set to `folder` (images, labels, README, data.yaml) unless it is there; returns the data.yaml.

    `demo.json` is written last and says that the set is complete. `train_stream="teacher"` gives other training boards,
    none of which is in anybody's `train` or `val`.

    Raises:
        InputError: an argument is out of range, or the folder holds something else.
    """
    folder = Path(folder)
    if seed < 0 or train < 1 or val < 1 or not 64 <= size <= 2048:
        given = f"seed {seed}, train {train}, val {val}, size {size}"
        raise InputError(f"demo: out of range: {given} (seed from 0, train and val from 1, size 64 to 2048)")
    arguments = {"seed": seed, "train": train, "val": val, "size": size, "train_stream": train_stream}
    facts = {"version": VERSION, **arguments}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        mark = folder / "demo.json"
        if mark.is_file():
            found = json.loads(mark.read_text(encoding="utf-8"))
            if found == facts:
                return folder / "data.yaml"
            raise InputError(f"{folder}: holds a demo set made with other arguments ({found})")
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder}: exists and is no demo set")
        # drawn beside and renamed when complete: whoever sees the folder sees all of it
        building = folder.with_name(f".{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        for split, stream, count in (("train", train_stream, train), ("val", "val", val)):
            for kind in ("images", "labels"):
                (building / kind / split).mkdir(parents=True)
            for index in range(count):
                _write_board(building, split, f"board_{index:05d}", *draw_board(seed, stream, index, size))
        listed = ", ".join(f"{key}={value}" for key, value in arguments.items())
        page = README.format(names=", ".join(CLASS_NAMES), version=VERSION, arguments=listed)
        write_text(building / "README.md", page)
        lines = ["# synthetic; paths are relative to this file", "train: images/train", "val: images/val", "names:"]
        lines += [f"  {index}: {name}" for index, name in enumerate(CLASS_NAMES)]
        write_text(building / "data.yaml", "\n".join(lines) + "\n")
        write_text(building / "demo.json", json.dumps(facts))
        if folder.exists():
            folder.rmdir()
        os.replace(building, folder)
    return folder / "data.yaml"


def _write_board(folder: Path, split: str, name: str, image: np.ndarray, boxes: np.ndarray) -> None:
    encoded, png = cv2.imencode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert encoded
    size = image.shape[0]
    lines = []
    for label, x1, y1, x2, y2 in boxes:
        values = ((x1 + x2) / 2 / size, (y1 + y2) / 2 / size, (x2 - x1) / size, (y2 - y1) / size)
        lines.append(f"{int(label)} " + " ".join(f"{value:.7g}" for value in values))
    (folder / "images" / split / f"{name}.png").write_bytes(png.tobytes())
    (folder / "labels" / split / f"{name}.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
