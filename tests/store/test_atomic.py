"""Crash-safe writes."""

from pathlib import Path

import pytest

from nasdistill.store.atomic import replacing, write_bytes, write_text


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    write_text(target, "grüße\r\nzwei\n")
    assert target.read_bytes() == "grüße\r\nzwei\n".encode()
    write_bytes(target, b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(target) as temporary:
        temporary.write_text("new, half")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_the_target_is_untouched_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    write_text(target, "old")
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".onnx"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    write_text(target, "old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"
