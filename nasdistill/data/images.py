"""Reading images, and bringing them and their boxes to the square input of a detector."""

from pathlib import Path

import cv2
import numpy as np

from nasdistill.errors import InputError

PAD_GREY = 114  # the padding that Ultralytics' models were trained with
SUFFIXES = frozenset(("avif", "bmp", "jp2", "jpeg", "jpg", "jpeg2000", "mpo", "png", "tif", "tiff", "webp"))


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as RGB uint8 (height, width, 3); see `decode`. Raises InputError."""
    return decode(read_content(path), path)


def read_content(path: str | Path) -> np.ndarray:
    """The bytes of a file, uint8 (n,). Raises InputError."""
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: the image cannot be read ({error.strerror})") from error


def decode(content: np.ndarray, path: str | Path) -> np.ndarray:
    """The image that the bytes (n,) of a file at `path` are, as RGB uint8 (height, width, 3).

    Grey images get three equal channels, alpha is dropped, 16-bit keeps its high byte, and a rotation in the EXIF data
    is applied, all as Ultralytics does when it trains and validates.

    Raises:
        InputError: it is no complete image.
    """
    image = None
    if content.size and _is_whole(content.tobytes()):
        try:
            image = cv2.imdecode(content, cv2.IMREAD_COLOR)
        except cv2.error as error:  # a size that no memory holds, for example
            raise InputError(f"{path}: not a readable image ({error.err})") from error
    if image is not None:
        return np.ascontiguousarray(image[..., ::-1])
    raise InputError(f"{path}: not a readable image, or a truncated one")


def _is_whole(content: bytes) -> bool:
    """False when a file lacks its end: OpenCV would fill the missing rows with grey and say nothing."""
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in content[_first_scan(content) :]
    if content.startswith(b"\x89PNG"):
        return b"IEND\xaeB`\x82" in content  # its last chunk
    if content.startswith(b"RIFF"):  # WebP says its own length
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    if content.startswith(b"BM"):
        return len(content) >= int.from_bytes(content[2:6], "little")
    return True


def _first_scan(jpeg: bytes) -> int:
    """Where the first scan of a JPEG begins, behind the segments with thumbnails in them; its length without one.

    From there on an end-of-image marker is one: the scans' own data escape it. What is behind it (the film of a motion
    photo) is not looked at.
    """
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        if jpeg[at + 1] == 0xFF:  # padding
            at += 1
            continue
        if jpeg[at + 1] == 0xDA:
            return at
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    found = jpeg.find(b"\xff\xda", at)  # something else stands between the segments, which decoders forgive
    return found if found >= 0 else len(jpeg)


def fit(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Where a `width` x `height` image lies in a square of `size`: inner width, inner height, left, top.

    As Ultralytics' `LetterBox(auto=False, scaleup=True)`: centred, the odd pixel of padding to the right and below.
    """
    scale = min(size / height, size / width)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = round((size - inner_width) / 2 - 0.1), round((size - inner_height) / 2 - 0.1)
    return inner_width, inner_height, left, top


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """An image (h, w, 3) resized, up or down, to fit a square of `size` pixels and centred on grey: uint8 (size, size, 3)."""
    height, width = image.shape[:2]
    inner_width, inner_height, left, top = fit(width, height, size)
    if (inner_width, inner_height) != (width, height):
        image = cv2.resize(image, (inner_width, inner_height), interpolation=cv2.INTER_LINEAR)
    if (inner_width, inner_height) == (size, size):
        return np.ascontiguousarray(image)
    square = np.full((size, size, 3), PAD_GREY, np.uint8)
    square[top : top + inner_height, left : left + inner_width] = image
    return square


def letterbox_boxes(boxes_xywhn: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Bring boxes (n, 4), centre and size in 0..1 of a `width` x `height` image, to 0..1 of its letterboxed square."""
    inner_width, inner_height, left, top = fit(width, height, size)
    inner = np.array([inner_width, inner_height, inner_width, inner_height], dtype=np.float64)
    moved = boxes_xywhn * inner + np.array([left, top, 0, 0], dtype=np.float64)
    return np.asarray(moved / size, dtype=boxes_xywhn.dtype)
