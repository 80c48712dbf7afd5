import io
import json

import pytest
from rich.console import Console
from sample_run import TEACHER, sample_results

from nasdistill.pareto.front import front
from nasdistill.pareto.select import knee
from nasdistill.report.console import counts_line, front_json, front_table
from nasdistill.report.teacher import Teacher, teacher_of

RESULTS = sample_results(40)
FRONT = front(RESULTS)
TEACHER_RECORD = Teacher(name="pcb_teacher", map50=0.871, map50_95=0.472, latency_ms=38.9, params_m=9.12)


def render(width: int, encoding: str = "utf-8", **options: object) -> str:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding, write_through=True), width=width)
    console.print(front_table(RESULTS, FRONT, TEACHER_RECORD, width=width, **options))
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_table_fits_and_keeps_trial_accuracy_and_latency(width):
    text = render(width)
    assert all(len(line) <= width for line in text.splitlines())
    if width >= 40:
        for member in FRONT:
            assert any(f"{member.map50_95:.3f}" in line and f" {member.trial}" in line for line in text.splitlines())
        assert f"{knee(FRONT).trial}*" in text


def test_wide_table_has_everything():
    text = render(120)
    for word in (
        "mAP50",
        "p90 ms",
        "params M",
        "of teacher",
        "speed-up",
        "33 complete, 6 rejected, 1 failed",
        "pcb_teacher",
    ):
        assert word in text
    member = FRONT[-1]
    assert f"{member.map50_95 / 0.472 * 100:.0f} %" in text
    assert f"{38.9 / member.latency_ms:.1f}x" in text


def test_ascii_terminals_get_ascii():
    assert render(100, encoding="ascii").isascii()


def test_fewer_rows_keep_the_ends_and_the_knee():
    text = render(80, rows=3, caption=False)
    shown = [m for m in FRONT if f"{m.map50_95:.3f}" in text]
    assert 3 <= len(shown) <= 4 < len(FRONT)
    for member in (FRONT[0], FRONT[-1], knee(FRONT)):
        assert member in shown


def test_markup_in_names_is_shown_not_run():
    odd = [r.model_copy(update={"family": "[red]x[/]"}) for r in FRONT]
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(front_table(odd, odd))
    assert "[red]x[/]" in console.export_text()


def test_empty_front():
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(front_table([], [], None, width=80))
    assert "0 on the front of 0 trials" in console.export_text()


def test_front_json_is_plain_and_complete():
    data = json.loads(json.dumps(front_json(RESULTS, FRONT, TEACHER_RECORD), allow_nan=False))
    assert data["trials"] == {"total": 40, "complete": 33, "stopped": 0, "rejected": 6, "failed": 1}
    assert data["knee"] == knee(FRONT).trial
    assert [m["trial"] for m in data["front"]] == [m.trial for m in FRONT]
    first = data["front"][0]
    assert first["params"]["family"] == FRONT[0].family
    assert first["of_teacher"] == pytest.approx(FRONT[0].map50_95 / 0.472)
    assert first["speed_up"] == pytest.approx(38.9 / FRONT[0].latency_ms)
    empty = front_json([], [])
    assert empty["front"] == [] and empty["knee"] is None and empty["teacher"] is None


def test_counts_line_names_only_what_occurred():
    assert counts_line([]) == "0 complete"
    assert counts_line(RESULTS, running=2) == "33 complete, 2 running, 6 rejected, 1 failed"


def test_teacher_of_takes_what_is_there():
    assert teacher_of({"teacher": TEACHER}) == TEACHER_RECORD
    assert teacher_of({}) is None and teacher_of({"teacher": "x.pt"}) is None
    partial = teacher_of({"teacher": {"name": "t", "map50": "high", "latency_ms": float("nan"), "map50_95": 1}})
    assert partial == Teacher(name="t", map50_95=1.0)
    assert partial.speed_up(FRONT[0]) is None and partial.share(FRONT[0], "map50") is None
