"""Reports, tables and lines of runs with three objectives or several devices; those of others are as they were."""

from __future__ import annotations

import io
import json
import re

from rich.console import Console
from sample_run import TEACHER, sample_results, sample_run
from test_html import Structure

from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import TrialResult
from nasdistill.report.console import front_json, front_table
from nasdistill.report.format import factor, number
from nasdistill.report.front_figure import front_figure
from nasdistill.report.html import report_html
from nasdistill.report.live import trial_line
from nasdistill.report.series import front_series
from nasdistill.report.teacher import teacher_of

THREE = DEFAULT.against("latency_ms", "params_m")
ON_PHONE = DEFAULT.against("latency_ms@phone")


def on_phone(result: TrialResult) -> TrialResult:
    """The phone is slower, and slowest of all for YOLOv5."""
    if result.latency_ms is None:
        return result
    latency = result.latency_ms * (9.0 if result.family == "yolov5" else 3.0)
    return result.model_copy(update={"further": {"latency_ms@phone": latency, "latency_p90_ms@phone": latency}})


RESULTS = [on_phone(result) for result in sample_results()]
RUN = sample_run().run | {
    "objectives": ["map50_95", "latency_ms", "latency_ms@phone"],
    "further_devices": [{"name": "phone", "runtime": "onnxruntime"}],
    "reference": {"latency_ms": 42.8, "latency_ms@phone": 300.0},
    "teacher": TEACHER | {"latency_ms@phone": 270.0},
}


def shown(run: dict, results: list[TrialResult] = RESULTS) -> tuple[str, dict]:
    structure = Structure(report_html(run, results, "results/x"))
    return re.sub(r"\s+", " ", " ".join(structure.text)), json.loads(structure.scripts[0])


def test_two_devices_have_a_view_and_a_table_each() -> None:
    text, data = shown(RUN)
    assert len(data["views"]) == 4
    for words in ("on local alone", "on phone alone", "devices local, phone", "latency on phone 300 ms", "On phone ("):
        assert words in text, words
    assert "nasdistill export results/x --device phone --trial best" in text

    def members(view: int) -> set[int]:
        traces = {trace["name"]: trace for trace in data["views"][view]["front"]["map50_95"]["data"]}
        return set(traces["front"]["customdata"]) | set(traces["knee"]["customdata"])

    both, here, there = DEFAULT.against("latency_ms", "latency_ms@phone"), DEFAULT, ON_PHONE
    assert members(0) == members(1) == {m.trial for m in front(RESULTS, both)}
    assert (
        members(2) == {m.trial for m in front(RESULTS, here)} != members(3) == {m.trial for m in front(RESULTS, there)}
    )
    star = next(trace for trace in data["views"][3]["front"]["map50"]["data"] if trace["name"] == "teacher")
    assert star["x"] == [270.0]
    assert "on phone" in data["views"][3]["axes"]["log"]["title"]["text"]


def test_a_third_objective_is_the_colour_and_the_line_only_rises() -> None:
    series = front_series(RESULTS, THREE)
    assert (series.cost.name, series.color.name) == ("latency_ms", "params_m")
    trace = next(trace for trace in front_figure(series).data if trace.name == "front")
    by_trial = {r.trial: r.params_m for r in RESULTS}
    assert list(trace.marker.color) == [by_trial[trial] for trial in trace.customdata]
    assert trace.marker.colorbar.title.text == "parameters, M"
    heights = [height for _, height in series.step]
    assert heights[:-1] == sorted(set(heights)) and len(series.step) - 1 <= len(series.front)
    assert series.step[:-1] == front_series(RESULTS).step[:-1], "the line is the front without the third objective"
    turned = front_series(RESULTS, THREE, cost=THREE.costs[1])
    assert turned.color.name == "latency_ms" and turned.front == series.front


def test_other_objectives_are_named_in_the_page() -> None:
    run = sample_run().run | {"objectives": ["map50", "params_m"], "reference": {"params_m": 10.0}}
    text, data = shown(run)
    assert data["accuracy"] == "map50" and len(data["views"]) == 1
    for words in (
        "Accuracy against parameters",
        "least parameters on the front",
        "parameters 10.0 M",
        "Least parameters first",
    ):
        assert words in text, words


def test_the_teacher_and_longer_trainings_are_compared_on_the_device_that_is_the_objective() -> None:
    run = RUN | {"objectives": ["map50_95", "latency_ms@phone"]}
    student = next(result for result in RESULTS if result.state == "complete")
    page = report_html(run, RESULTS, "results/x", [student.model_copy(update={"epochs": 99})])
    text = re.sub(r"\s+", " ", " ".join(Structure(page).text))
    assert "270 ms on phone, " in text
    longer = text[text.index("Trained for longer") :]
    on_the_phone = student.further["latency_ms@phone"]
    assert "latency ms on phone" in longer and number(on_the_phone) in longer
    assert factor(270.0 / on_the_phone) in longer


def table(width: int, **options: object) -> str:
    objectives = options.get("objectives", DEFAULT)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(front_table(RESULTS, front(RESULTS, objectives), teacher_of(RUN), width=width, **options))
    return console.export_text()


def test_an_objective_is_never_dropped_from_the_table() -> None:
    narrow = table(50, objectives=DEFAULT.against("params_m", "gflops"))
    assert "params M" in narrow and "GFLOPs" in narrow and "p90" not in narrow
    phone = table(140, objectives=ON_PHONE)
    assert "ms phone" in phone and "p90 ms phone" in phone and "at 270 ms on phone" in phone
    assert not re.search(r"\bms\s+p90", phone), "the latency of this machine has no place there"
    assert "GFLOPs" not in table(200) and "phone" not in table(200)


def test_json_says_what_it_is_a_front_of() -> None:
    data = front_json(RESULTS, front(RESULTS, ON_PHONE), teacher_of(RUN), objectives=ON_PHONE)
    assert data["objectives"] == ["map50_95", "latency_ms@phone"]
    first = data["front"][0]
    assert first["speed_up"] == 270.0 / first["further"]["latency_ms@phone"]


def test_a_finished_trial_is_told_with_every_objective() -> None:
    result = next(r for r in RESULTS if r.state == "complete")
    assert trial_line(result).endswith(" ms")
    line = trial_line(result, DEFAULT.against("latency_ms@phone", "params_m"))
    assert line.startswith(trial_line(result)) and " ms on phone, parameters " in line and line.endswith(" M")
