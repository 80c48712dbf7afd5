"""The whole way through the command line, on real Ray: a search on a small demo, what reads it, training for longer."""

import csv
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from command_line import nasdistill

from nasdistill.distill.feed import Feed
from nasdistill.distill.inherit import adapt
from nasdistill.distill.stage import StageTraining
from nasdistill.errors import InterruptedSearchError
from nasdistill.measure.accuracy import Accuracy
from nasdistill.prepare.inputs import DEMO_TEACHER
from nasdistill.records import RungScore
from nasdistill.rung_files import RungFiles
from nasdistill.search.cluster import start_ray
from nasdistill.session import training_plan
from nasdistill.session.search import _measure_again
from nasdistill.session.session import Session
from nasdistill.store.run_folder import RunFolder
from nasdistill.students.slicing import SlicePlan
from nasdistill.students.student import Student
from nasdistill.tasks import T, Task

SPACE = """\
name: tiny
families: {yolov5: {depth: 0.33, width: [0.0625, 0.125]}}
image_size: 96
prune: {ratio: 0.1}
"""
# the default device, measured for a moment
DEVICE = "name: local\nruntime: onnxruntime\nwarmup_s: 0.0\nmin_samples: 4\nmax_seconds: 0.05\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, demo_yaml: Path) -> Iterator[Path]:
    """The folder of a search of two trials of two epochs each, with the teacher that ships."""
    work = tmp_path_factory.mktemp("work")
    (work / "tiny.yaml").write_text(SPACE)
    (work / "quick.yaml").write_text(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        patch.setenv("NASDISTILL_CACHE", str(work / "cache"))
        patch.setenv("COLUMNS", "120")
        patch.setattr("nasdistill.session.preparation.WARM_SECONDS_PER_LINEAGE", 1.0)
        inputs = (
            "--data",
            demo_yaml,
            "--teacher",
            DEMO_TEACHER,
            "--teacher-yaml",
            "yolov5n.yaml",
            "--space",
            "tiny.yaml",
        )
        options = ("--budget", "2trials", "--epochs", "2", "--repeats", "1", "--workers", "1", "--device", "quick.yaml")
        patch.setattr("nasdistill.session.search._measure_again", standing_still)
        code, out, err = nasdistill("search", *inputs, *options, "--out", "run", "--json")
        assert code == 0, err
        found = json.loads(out)
        assert found["run"] == "run" and 1 <= len(found["front"]) <= 2
        assert "\r" not in err
        steps = ["searching", "timing the students and the teacher again", "repeating the front"]
        assert sorted(steps, key=err.index) == steps, "who is on the front is known before it is repeated"
        yield work / "run"


@pytest.fixture(scope="module")
def workers_stay(run: Path) -> Iterator[None]:
    """One Ray for all trainings of the module: the search has shown that it starts and ends."""
    with start_ray(1, gpus=0):
        yield


def standing_still(session: Session) -> None:
    """The last measurement, which costs nothing of the budget."""
    before = session.clock.seconds
    _measure_again(session)
    time.sleep(0.2)
    assert session.clock.seconds == before


def test_what_a_search_leaves(run: Path) -> None:
    with open(run / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    assert {trial["param.yolov5.width"] for trial in trials} == {"0.0625", "0.125"}
    assert {trial["param.init"] for trial in trials} == {"teacher-slices"}
    assert all((trial["on_front"] == "true") == (trial["seeds"] == "2") for trial in trials)
    recorded = json.loads((run / "run.json").read_text())
    assert recorded["preparation"]["teacher_forward_passes"] > 0
    scouted = json.loads((run / "scouted.json").read_text())
    assert scouted and all(one["figures"]["latency_ms"] > 0 and one["params"]["family"] == "yolov5" for one in scouted)
    assert "<!doctype html>" in (run / "report.html").read_text()
    code, out, _ = nasdistill("pareto", run)
    assert code == 0 and "mAP50-95" in out and "2 complete" in out


@pytest.mark.parametrize("command", ["search", "train"])
def test_a_run_is_one_process_at_a_time(run: Path, command: str) -> None:
    arguments = ("--resume", "--out", run) if command == "search" else (run, "--trial", "0", "--budget", "4epochs")
    with RunFolder.open(run).held():
        code, _, err = nasdistill(command, *arguments)
    assert code == 2 and err.endswith("run: another process is working on it\n")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("teacher", {"sha256": "0" * 64}, "teacher demo_teacher.safetensors: it changed since the run was started"),
        ("device", {"name": "local"}, "device local: it changed since the run was started"),
        ("data_hash", "0", "data.yaml: the data changed since the run was started"),
        ("further_devices", [{"name": "phone"}], "a further device changed since the run was started"),
        ("preparation", {"seconds": 1.0}, "an earlier version began this run, from other starting weights"),
    ],
)
def test_what_belongs_on_no_front_of_the_run_is_refused(run: Path, key: str, value: object, words: str) -> None:
    file = run / "run.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), key: value}))
    try:
        code, _, err = nasdistill("search", "--resume", "--budget", "3trials", "--out", run)
    finally:
        file.write_text(before)
    assert code == 2 and words in err and err.splitlines()[-1].endswith("start a new run")


def test_a_run_keeps_its_search_space_whatever_becomes_of_the_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = json.loads((run / "run.json").read_text())["space_text"]
    Path("tiny.yaml").rename("gone.yaml")
    seen = []
    monkeypatch.setattr("nasdistill.session.search.tell_notes", lambda inputs, *rest: seen.append(inputs) or stop())
    code, _, _ = nasdistill("search", "--resume", "--budget", "3trials", "--out", run)
    Path("gone.yaml").rename("tiny.yaml")
    assert code == 130 and seen[0].space.text == kept


