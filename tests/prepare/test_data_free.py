"""`--data none`: how many images, where they are told of, and a search's inputs made of a teacher alone."""

import sys
from pathlib import Path

import pytest
import torch
from small import NAMES, opinionated, small_teacher

from nasdistill import cli
from nasdistill.data_free.inversion import InversionSettings
from nasdistill.devices.profile import load_devices
from nasdistill.errors import InputError
from nasdistill.export import model_card
from nasdistill.prepare import data_free
from nasdistill.prepare.data_free import affordable_batches, batch_size, divided, synthetic_data
from nasdistill.prepare.inputs import load_inputs
from nasdistill.progress import Progress
from nasdistill.records import TrialResult
from nasdistill.report.html import report_html
from nasdistill.report.live import LiveDisplay
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.session.data_free import SynthesisOnRequest
from nasdistill.store.provenance import data_free_note
from nasdistill.store.run_folder import RunFolder
from nasdistill.students.families import build_student

SPACE = "name: tiny\nimage_size: 64\nfamilies:\n  yolov5: {depth: 0.33, width: [0.0625, 0.125]}\nprune: {ratio: 0.0}\n"


def test_a_third_of_the_budget_whatever_the_timings_waver() -> None:
    assert affordable_batches(1800, 30.0) == 16  # 20 fit, rounded down to a power of the square root of 2
    assert affordable_batches(1800, 28.0) == affordable_batches(1800, 33.0)
    assert affordable_batches(60, 60.0) == data_free.FEWEST_BATCHES
    assert affordable_batches(1e6, 1.0) == data_free.MOST_BATCHES
    for budget_s in (300, 1000, 5000):
        assert affordable_batches(budget_s, 20.0) * 20.0 <= budget_s / 3
    assert [divided(count) for count in (2, 4, 16)] == [(1, 1), (3, 1), (12, 4)]
    assert [batch_size(size) for size in (256, 320, 640, 1280)] == [16, 16, 4, 4]


def test_a_budget_that_is_too_small_says_which_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"--budget 0s: a third of it is too little to synthesise 2 batches.*at least \d+s"
    ):
        synthetic_data(small_teacher(), 64, 0, "float32", tmp_path, 0.01, 1)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small detector with opinions, as Ultralytics writes one."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    model = opinionated(build_student("yolov5", {"depth": 0.33, "width": 0.125}, NAMES, 7).model, 7, contrast=0.1)
    model.names = dict(enumerate(NAMES))
    torch.save({"model": model, "train_args": {"imgsz": 64}}, path)
    return path


def test_a_searchs_inputs_from_a_teacher_alone(tmp_path: Path, teacher_file: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SPACE)
    settings = {"seed": None, "precision": "float32"}
    before = {"data_free": {"train_batches": 1, "val_batches": 1, "batch_size": 4}}  # of the run that is resumed
    clock = BudgetClock(parse_budget("1trials"))
    quick = InversionSettings(steps=2, batch_size=4)
    synthesis = SynthesisOnRequest(settings, before, clock, 1, tmp_path / "cache", Progress(LiveDisplay()), quick)
    inputs = load_inputs(
        None,
        teacher_file,
        None,
        False,
        str(tmp_path / "tiny.yaml"),
        load_devices(["local"]),
        tmp_path / "cache",
        synthesise=synthesis,
    )
    assert not inputs.demo and inputs.dataset.names == NAMES and inputs.class_order == tuple(range(6))
    assert {split: len(content) for split, content in inputs.dataset.splits.items()} == {"train": 4, "val": 4}
    described = synthesis.description()
    assert described["data"].startswith("none") and "no real image was seen" in described["note"]


def test_nothing_is_synthesised_for_inputs_that_are_wrong(teacher_file: Path, tmp_path: Path) -> None:
    def made(*arguments: object) -> Path:
        raise AssertionError("synthesised")

    devices = load_devices(["local"])
    with pytest.raises(InputError, match="unknown"):
        load_inputs(None, teacher_file, None, False, "edge", devices, tmp_path, synthesise=made)
    with pytest.raises(InputError, match="--data none: --teacher is missing"):
        load_inputs(None, None, None, False, "demo", devices, tmp_path, synthesise=made)


def test_report_and_card_say_that_no_real_image_was_seen(tmp_path: Path) -> None:
    facts = {"data_free": {"train_batches": 3, "val_batches": 1, "batch_size": 16}}
    note = data_free_note(facts)
    assert note is not None and "48 images to train on and 16 to score on" in note and "agreement" in note
    trial = TrialResult(
        trial=0, state="complete", family="yolov5", map50=0.5, map50_95=0.3, latency_ms=5.0, params_m=1.0
    )
    assert note in report_html(facts, [trial], "run")
    assert note[1:] in model_card(facts, trial, {})
    assert data_free_note({}) is None
    assert "no real image" not in report_html({}, [trial], "run") + model_card({}, trial, {})


@pytest.mark.slow
def test_a_whole_search_without_an_image(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: images, trials, front, report and card."""
    (tmp_path / "tiny.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NASDISTILL_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["nasdistill", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    given = ("--data", "none", "--teacher", teacher_file, "--space", "tiny.yaml", "--epochs", 2)
    shown = run("search", *given, "--budget", "240s", "--out", "run")
    assert "no real image was seen" in " ".join(shown.split())
    folder = RunFolder.open(tmp_path / "run")
    facts = folder.read_run()
    assert facts["data"].startswith("none") and facts["data_free"]["seconds"] < 100
    assert any(result.state == "complete" for result in folder.results())
    assert "no real image was seen" in folder.report_file.read_text(encoding="utf-8")
    run("export", "run")
    assert "o real image was seen" in next((tmp_path / "run" / "export").glob("*.md")).read_text(encoding="utf-8")
    assert folder.read_run()["images"] == {
        split: facts["data_free"][f"{split}_batches"] * facts["data_free"]["batch_size"] for split in ("train", "val")
    }
