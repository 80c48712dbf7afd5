"""How a front that was trained again is shown: table, JSON, figure and page."""

from __future__ import annotations

import io
import json

from rich.console import Console
from sample_run import sample_results, sample_run

from nasdistill.pareto.front import front
from nasdistill.pareto.intervals import certainty
from nasdistill.records import TrialResult
from nasdistill.report.console import front_json, front_table
from nasdistill.report.front_figure import front_figure
from nasdistill.report.hover import hover_text
from nasdistill.report.html import report_html
from nasdistill.report.series import front_series

PLAIN = sample_results(40)
MEMBERS = [member.trial for member in front(PLAIN)]
KNOWN = [trial for trial in MEMBERS if trial in (5, 32, 6)]  # neighbours, the first two close to each other
FACTORS = (0.98, 1.01)


def again(result: TrialResult) -> TrialResult:
    """Three members with two further scores each."""
    if result.trial not in KNOWN:
        return result
    more = {f"repeats_{name}": tuple(getattr(result, name) * f for f in FACTORS) for name in ("map50", "map50_95")}
    return result.model_copy(update=more)


RESULTS = [again(result) for result in PLAIN]
FRONT = front(RESULTS)
SURE = certainty(RESULTS, FRONT)


def table(results: list[TrialResult], width: int) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    members = front(results)
    console.print(front_table(results, members, width=width, certainty=certainty(results, members)))
    return console.export_text()


def test_the_table_has_means_intervals_and_marks() -> None:
    text = table(RESULTS, 140)
    interval = SURE.intervals[KNOWN[1]]
    line = next(line for line in text.splitlines() if f" {interval.mean:.3f} " in line)
    assert f" {interval.half_width:.3f} " in line
    assert len(KNOWN) == 3 and KNOWN[0] in SURE.ties and len(SURE.ties) < len(FRONT)
    assert text.count("~ ") == len(SURE.ties) + 1 and "~ mAP50-95 can't be told apart" in text
    assert "6 repeats with other seeds" in text
    for width in (20, 40, 60, 80):
        assert all(len(line) <= width for line in table(RESULTS, width).splitlines())


def test_without_repeats_the_table_is_as_narrow_as_before() -> None:
    text = table(PLAIN, 140)
    assert not any(word in text for word in ("+/-", "mean", "~", "tied"))
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(front_table(PLAIN, front(PLAIN), width=140))
    assert console.export_text() == text


def test_json_has_them_for_programs() -> None:
    data = json.loads(json.dumps(front_json(RESULTS, FRONT, certainty=SURE), allow_nan=False))
    by_trial = {member["trial"]: member for member in data["front"]}
    known, other = (
        by_trial[KNOWN[0]],
        by_trial[next(trial for trial in MEMBERS if trial not in SURE.ties and trial not in KNOWN)],
    )
    assert known["seeds"] == 3 and known["low"] < known["mean"] < known["high"]
    assert known["tied_with"] == list(SURE.ties[KNOWN[0]])
    assert (other["seeds"], other["mean"], other["tied_with"]) == (None, None, [])


def test_the_figure_has_error_bars_at_the_means() -> None:
    found = {trace.name: trace for trace in front_figure(front_series(RESULTS)).data}["mean of seeds, 95 %"]
    assert list(found.customdata) == KNOWN
    for trial, mean, up, down in zip(KNOWN, found.y, found.error_y["array"], found.error_y["arrayminus"], strict=True):
        interval = SURE.intervals[trial]
        assert (mean, mean + up, mean - down) == (interval.mean, mean + (interval.high - mean), interval.low)
    assert "mean of seeds, 95 %" not in {trace.name for trace in front_figure(front_series(PLAIN)).data}


def test_hover_says_how_sure_a_point_is() -> None:
    result = next(result for result in RESULTS if result.trial == KNOWN[0])
    text = hover_text(result, certainty=SURE)
    assert f"of 3 seeds {SURE.intervals[KNOWN[0]].mean:.3f}, 95 % interval" in text
    assert f"not told apart from trial {SURE.tied_with(KNOWN[0], ', ')}" in text
    assert "seeds" not in hover_text(result)


def test_the_page_says_it_and_an_old_run_says_nothing() -> None:
    run = sample_run()
    page = report_html(run.run, RESULTS, "results/x")
    assert f"3 of {len(FRONT)} members were trained again with other seeds" in page
    assert '<th scope="col">95 % interval</th>' in page and "can't be told apart from a neighbour" in page
    old = report_html(run.run, PLAIN, "results/x")
    assert "trained again" not in old and "95 % interval" not in old and "tied with" not in old
