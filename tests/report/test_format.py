from pathlib import Path

import pytest

from nasdistill.report.format import (
    duration,
    factor,
    in_command,
    milliseconds,
    number,
    parameter,
    percent,
    shown_path,
)


@pytest.mark.parametrize("wrong", [None, float("nan"), float("inf"), "12", True])
def test_what_is_no_figure_is_shown_as_missing(wrong):
    assert {f(wrong) for f in (number, milliseconds, percent, factor, duration)} == {"-"}


def test_figures():
    assert [milliseconds(v) for v in (0.8421, 4.713, 38.94, 1240.2)] == ["0.84", "4.71", "38.9", "1240"]
    assert (number(0.47249), number(9.126, 2)) == ("0.472", "9.13")
    assert (percent(0.936), percent(1), factor(4.13)) == ("94 %", "100 %", "4.1x")
    assert [duration(s) for s in (0, 45.4, 245, 7380)] == ["0 s", "45 s", "4 min 05 s", "2 h 03 min"]
    assert [parameter(v) for v in (0.123456, 256, True, "linear", 1e-5)] == ["0.1235", "256", "True", "linear", "1e-05"]


def test_paths_in_commands_are_one_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert in_command(tmp_path / "my runs" / "a") == "'my runs/a'"
    assert in_command(tmp_path / "runs" / "a") == shown_path(tmp_path / "runs" / "a") == "runs/a"

    def other_drive(path: Path) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", other_drive)
    assert shown_path(tmp_path) == str(tmp_path)
