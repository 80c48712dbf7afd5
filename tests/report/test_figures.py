import math

import plotly.graph_objects as go
import pytest
from sample_run import sample_results

from nasdistill.records import TrialResult
from nasdistill.report.front_figure import cost_axis, front_figure
from nasdistill.report.hover import hover_text
from nasdistill.report.palette import DARK, LIGHT
from nasdistill.report.series import accuracy_span, front_series, hypervolume_series, parameter_series
from nasdistill.report.small_figures import hypervolume_figure, parameter_figure
from nasdistill.report.teacher import Teacher

RESULTS = sample_results(120)
TEACHER = Teacher(name="<b>t</b>", map50=0.871, map50_95=0.472, latency_ms=38.9)
SERIES = front_series(RESULTS, teacher=TEACHER)


def traces(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data}


def test_front_figure_tells_the_groups_apart():
    found = traces(front_figure(SERIES))
    assert set(found) == {
        "best within this latency", "dominated", "front", "knee", "teacher's accuracy", "teacher",
        "stopped", "rejected", "failed",
    }  # fmt: skip
    line = found["best within this latency"]
    assert line.line.shape == "hv" and list(zip(line.x, line.y, strict=True)) == list(SERIES.step)
    points = [found[name] for name in ("dominated", "front", "knee", "stopped", "rejected", "failed")]
    assert len({trace.marker.symbol for trace in points}) == len(points)
    assert len({trace.marker.color for trace in points}) == len(points)
    assert {*found["front"].customdata, *found["knee"].customdata} == {m.trial for m in SERIES.front}
    assert found["knee"].customdata == (SERIES.knee.trial,)
    assert found["teacher"].x == (38.9,) and found["teacher"].marker.symbol == "star"
    assert found["teacher's accuracy"].line.dash == "dot"


def test_students_trained_for_longer_are_marked_apart_with_a_label_of_their_own():
    longer = [SERIES.knee.model_copy(update={"map50_95": 0.6, "epochs": 193})]
    found = traces(front_figure(SERIES, trained=longer))["trained for longer"]
    assert found.y == (0.6,) and found.x == (SERIES.knee.latency_ms,)
    assert found.customdata is None, "by the trial's number the page would find the search's label"
    assert "trained for 193 epochs" in found.text[0] and "mAP50-95 <b>0.600</b>" in found.text[0]


def test_a_student_trained_for_longer_is_within_the_plot():
    low, high = SERIES.cost_range
    longer = [SERIES.knee.model_copy(update={"latency_ms": latency}) for latency in (low / 2, high * 2)]
    series = front_series(RESULTS, trained=longer)
    left, right = cost_axis(series, "linear")["range"]
    assert left <= low / 2 and right >= high * 2
    left, right = front_figure(series, "log", trained=longer).layout.xaxis.range
    assert 10**left <= low / 2 and 10**right >= high * 2


def test_unscored_trials_have_no_accuracy_in_the_figure():
    found = traces(front_figure(SERIES))
    for state in ("stopped", "rejected", "failed"):
        trace = found[state]
        assert trace.yaxis == "y2" and set(trace.y) == {state}
        timed = [r for r in RESULTS if r.state == state and r.latency_ms is not None]
        assert list(trace.x) == [r.latency_ms for r in timed]
    untimed = [r.trial for r in RESULTS if r.state == "failed" and r.latency_ms is None]
    assert untimed and not set(untimed) & set(found["failed"].customdata)


def test_hover_has_the_trial_and_all_its_parameters():
    found = traces(front_figure(SERIES))
    by_number = {r.trial: r for r in RESULTS}
    for trace in (found["front"], found["dominated"], found["failed"]):
        for number, text in zip(trace.customdata, trace.text, strict=True):
            assert f"trial {number}<" in text
            assert all(f"{name}: " in text for name in by_number[number].params)


def test_hover_escapes_what_comes_from_outside():
    evil = "<img src=x onerror=alert(1)>"
    result = TrialResult(trial=1, state="failed", family=evil, reason=evil, params={evil: evil})
    text = hover_text(result)
    assert "<img" not in text and text.count("&lt;img src=x onerror=alert(1)&gt;") == 4
    assert "<b>t</b>" not in traces(front_figure(SERIES))["teacher"].text[0]


def test_hover_figures():
    result = next(r for r in RESULTS if r.state == "complete")
    text = hover_text(result, TEACHER)
    assert f"mAP50-95 <b>{result.map50_95:.3f}</b>" in text
    assert f"{result.map50_95 / 0.472 * 100:.0f} % of the teacher's mAP50-95" in text
    assert f"{38.9 / result.latency_ms:.1f}x faster" in text
    assert "teacher" not in hover_text(result)


def test_small_and_empty_runs_are_drawn():
    one = next(r for r in RESULTS if r.state == "complete")
    assert traces(front_figure(front_series([one])))["knee"].x == (one.latency_ms,)
    assert "knee" not in traces(front_figure(front_series([])))
    without_latency = Teacher(name="t", map50_95=0.5)
    found = traces(front_figure(front_series([one], teacher=without_latency)))
    assert "teacher" not in found and found["teacher's accuracy"].showlegend
    assert len(hypervolume_figure(hypervolume_series([])).data[0].x) == 0


def test_latency_axis_in_both_scales():
    log, linear = cost_axis(SERIES, "log"), cost_axis(SERIES, "linear")
    low, high = SERIES.cost_range
    assert log["range"] == [math.log10(low), math.log10(high)] and linear["range"] == [0, high]
    assert [float(t) for t in log["ticktext"]] == log["tickvals"]
    assert cost_axis(SERIES)["type"] == "log"
    assert cost_axis(front_series(RESULTS[:1]))["type"] == "linear"


@pytest.mark.parametrize("parameter", parameter_series(RESULTS), ids=lambda p: p.name)
def test_parameter_figures_pair_values_with_scores(parameter):
    figure = parameter_figure(parameter, SERIES, accuracy_span(RESULTS), most=1000)
    by_number = {r.trial: r for r in RESULTS}
    drawn = 0
    for trace in figure.data:
        for number, x, y in zip(trace.customdata, trace.x, trace.y, strict=True):
            drawn += 1
            value = by_number[number].params[parameter.name]
            assert x == (value if parameter.numeric else str(value)) and y == by_number[number].map50_95
            assert (trace.name == "front") == (by_number[number] in SERIES.front)
    assert drawn == len(parameter.results)
    assert figure.layout.xaxis.type == ("category" if not parameter.numeric else "log" if parameter.log else "linear")


def test_hypervolume_figure_shows_the_series():
    series = hypervolume_series(RESULTS)
    trace = hypervolume_figure(series).data[0]
    assert trace.line.shape == "hv" and list(trace.x) == list(series.finished)
    assert list(trace.y) == pytest.approx(list(series.share), abs=1e-5)


def test_each_light_colour_has_one_dark_one():
    assert set(LIGHT) == set(DARK) and len(set(LIGHT.values())) == len(LIGHT)
