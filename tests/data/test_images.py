"""Reading images of all kinds, and letterboxing them and their boxes."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ultralytics.data.augment import LetterBox

from nasdistill.data.images import letterbox, letterbox_boxes, read_image
from nasdistill.errors import InputError

sides = st.integers(8, 700)


def test_reads_colours_grey_alpha_and_16_bit_as_rgb(tmp_path: Path) -> None:
    rgb = np.zeros((6, 8, 3), np.uint8)
    rgb[..., 0], rgb[2:, :, 1] = 200, 90
    Image.fromarray(rgb).save(tmp_path / "colour.png")
    assert (read_image(tmp_path / "colour.png") == rgb).all()
    Image.fromarray(rgb[..., 1]).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == rgb[..., [1, 1, 1]]).all()
    Image.fromarray(np.dstack([rgb, rgb[..., 1]])).save(tmp_path / "alpha.png")
    assert (read_image(tmp_path / "alpha.png") == rgb).all()
    cv2.imwrite(str(tmp_path / "deep.png"), (rgb[..., ::-1].astype(np.uint16) << 8) + 7)
    assert (read_image(tmp_path / "deep.png") == rgb).all()
    Image.fromarray(rgb).convert("P").save(tmp_path / "palette.bmp")
    assert read_image(tmp_path / "palette.bmp").shape == (6, 8, 3)
    assert read_image(tmp_path / "colour.png").flags["C_CONTIGUOUS"]


def test_applies_the_rotation_in_exif(tmp_path: Path) -> None:
    picture = Image.fromarray(np.repeat(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None], 3, 2).repeat(16, 0))
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert picture.size == (24, 16) and read_image(tmp_path / "turned.jpg").shape == (24, 16, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)).save(path)
    assert read_image(path).shape == (80, 80, 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match="not a readable image, or a truncated one"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_what_cameras_append_to_an_image_is_no_damage(tmp_path: Path, suffix: str) -> None:
    """The film of a motion photo, for example; by chance it holds the markers of a JPEG."""
    path = tmp_path / f"motion.{suffix}"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8))
    thumbnail = tmp_path / "small.jpg"
    image.resize((8, 8)).save(thumbnail)
    extra = {"exif": b"Exif\0\0" + thumbnail.read_bytes()} if suffix == "jpg" else {}
    image.save(path, **extra)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(5000) + b"\xff\xd9 film \xff\xda" + bytes(5000))
    assert read_image(path).shape == (80, 80, 3)
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="or a truncated one"):
        read_image(path)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty\.png: not a readable image"):
        read_image(tmp_path / "empty.png")


@given(width=sides, height=sides, size=st.sampled_from([64, 96, 160, 256]), seed=st.integers(0, 99))
def test_letterbox_is_that_of_ultralytics(width: int, height: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    square = letterbox(image, size)
    reference = LetterBox((size, size), auto=False, scaleup=True)(image=image)
    assert (square == reference).all() and square.shape == (size, size, 3)


@given(width=sides, height=sides, size=st.integers(64, 320), data=st.data())
def test_boxes_go_where_the_image_goes(width: int, height: int, size: int, data: st.DataObject) -> None:
    share = st.floats(0.05, 0.95)
    x1, x2 = sorted(data.draw(st.tuples(share, share)))
    y1, y2 = sorted(data.draw(st.tuples(share, share)))
    box = np.array([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]])
    x, y, w, h = (letterbox_boxes(box, width, height, size) * size)[0]
    rows, columns = np.nonzero(letterbox(np.zeros((height, width, 3), np.uint8), size)[..., 0] == 0)
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    across, down = left + np.array([x1, x2]) * (right - left), top + np.array([y1, y2]) * (bottom - top)
    np.testing.assert_allclose([x - w / 2, x + w / 2, y - h / 2, y + h / 2], [*across, *down], atol=1e-6)
