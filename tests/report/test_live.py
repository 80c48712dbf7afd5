import io
import re
from datetime import datetime, timedelta

import pytest
from rich.console import Console
from sample_run import sample_results

from nasdistill.pareto.front import front
from nasdistill.report.live import LiveDisplay, draw_status, progress_line, trial_line
from nasdistill.report.status import SearchStatus

RESULTS = sample_results(40)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def status(count: int = 40, **more: object) -> SearchStatus:
    settings: dict[str, object] = {
        "phase": "searching",
        "results": RESULTS[:count],
        "running": 2,
        "budget_used": "4 min 10 s",
        "budget_left": "50 s",
        "budget_share": 0.83,
        "hypervolume": 0.325,
        "estimated_end": datetime.now() + timedelta(days=1),
    }
    return SearchStatus(**(settings | more))


def plain_display(clock: Clock, encoding: str = "utf-8") -> tuple[LiveDisplay, io.BytesIO]:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding=encoding, newline="", write_through=True), width=80)
    return LiveDisplay(console, clock=clock), raw


def test_no_terminal_means_plain_lines():
    clock = Clock()
    display, raw = plain_display(clock)
    assert display.plain
    with display:
        display.update(status(0, phase="teacher targets 45 %"))
        display.update(status(0, phase="teacher targets 46 %"))
        display.update(status(2))
        display.update(status(2))
        clock.now = 9.0
        display.update(status(2))
        clock.now = 10.0
        display.update(status(2))
        display.update(status(2))
        display.log("a [bold]message\rover\ntwo lines")
    lines = raw.getvalue().decode().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d \S", line) for line in lines)
    said = [line[9:] for line in lines]
    assert said == [
        "teacher targets 45 %",
        "searching",
        trial_line(RESULTS[0]),
        trial_line(RESULTS[1]),
        progress_line(status(2)),
        "a [bold]message over two lines",
    ]
    assert b"\r" not in raw.getvalue() and b"\x1b" not in raw.getvalue()


def test_every_finished_trial_gets_exactly_one_line():
    display, raw = plain_display(Clock())
    with display:
        for count in (3, 3, 10, 40):
            display.update(status(count))
    text = raw.getvalue().decode()
    for result in RESULTS:
        assert len(re.findall(rf" trial {result.trial} ", text)) == 1
    failed = next(r for r in RESULTS if r.state == "failed")
    assert f"trial {failed.trial} {failed.family} failed: {failed.reason}" in text


def test_a_pipe_that_takes_ascii_only_does_not_end_the_search():
    display, raw = plain_display(Clock(), encoding="ascii")
    with display:
        display.log("Klasse Lötbrücke 短路")
    assert b"Klasse L?tbr?cke ??" in raw.getvalue()


@pytest.mark.parametrize("width", [10, 20, 60, 80, 120])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_panel_at_any_width(width, encoding):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    console = Console(file=file, width=width, height=30, force_terminal=True, color_system=None)
    console.print(draw_status(status(), front(RESULTS), width, 30))
    lines = raw.getvalue().decode(encoding).splitlines()
    assert all(len(line) <= width for line in lines)
    if width >= 60:
        text = "\n".join(lines)
        assert len(lines) <= 30
        for words in (
            "searching",
            "33 complete, 2 running",
            "4 min 10 s used, 50 s left (83 %)",
            "0.325",
            "front so far",
        ):
            assert words in text
        assert f"{front(RESULTS)[0].map50_95:.3f}" in text


def test_panel_before_anything_is_known():
    console = Console(record=True, width=60, file=io.StringIO())
    console.print(draw_status(SearchStatus(phase="starting"), [], 60))
    text = console.export_text()
    assert "starting" in text and "0 complete" in text and "hypervolume" not in text and "budget" not in text


def test_terminal_mode_draws_over_itself_and_keeps_messages():
    file = io.StringIO()
    console = Console(
        file=file, width=80, height=30, force_terminal=True, color_system=None, _environ={"TERM": "xterm"}
    )
    display = LiveDisplay(console)
    assert not display.plain
    with display:
        display.update(status(5, phase_progress=0.45))
        display.log("a [bold]message")
        display.update(status(40))
    text = file.getvalue()
    assert "a [bold]message" in text and "33 complete" in text
    assert "\x1b[2K" in text  # it redraws in place


def test_dumb_terminals_get_plain_lines():
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert LiveDisplay(console).plain
    assert not LiveDisplay(console, plain=False).plain


def test_an_error_inside_is_not_swallowed():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm"})
    with pytest.raises(KeyError), LiveDisplay(console) as display:
        display.update(status(3))
        raise KeyError("x")


def test_progress_line_says_what_is_known():
    assert progress_line(SearchStatus(phase="warming", phase_progress=0.5)) == "warming 50 %; 0 complete"
    line = progress_line(status())
    assert (
        "budget 4 min 10 s used, 50 s left (83 %)" in line and "hypervolume 0.325" in line and "ends about 20" in line
    )