def stop() -> None:
    raise InterruptedSearchError("seen enough")


def test_a_student_is_exported_as_it_was_scored(run: Path) -> None:
    code, _, err = nasdistill("export", run, "--select", "fastest", "--format", "onnx,safetensors", "--out", "out")
    assert code == 0, err
    models = list(Path("out").glob("*.onnx"))
    assert len(models) == 1 and len(list(Path("out").iterdir())) == 3
    session = onnxruntime.InferenceSession(models[0], providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": np.zeros((1, 3, 96, 96), np.float32)})
    assert output.shape[:2] == (1, 10) and np.isfinite(output).all()


@pytest.mark.usefixtures("workers_stay")
def test_a_student_is_trained_for_longer_and_goes_on_after_ctrl_c(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trial at another length: kept beside the run, exported on request, and on no front."""
    before = (run / "run.json").read_text(), (run / "trials.csv").read_text()
    code, _, err = nasdistill("export", run, "--trial", "0", "--trained")
    assert code == 2 and "trial 0 was not trained for longer" in err
    save = RungFiles.save

    def save_and_stop(*arguments: object) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    scored = iter((0.4, 0.6, 0.5, 0.3))
    monkeypatch.setattr("nasdistill.trial_rungs.score", lambda *given: Accuracy(0.7, next(scored)))
    monkeypatch.setattr(RungFiles, "save", save_and_stop)
    command = ("train", run, "--trial", "0", "--budget", "4epochs", "--json")
    code, _, err = nasdistill(*command)
    assert code == 130 and "the same command goes on" in err and not (run / "trained/0000").exists()
    assert "augmented views" not in err and "warming the families" not in err, "all is there from the search"
    monkeypatch.setattr(RungFiles, "save", save)

    code, out, err = nasdistill(*command)
    assert code == 0 and "goes on with a training of 4 epochs" in err, err
    assert "goes on in stage 2 at step 2 of 11" in (run / "trained/0000/log.txt").read_text()
    trained = json.loads(out)["trial"]
    assert (trained["trial"], trained["epochs"], trained["map50_95"]) == (0, 2, 0.6), "the best on the way, not the end"
    assert (run / "trained/0000/student.onnx").is_file() and len(list((run / "trained").iterdir())) == 1
    assert "Trained for longer" in (run / "report.html").read_text()
    recorded = json.loads((run / "run.json").read_text())
    assert (recorded["training"], (run / "trials.csv").read_text()) == (json.loads(before[0])["training"], before[1])
    assert nasdistill("export", run, "--trial", "0", "--trained")[0] == 0
    assert (run / "export/run-0000-trained.onnx").read_bytes() == (run / "trained/0000/student.onnx").read_bytes()
    assert "| training | 2 epochs |" in (run / "export/run-0000-trained.md").read_text()


def in_this_process(tasks: Sequence[Task[T]], on_progress: object = None, **options: object) -> list[T]:
    return [task(lambda text: None) for task in tasks]


@pytest.mark.usefixtures("workers_stay")
def test_a_long_training_has_views_of_its_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the search's, as many again after Ctrl-C; the student starts from the weights that its trial started from."""
    monkeypatch.setattr(training_plan, "LOOKS", 0.7)
    monkeypatch.setattr(training_plan, "POOL_SHARE", 1e3)
    monkeypatch.setattr(training_plan, "usable_cores", lambda: 1)  # both: the training above
    monkeypatch.setattr("nasdistill.session.resources.run_tasks", in_this_process)  # on Ray: the search
    fitted_on, trained_on = [], []

    def adapting(student: Student, plan: SlicePlan, feed: Feed, *rest: Any) -> None:
        fitted_on.append(len(feed.views))
        adapt(student, plan, feed, *rest)

    def saving(files: RungFiles, training: StageTraining, score: RungScore) -> None:
        trained_on.append(len(training._feed.views))
        save(files, training, score)
        if len(trained_on) == 1:
            raise KeyboardInterrupt

    save = RungFiles.save
    monkeypatch.setattr("nasdistill.workbench.adapt", adapting)
    monkeypatch.setattr(RungFiles, "save", saving)
    command = ("train", run, "--trial", "1", "--budget", "3epochs", "--json")
    code, _, err = nasdistill(*command)
    of_run = json.loads((run / "run.json").read_text())["preparation"]["views"]
    assert code == 130 and "augmented views" in err and "teacher targets" in err, err
    views = int(re.search(r"3 epochs of (\d+) views", err).group(1))
    assert views > of_run and trained_on == [views] and set(fitted_on) == {of_run}
    code, _, err = nasdistill(*command)
    assert code == 0 and "goes on with a training of 3 epochs" in err, err
    assert "augmented views" not in err and trained_on == [views, views]
    assert json.loads((run / "run.json").read_text())["preparation"]["views"] == of_run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "3trials"), "a training takes time (30m, 2h) or 200epochs"),
        (("--budget", "1s", "--trial", "0"), "budget '1s' is too short: an epoch takes"),
        (("--budget", "1m", "--trial", "9"), "trial 9"),
        (("--budget", "1m", "--select", "map50>=2"), "map50>=2"),
    ],
)
@pytest.mark.usefixtures("workers_stay")
def test_trainings_that_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr(training_plan, "usable_cores", lambda: 1)
    code, _, err = nasdistill("train", run, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1
    assert not list((run / "trained").glob("*.under-way/student.*"))
