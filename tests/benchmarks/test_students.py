"""The students' benchmark: one family, both ways of printing; and what is said of one that cannot be pruned."""

import json

import pytest

from benchmarks import students
from nasdistill.errors import TrialError
from nasdistill.students.student import Student


def test_a_family_in_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students, "IMAGE_SIZE", 64)
    monkeypatch.setattr(students, "ROUNDS", 1)
    students.main(["--quick", "--json", "--markdown", "--family", "yolov5"])
    shown = capsys.readouterr().out.splitlines()
    found = json.loads(shown[-1])
    (row,) = found["detail"]["students"]
    assert row["pruned"]["params_m"] < row["plain"]["params_m"] and row["pruned"]["size_mb"] < row["plain"]["size_mb"]
    assert found["value"] == pytest.approx(row["pruned"]["latency_ms"] / row["plain"]["latency_ms"], rel=1e-3)
    assert any(line.startswith("| yolov5 | depth 0.33, width 0.0625, least_channels 8 |") for line in shown)


def test_what_cannot_be_pruned_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(student: Student, ratio: float) -> None:
        raise TrialError("the graph | ends")

    monkeypatch.setattr(students, "IMAGE_SIZE", 64)
    monkeypatch.setattr(students, "ROUNDS", 1)
    monkeypatch.setattr(students, "prune", refuse)
    outcome = students.measure(students_options("dynamicconv"))
    assert outcome.detail["not_pruned"] == ["dynamicconv smallest"]
    assert "TrialError: the graph / ends" in students.markdown(outcome.detail["students"])


def students_options(family: str) -> object:
    import argparse

    parser = argparse.ArgumentParser()
    students.add_arguments(parser)
    options = parser.parse_args(["--family", family])
    options.quick = True
    return options
