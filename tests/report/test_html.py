import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import plotly.offline
import pytest
from sample_run import SampleRun, sample_results, sample_run

from nasdistill.records import TrialResult
from nasdistill.report.html import report_html, run_argument, script_json, write_report
from nasdistill.store.run_folder import RunFolder

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<!--"


class Structure(HTMLParser):
    """The page's tags with the names of their attributes, its text, and its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text.append(data)


def page_of(run: SampleRun) -> str:
    return report_html(run.read_run(), run.results(), "results/deeppcb-30m")


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(sample_run())


def test_the_page_says_what_a_reader_needs(page):
    text = re.sub(r"\s+", " ", " ".join(Structure(page).text))
    for words in (
        "deeppcb-30m", "9 of 40 trials are on the front", "knee, trial 20 (yolov5)", "mAP50-95 0.302", "in 3.76 ms",
        "64 % of the teacher's accuracy at 10.4x its speed", "pcb_teacher", "29 min 41 s",
        "33 complete, 6 rejected, 1 failed",
        "nasdistill export results/deeppcb-30m --trial best --format onnx",
        "nasdistill export results/deeppcb-30m --trial 25 --format onnx",
        "loss became NaN in stage 1, epoch 2", "edge-default", "onnxruntime", "4d1f0a9be2c3", "rank correlation",
    ):  # fmt: skip
        assert words in text, words


def test_the_data_in_the_page_is_that_of_the_figures(page):
    data = json.loads(Structure(page).scripts[0])
    assert set(data["views"][0]["front"]) == {"map50", "map50_95"}
    (view,) = data["views"]
    names = [trace["name"] for trace in view["front"]["map50"]["data"]]
    assert {"front", "knee", "dominated", "teacher", "failed"} <= set(names)
    trials = {t for trace in view["front"]["map50_95"]["data"] for t in trace.get("customdata") or ()}
    assert trials <= {int(number) for number in data["hover"]} == set(range(40))
    assert "text" not in next(t for t in view["front"]["map50"]["data"] if t["name"] == "front")


def test_nothing_from_outside_becomes_markup(page):
    def spoil(value: object) -> object:
        if isinstance(value, dict):
            return {EVIL + key if key in ("versions", "cpu") else key: spoil(v) for key, v in value.items()}
        return EVIL if isinstance(value, str) and value not in ("map50_95", "latency_ms") else value

    clean = sample_run()
    results = [
        r.model_copy(
            update={
                "family": EVIL + r.family,
                "reason": EVIL + r.reason if r.reason else "",
                "params": {
                    k if k == "family" else EVIL + k: EVIL + v if isinstance(v, str) else v for k, v in r.params.items()
                },
            }
        )
        for r in clean.trials
    ]
    run = {k: spoil(v) for k, v in clean.run.items()}
    spoiled = report_html(run, results, "results/" + EVIL)
    expected, found = Structure(page), Structure(spoiled)
    assert found.tags == expected.tags
    assert [tag for tag in found.tags if tag[0] == "script"] == [("script", "type", "id"), ("script",), ("script",)]
    assert found.scripts[1:] == expected.scripts[1:]
    assert not any(name.startswith("on") for _, *names in found.tags for name in names)
    assert not any(tag[0] in ("img", "a", "link", "iframe", "base", "object") for tag in found.tags)
    assert "alert(1)" in " ".join(found.text)  # it is there, as text
    assert "<" not in found.scripts[0] and json.loads(found.scripts[0])["hover"]


def test_the_check_for_markup_can_fail():
    assert Structure(f"<p>{EVIL}</p>").tags != Structure("<p>x</p>").tags


def test_the_page_needs_no_network(page):
    own = page.replace(Structure(page).scripts[1], "")
    assert not re.search(r"https?://|url\(|@import|\bsrc=|\bhref=|fetch\(|XMLHttpRequest", own)
    assert "default-src 'none'" in page and "connect-src" not in page
    assert page.count("plotly.js (basic - minified)") == 1


def test_the_policy_names_exactly_the_scripts_of_the_page(page):
    import base64
    import hashlib

    allowed = re.findall(r"'sha256-([^']+)'", page[:1000])
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in Structure(page).scripts[1:]]
    assert allowed == hashes


def test_the_bundle_is_of_the_version_that_plotly_speaks(page):
    version = re.search(r"plotly\.js \(basic - minified\) v([\d.]+)", page)
    assert version and version[1] == plotly.offline.get_plotlyjs_version()


@pytest.mark.parametrize(
    ("run", "results"),
    [
        ({}, []),
        ({"name": None, "teacher": None, "device": "local", "objective": "x", "reference": {"latency_ms": -1}}, []),
        ({"teacher": {}, "device": {}, "reference": 3, "versions": [], "seconds": "long"}, sample_results(3)),
        ({"objective": {"accuracy": "map50"}, "teacher": {"map50": 0.9}}, sample_results(40)),
        ({}, [TrialResult(trial=0, state="failed", family="f", reason="r")]),
        ({}, [sample_results(40)[0]]),
    ],
)
def test_incomplete_runs_still_have_a_report(run, results):
    found = Structure(report_html(run, results, "results/x"))
    assert json.loads(found.scripts[0])["views"]
    assert "None" not in " ".join(found.text) and "nan" not in " ".join(found.text).split()


def test_script_json_is_safe_and_exact():
    value = {"a": "</script>&\u2028<!--", "b": [1, None, 0.5]}
    text = script_json(value)
    assert not set("<>&\u2028") & set(text) and json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        script_json(float("nan"))


def test_report_of_a_run_folder_that_was_moved(tmp_path):
    folder = RunFolder.create(tmp_path / "results" / "my run")
    for result in sample_results(12):
        folder.write_trial(result)
    folder.update_run(name="my run", teacher={"name": "t", "map50_95": 0.5})
    moved = shutil.move(folder.path, tmp_path / "elsewhere")
    run = RunFolder.open(moved)
    written = write_report(run, run.report_file)
    assert written == run.report_file and written.stat().st_size < 1_500_000
    text = " ".join(Structure(written.read_text(encoding="utf-8")).text)
    assert "my run" in text and "nasdistill export elsewhere --trial" in text
    assert str(tmp_path) not in written.read_text(encoding="utf-8")
    assert run_argument(tmp_path / "results" / "a") == "results/a"


def test_a_browser_draws_it(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: the page is not drawn in this test")
    path = write_report(sample_run(), tmp_path / "report.html")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--virtual-time-budget=4000", "--enable-logging=stderr", "--dump-dom", Path(path).as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if ended.returncode != 0 or "<html" not in ended.stdout:
        pytest.skip(f"Chromium does not start here: {ended.stderr.strip().splitlines()[-1:]}")
    drawn = ended.stdout
    assert "Content Security Policy" not in ended.stderr and "Uncaught" not in ended.stderr
    front = drawn[drawn.index('id="plot-front"') : drawn.index('id="members-title"')]
    assert "main-svg" in front and front.count('class="point') >= 40
    assert "main-svg" in drawn[drawn.index('id="plot-hypervolume"') : drawn.index('id="parameters-title"')]
