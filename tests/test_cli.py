"""The command line: help that is instant, and one clear line with exit code 2 for everything that can be typed wrong."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import command_line
import pytest
import torch
from command_line import Outcome
from small import tiny_student
from torch import nn
from ultralytics.nn.tasks import ClassificationModel

from nasdistill import __version__
from nasdistill.data.defects import CLASS_NAMES
from nasdistill.space.families import FAMILIES
from nasdistill.store.run_folder import RunFolder

HELP = """\
Usage: nasdistill [OPTIONS] COMMAND [ARGS]...

  Search student detectors and distillation recipes for your device: a
  teacher, images and a budget in, a Pareto front of distilled detectors out.

Options:
  --version  Print the version.
  --help     Show this message and exit.

Commands:
  search   Search within a budget; ends in a run folder with the front,...
  train    Train a student of a run for longer, on as many cores as help;...
  pareto   Print the front of a run as a table.
  report   Write one self-contained HTML page about a run.
  export   Write a student's model in deployable formats, with a model card.
  profile  Measure the latency of one model on a device.
  devices  List the shipped devices.
  spaces   List the shipped search spaces and the families there are.
"""
COMMANDS = ("search", "train", "pareto", "report", "export", "profile", "devices", "spaces")
HEAVY = ("torch", "ray", "ultralytics", "timm", "optuna", "onnxruntime", "pandas", "plotly", "numpy", "cv2")


Nasdistill = Callable[..., Outcome]


@pytest.fixture
def nasdistill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nasdistill:
    """Runs the command line in this process, in an empty folder, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NASDISTILL_CACHE", str(tmp_path / "cache"))

    return command_line.nasdistill


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EROFS, 1), (errno.ENOENT, None)])
def test_a_disk_that_takes_nothing_is_one_line(
    nasdistill: Nasdistill, monkeypatch: pytest.MonkeyPatch, number: int, code: int | None
) -> None:
    def full(*given: object, **more: object) -> None:
        raise OSError(number, os.strerror(number), "results/run.json")

    monkeypatch.setattr("nasdistill.cli.app", full)
    if code is None:  # a bug keeps its traceback
        with pytest.raises(OSError, match="No such file"):
            nasdistill("report", "results")
    else:
        found = nasdistill("report", "results")
        words = f"nasdistill: results/run.json: {os.strerror(number)}; what was finished is kept\n"
        assert (found.code, found.err) == (code, words)


class TestHelp:
    """`--help` lists what is there, and costs nothing."""

    @pytest.mark.parametrize("arguments", [("--help",), ()])
    def test_the_root_is_pinned(self, nasdistill: Nasdistill, arguments: tuple[str, ...]) -> None:
        assert nasdistill(*arguments) == Outcome(0, HELP, "")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_one(self, nasdistill: Nasdistill, command: str) -> None:
        outcome = nasdistill(command, "--help")
        assert outcome.code == 0 and outcome.err == ""
        assert outcome.out.startswith(f"Usage: nasdistill {command} ")

    def test_version(self, nasdistill: Nasdistill) -> None:
        assert nasdistill("--version") == Outcome(0, f"nasdistill {__version__}\n", "")

    def test_nothing_heavy_is_imported(self) -> None:
        script = (
            "import sys, time\n"
            "from nasdistill.cli import main\n"
            "sys.argv = ['nasdistill', '--help']\n"
            "try:\n"
            "    main()\n"
            "except SystemExit as stop:\n"
            "    assert not stop.code\n"
            f"print([name for name in {HEAVY!r} if name in sys.modules], time.process_time())\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        *_, last = done.stdout.strip().splitlines()
        imported, seconds = last.rsplit(" ", 1)
        assert imported == "[]"
        assert float(seconds) < 3  # processor time, which a busy machine does not change


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's checkpoint whose classes are the demo's."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    model = tiny_student().model
    model.names = dict(enumerate(CLASS_NAMES))
    torch.save({"model": model, "train_args": {"imgsz": 64}}, path)
    return path


def refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, one line on standard error that holds `words`, and nothing left behind."""
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("nasdistill: ") and outcome.err.count("\n") == 1, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert word in outcome.err
    assert not Path("results").exists()


class TestWrongSearches:
    """Each wrong input of a search is told before anything is spent on it."""

    @pytest.fixture(autouse=True)
    def nothing_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A search that goes ahead fails at once, instead of running for minutes."""

        def started(*arguments: object, **options: object) -> None:
            raise AssertionError("the search has started")

        monkeypatch.setattr("nasdistill.session.resources.start_ray", started)

    def test_a_cache_that_cannot_be_written(
        self, nasdistill: Nasdistill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("NASDISTILL_CACHE", "file/cache")
        code, _, err = nasdistill("search", "--budget", "1trials")
        assert code == 2 and "cache folder file/cache: cannot be used" in err and "NASDISTILL_CACHE" in err
        assert err.count("\n") == 1 and not (tmp_path / "results").exists()

    def test_what_is_right_would_start(self, nasdistill: Nasdistill, demo_yaml: Path, teacher: Path) -> None:
        with pytest.raises(AssertionError, match="the search has started"):
            nasdistill("search", "--budget", "1trials", "--data", demo_yaml, "--teacher", teacher)

    @pytest.mark.parametrize("budget", ["5x", "", "0s", "-5m", "2.5trials", "5 minutes", "nan"])
    def test_budget(self, nasdistill: Nasdistill, budget: str) -> None:
        refused(nasdistill("search", "--budget", budget), "budget", "40trials")

    def test_no_budget(self, nasdistill: Nasdistill) -> None:
        refused(nasdistill("search"), "--budget")

    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("--sampler", "tpee", ("unknown sampler 'tpee'", "tpe", "random", "nsga2", "qmc")),
            ("--constraint", "latncy<=20", ("--constraint 'latncy<=20'", "unknown figure", "latency_ms")),
            ("--constraint", "fast please", ("not understood", "latency_ms<=20")),
            ("--constraint", "latency_ms<=0", ("no student keeps it",)),
            ("--constraint", "latency_ms>=5", ("latency_ms takes <=",)),
            ("--constraint", "map50>=0.5", ("only after training",)),
            ("--enqueue", "missing.yaml", ("--enqueue missing.yaml", "no such file")),
            ("--warm-start", "missing", ("run folder missing", "no such folder")),
            ("--recipe", "fast", ("unknown recipe 'fast'", "short", "classic")),
            ("--precision", "int8", ("unknown precision 'int8'", "bfloat16")),
            ("--cache", "big", ("unknown cache 'big'", "auto, full, sparse, online")),
            ("--device", "phone", ("unknown device 'phone'", "local")),
            ("--device", "phone.yaml", ("phone.yaml",)),
            ("--objectives", "map50", ("--objectives map50", "one of map50_95 and map50", "params_m")),
            ("--objectives", "map50_95,latncy_ms", ("unknown figure 'latncy_ms'", "latency_p90_ms")),
            ("--objectives", "map50_95,latency_ms@phone", ("no device 'phone'", "local")),
            ("--constraint", "latency_ms@phone<=3", ("no device 'phone'", "local")),
            ("--space", "edge", ("edge", "edge-default", "demo")),
            ("--space", "mine.yaml", ("mine.yaml",)),
            ("--workers", "0", ("--workers",)),
            ("--workers", "two", ("--workers",)),
            ("--epochs", "0", ("--epochs",)),
            ("--epochs", "100000", ("epochs",)),
            ("--seed", "-1", ("--seed",)),
            ("--repeats", "-1", ("--repeats",)),
            ("--gpus-per-trial", "-1", ("gpus-per-trial",)),
            ("--colour", "red", ("--colour",)),
        ],
    )
    def test_options(self, nasdistill: Nasdistill, option: str, value: str, words: tuple[str, ...]) -> None:
        refused(nasdistill("search", "--budget", "1trials", option, value), *words)

    @pytest.mark.parametrize(("given", "missing"), [("--data", "--teacher"), ("--teacher", "--data")])
    def test_one_of_data_and_teacher(self, nasdistill: Nasdistill, given: str, missing: str) -> None:
        refused(nasdistill("search", "--budget", "1trials", given, "x"), f"{missing} is missing")

    def test_no_data_needs_a_teacher(self, nasdistill: Nasdistill) -> None:
        refused(nasdistill("search", "--budget", "1trials", "--data", "none"), "--data none", "--teacher is missing")

    def test_an_unknown_key_in_a_space(self, nasdistill: Nasdistill, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(
            "name: mine\nimage_size: 96\nfamilies:\n  yolov5: {depth: 0.33, widht: 0.25}\n"
        )
        refused(nasdistill("search", "--budget", "1trials", "--space", "mine.yaml"), "mine.yaml", "line 4", "widht")

    @pytest.mark.parametrize(
        ("family", "words"),
        [
            ("shufflenetv2: {variant: x3.0, neck: 32}", ("families.shufflenetv2.variant", "x3.0", "x0.5, x1.0, x1.5")),
            ("yolov8: {depth: 0.33, width: 0.0625, width_p2: 0.25}", ("width_p2", "rounds to zero", "at least 0.5")),
            ("dynamicconv: {width: [0.125, 1.0], neck: 32}", ("dynamicconv.width", "rounds to zero", "at least 0.25")),
            ("yolov5: {depth: 0.33, width: 0.25, levels: [3, 5]}", ("levels", "P7", "128 px", "96", "at most 4")),
            ("yolov5: {depth: 0.33, width: 0.25, levels: 6}", ("yolov5.levels", "6 is outside [3, 5]")),
        ],
    )
    def test_a_student_that_cannot_be(
        self, nasdistill: Nasdistill, tmp_path: Path, family: str, words: tuple[str, ...]
    ) -> None:
        (tmp_path / "mine.yaml").write_text(f"name: mine\nimage_size: [96, 256]\nfamilies:\n  {family}\n")
        refused(nasdistill("search", "--budget", "1trials", "--space", "mine.yaml"), "mine.yaml", "line 4", *words)

    def test_an_unknown_key_in_a_device(self, nasdistill: Nasdistill, tmp_path: Path) -> None:
        (tmp_path / "board.yaml").write_text("name: board\nruntime: onnxruntime\nthread: 2\n")
        refused(nasdistill("search", "--budget", "1trials", "--device", "board.yaml"), "board.yaml", "thread")

    @pytest.mark.parametrize(
        ("text", "word"),
        [(None, "data.yaml"), ("names: [", "data.yaml"), ("- 1\n- 2\n", "data.yaml"), ("train: a\nval: b\n", "names")],
    )
    def test_data(self, nasdistill: Nasdistill, tmp_path: Path, teacher: Path, text: str | None, word: str) -> None:
        if text is not None:
            (tmp_path / "data.yaml").write_text(text)
        refused(nasdistill("search", "--budget", "1trials", "--data", "data.yaml", "--teacher", teacher), word)

    def test_an_empty_split(self, nasdistill: Nasdistill, tmp_path: Path, teacher: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "data.yaml").write_text("train: a\nval: a\nnames: [open, short]\n")
        refused(nasdistill("search", "--budget", "1trials", "--data", "data.yaml", "--teacher", teacher), "train")

    def test_classes_that_do_not_match(self, nasdistill: Nasdistill, tmp_path: Path, demo_yaml: Path) -> None:
        path = tmp_path / "cats.pt"
        model = tiny_student().model
        model.names = dict(enumerate(["cat", "dog", "cow", "hen", "pig", "ant"]))
        torch.save({"model": model}, path)
        outcome = nasdistill("search", "--budget", "1trials", "--data", demo_yaml, "--teacher", path)
        refused(outcome, "does not know the classes", "mousebite", "cat")

    def teacher_refused(self, nasdistill: Nasdistill, demo_yaml: Path, path: Path, *words: str) -> None:
        refused(nasdistill("search", "--budget", "1trials", "--data", demo_yaml, "--teacher", path), str(path), *words)

    def test_teacher_that_is_no_detector(self, nasdistill: Nasdistill, tmp_path: Path, demo_yaml: Path) -> None:
        path = tmp_path / "classifier.pt"
        torch.save({"model": ClassificationModel("yolo11n-cls.yaml", nc=3, verbose=False)}, path)
        self.teacher_refused(nasdistill, demo_yaml, path, "no detector", "Classify")

    def test_teacher_with_a_foreign_class(self, nasdistill: Nasdistill, tmp_path: Path, demo_yaml: Path) -> None:
        path = tmp_path / "foreign.pt"
        model = tiny_student().model
        model.extra = Foreign()
        torch.save({"model": model}, path)
        self.teacher_refused(nasdistill, demo_yaml, path, "Foreign", "--trust-teacher")

    def test_teacher_that_is_missing_or_broken_or_bare(
        self, nasdistill: Nasdistill, tmp_path: Path, demo_yaml: Path
    ) -> None:
        self.teacher_refused(nasdistill, demo_yaml, tmp_path / "none.pt", "no such teacher file")
        (tmp_path / "text.pt").write_text("not a checkpoint")
        self.teacher_refused(nasdistill, demo_yaml, tmp_path / "text.pt", "not a readable torch checkpoint")
        torch.save(tiny_student().model.state_dict(), tmp_path / "bare.pt")
        self.teacher_refused(nasdistill, demo_yaml, tmp_path / "bare.pt", "--teacher-yaml")

    def test_an_output_folder_that_is_taken(self, nasdistill: Nasdistill, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path / "run")
        run.update_run(note="kept")
        refused(nasdistill("search", "--budget", "1trials", "--out", "run"), "already holds a run", "--resume")
        assert run.read_run()["note"] == "kept"
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").write_text("years of work")
        refused(nasdistill("search", "--budget", "1trials", "--out", "other"), "thesis.txt")
        refused(nasdistill("search", "--budget", "1trials", "--out", "other/thesis.txt"), "thesis.txt")
        assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"

    def test_nothing_to_resume(self, nasdistill: Nasdistill, tmp_path: Path) -> None:
        refused(nasdistill("search", "--budget", "1trials", "--resume"), "--resume")
        refused(nasdistill("search", "--budget", "1trials", "--resume", "--out", "nowhere"), "nowhere")
        RunFolder.create(tmp_path / "empty")
        refused(nasdistill("search", "--budget", "1trials", "--resume", "--out", "empty"), "empty")

    def test_a_resumed_run_has_its_budget_and_a_new_one_needs_one(self, nasdistill: Nasdistill, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path / "run")
        run.update_run(settings={"seed": 3})
        refused(nasdistill("search", "--resume", "--out", "run"), "--budget is missing")
        run.update_run(budget="soon")
        refused(nasdistill("search", "--resume", "--out", "run"), "soon", "40trials")

    def test_resuming_with_other_settings(self, nasdistill: Nasdistill, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path / "run")
        run.update_run(settings={"seed": 3, "space": None})
        arguments = ("search", "--budget", "1trials", "--resume", "--out", "run")
        refused(nasdistill(*arguments, "--seed", "4"), "--seed 4", "started with 3")
        refused(nasdistill(*arguments, "--space", "demo"), "--space demo", "its default")
        run.update_run(settings={"objectives": ["map50", "latency_ms"], "device": "local"})
        other = nasdistill(*arguments, "--objectives", "map50,params_m")
        refused(other, "--objectives map50 params_m", "started with map50 latency_ms")
        (tmp_path / "b.yaml").write_text("name: b\nruntime: onnxruntime\n")
        refused(nasdistill(*arguments, "--device", "local", "--device", "b.yaml"), "local b.yaml", "started with local")


class Foreign(nn.Module):
    """A layer that nobody allowed."""


class TestOtherCommands:
    """Lists, and what they refuse."""

    def test_lists(self, nasdistill: Nasdistill) -> None:
        devices, spaces = nasdistill("devices"), nasdistill("spaces")
        assert devices.out.startswith("local: onnxruntime, fp32, 1 thread")
        listed = {line.split(":")[0].strip() for line in spaces.out.splitlines()}
        assert listed >= {"demo", "edge-default", "all-families", *FAMILIES, "width_p2", "levels"}
        assert [device["name"] for device in json.loads(nasdistill("devices", "--json").out)["devices"]] == ["local"]
        listed = json.loads(nasdistill("spaces", "--json").out)
        assert {space["name"] for space in listed["spaces"]} >= {"demo", "edge-default"}
        assert [family["name"] for family in listed["families"]] == list(FAMILIES)
        every = next(space for space in listed["spaces"] if space["name"] == "all-families")
        assert set(every["families"]) == set(FAMILIES), "the space of all families names them all"

    @pytest.mark.parametrize("command", ["pareto", "report", "export"])
    def test_what_is_no_run(self, nasdistill: Nasdistill, tmp_path: Path, command: str) -> None:
        refused(nasdistill(command, "nowhere"), "nowhere")
        refused(nasdistill(command, tmp_path), "no run.json")
        refused(nasdistill(command), "RUN")

    def test_what_cannot_be_profiled(self, nasdistill: Nasdistill, tmp_path: Path) -> None:
        refused(nasdistill("profile", "none.onnx"), "none.onnx")
        (tmp_path / "text.onnx").write_text("hello")
        refused(nasdistill("profile", "text.onnx"), "text.onnx")
        refused(nasdistill("profile", "text.onnx", "--device", "phone"), "phone")

    def test_an_unknown_command(self, nasdistill: Nasdistill) -> None:
        refused(nasdistill("serach"), "serach")

    @pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "full"), 1)])
    def test_what_is_no_wrong_input(
        self, nasdistill: Nasdistill, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
    ) -> None:
        def broken() -> None:
            raise error

        monkeypatch.setattr("nasdistill.report.shipped.list_devices", broken)
        found = nasdistill("devices")
        assert (found.code, found.out) == (code, "") and found.err.count("\n") == 1

    def test_a_bug_keeps_its_traceback(self, nasdistill: Nasdistill, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr("nasdistill.report.shipped.list_devices", broken)
        with pytest.raises(ZeroDivisionError):
            nasdistill("devices")


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Real exit codes and streams, once."""
    command = [sys.executable, "-c", "from nasdistill.cli import main; main()"]
    done = subprocess.run([*command, "pareto", "nowhere"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nasdistill: run folder nowhere: no such folder\n"
