"""Handing out a student of a finished run: the right one, byte for byte, with a card that tells the truth."""

import csv
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from nasdistill import cli
from nasdistill.devices.onnxruntime_local import OnnxRuntimeLocal
from nasdistill.errors import InputError
from nasdistill.export import FORMATS, export
from nasdistill.records import LatencyStats, TrialResult
from nasdistill.report.format import milliseconds
from nasdistill.session.search import _write
from nasdistill.store.run_folder import RunFolder

# trial: latency in ms, mAP50-95. The chord from trial 0 to trial 3 is furthest from trial 1; trial 5 is dominated.
FIGURES = {0: (2.0, 0.30), 1: (3.0, 0.55), 2: (6.0, 0.62), 3: (12.0, 0.66), 5: (7.0, 0.50)}


def tiny_onnx(path: Path, factor: float) -> None:
    """A model that multiplies its images by `factor`."""
    images, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("images", "o"))
    weight = helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])
    graph = helper.make_graph(
        [helper.make_node("Mul", ["images", "factor"], ["o"])], "tiny", [images], [output], [weight]
    )
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "monday")
    run.update_run(
        name="monday",
        teacher={"name": "best.pt", "map50": 0.9, "latency_ms": 30.0},
        device={"name": "local", "runtime": "onnxruntime", "precision": "fp32", "threads": 1, "batch": 1},
        names=["open", "short"],
        data="boards.yaml",
        data_hash="ab" * 32,
        versions={"torch": "9.9"},
    )
    results = [
        TrialResult(
            trial=trial,
            state="complete",
            family="yolov5",
            fidelity=1.0,
            map50=round(accuracy * 1.2, 4),
            map50_95=accuracy,
            latency_ms=latency,
            latency_p90_ms=latency * 1.1,
            params_m=latency / 10,
            gflops=1.0,
            size_mb=0.1,
            params={"family": "yolov5", "yolov5.width": 0.25, "image_size": 192, "init": "warmed"},
        )
        for trial, (latency, accuracy) in FIGURES.items()
    ]
    results.append(TrialResult(trial=4, state="failed", family="yolov5", reason="out of memory"))
    for result in results:
        run.write_trial(result)
        if result.state == "complete":
            tiny_onnx(run.trial_folder(result.trial) / "student.onnx", float(result.trial))
            (run.trial_folder(result.trial) / "student.safetensors").write_bytes(b"weights %d" % result.trial)
    run.write_tables(results, {0, 1, 2, 3})
    return run


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple:
    """Exit code, output and errors of `nasdistill` with `arguments`."""
    monkeypatch.setattr(sys, "argv", ["nasdistill", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("options", "trial"),
    [
        ((), 1),
        (("--trial", "best"), 1),
        (("--select", "knee"), 1),
        (("--select", "fastest"), 0),
        (("--select", "most-accurate"), 3),
        (("--select", "latency_ms<=7"), 2),
        (("--select", "map50>=0.7"), 2),
        (("--select", "fastest, params_m<=0.5"), 0),
        (("--trial", "5"), 5),
    ],
)
def test_the_right_trial_leaves(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple, trial: int
) -> None:
    monkeypatch.chdir(run.path.parent)
    code, out, err = command(capsys, monkeypatch, "export", "monday", *options)
    assert (code, err) == (0, "")
    exported = run.path / "export" / f"monday-{trial:04d}.onnx"
    assert exported.read_bytes() == (run.path / "trials" / f"{trial:04d}" / "student.onnx").read_bytes()
    assert out.splitlines() == [
        f"trial {trial}: mAP50 {FIGURES[trial][1] * 1.2:.4f}, mAP50-95 {FIGURES[trial][1]:.4f}, "
        f"{milliseconds(FIGURES[trial][0])} ms, {FIGURES[trial][0] / 10:.3f} M parameters",
        f"monday/export/monday-{trial:04d}.onnx",
        f"monday/export/monday-{trial:04d}.md",
    ]
    onnx.checker.check_model(onnx.load(exported))
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    images = np.ones((1, 3, 8, 8), np.float32)
    assert session.run(None, {"images": images})[0].flat[0] == trial


def test_as_json_with_every_format_somewhere_else(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out_folder = tmp_path / "a" / "b"
    formats = ",".join(FORMATS)
    code, out, err = command(
        capsys, monkeypatch, "export", run.path, "--format", f"{formats},onnx", "--out", out_folder, "--json"
    )
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["trial"]["trial"] == 1
    assert [Path(file).suffix for file in told["files"]] == [".onnx", ".safetensors", ".md"]
    assert sorted(path.name for path in out_folder.iterdir()) == [
        "monday-0001.md",
        "monday-0001.onnx",
        "monday-0001.safetensors",
    ]
    assert (out_folder / "monday-0001.safetensors").read_bytes() == b"weights 1"


def test_the_card_tells_what_it_is(run: RunFolder, tmp_path: Path) -> None:
    exported = export(run, run.results()[1], ["onnx"], tmp_path)
    card = exported.card.read_text()
    digest = hashlib.sha256(exported.files["onnx"].read_bytes()).hexdigest()
    for words in (
        "yolov5 student, trial 1 of run monday",
        "teacher best.pt",
        "| mAP50 (val) | 0.6600 (73.3% of the teacher's) |",
        "| mAP50-95 (val) | 0.5500 |",
        "3.00 ms on device `local` (onnxruntime, fp32, 1 thread(s), batch 1) (10.0 times as fast)",
        "| parameters | 0.300 M |",
        "Classes: 0 open, 1 short",
        "float32 (1, 3, 192, 192)",
        "(1, 6, anchors)",
        "| yolov5.width | 0.25 |",
        f"`monday-0001.onnx` sha256 {digest}",
        "AGPL-3.0-or-later",
    ):
        assert words in card
    assert str(run.path.parent) not in card


def test_a_card_needs_no_teacher_figures(run: RunFolder, tmp_path: Path) -> None:
    run.update_run(teacher={"name": "best.pt"})
    card = export(run, run.results()[1], ["onnx"], tmp_path).card.read_text()
    assert "| mAP50 (val) | 0.6600 |" in card and "times as fast" not in card


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--format", "tflite"), "unknown format 'tflite'; allowed: onnx, safetensors"),
        (("--format", ","), "unknown format ''; allowed: onnx, safetensors"),
        (("--trial", "99"), "no trial 99"),
        (("--trial", "4"), "trial 4 is failed (out of memory)"),
        (("--trial", "last"), "last"),
        (("--select", "latency_ms<=0.1"), "latency_ms"),
        (("--select", "colour<=3"), "colour"),
        (("--trial", "1", "--select", "fastest"), "--select"),
        (("--out", "taken"), "output folder taken: cannot be used"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: tuple, words: str
) -> None:
    monkeypatch.chdir(run.path.parent)
    Path("taken").write_text("a file")
    code, out, err = command(capsys, monkeypatch, "export", "monday", *options)
    assert (code, out) == (2, "")
    assert words in err and err.count("\n") == 1
    assert not (run.path / "export").exists()


def test_all_formats_or_none(run: RunFolder, tmp_path: Path) -> None:
    (run.trial_folder(1) / "student.safetensors").unlink()
    with pytest.raises(InputError, match=r"student\.safetensors: not there; the run folder was copied without"):
        export(run, run.results()[1], ["onnx", "safetensors"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_that_refuses_leaves_nothing_behind(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nasdistill.export.write_text", full)
    with pytest.raises(OSError, match="No space left on device"):  # no wrong input: the command ends with 1
        export(run, run.results()[1], list(FORMATS), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_card_names_the_batch_of_the_artifact(run: RunFolder, tmp_path: Path) -> None:
    run.update_run(device={**run.read_run()["device"], "batch": 4})
    card = export(run, run.results()[1], ["onnx"], tmp_path).card.read_text()
    assert "float32 (4, 3, 192, 192)" in card and "(4, 6, anchors)" in card and "batch 4)" in card


def test_a_run_without_a_complete_trial_has_nothing_to_choose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "sad")
    run.write_trial(TrialResult(trial=0, state="failed", family="yolov5", reason="out of memory"))
    code, out, err = command(capsys, monkeypatch, "export", run.path)
    assert (code, out) == (3, "") and err.count("\n") == 1


def test_the_front_and_the_report_of_the_same_run(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = command(capsys, monkeypatch, "pareto", run.path, "--json")
    assert code == 0
    told = json.loads(out)
    assert [member["trial"] for member in told["front"]] == [0, 1, 2, 3]
    code, out, err = command(capsys, monkeypatch, "pareto", run.path)
    assert (code, err) == (0, "") and "yolov5" in out
    code, out, err = command(capsys, monkeypatch, "report", run.path, "--out", tmp_path / "page.html")
    assert (code, out, err) == (0, f"{tmp_path / 'page.html'}\n", "")
    assert "<html" in (tmp_path / "page.html").read_text()[:300].lower()
    for folder in (run.path, "."):
        code, out, err = command(capsys, monkeypatch, "report", run.path, "--out", folder)
        assert (code, err) == (2, f"nasdistill: --out {folder}: it is a folder; name the file\n")


def test_the_whole_front_or_none_of_it(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "all"
    code, told, _ = command(capsys, monkeypatch, "export", run.path, "--trial", "front", "--out", out, "--json")
    assert code == 0
    assert [one["trial"]["trial"] for one in json.loads(told)["exported"]] == [0, 1, 2, 3]
    assert len(list(out.glob("*.onnx"))) == len(list(out.glob("*.md"))) == 4
    for more in (("--select", "fastest"), ("--trained",)):
        code, _, err = command(capsys, monkeypatch, "export", run.path, "--trial", "front", *more)
        assert code == 2 and "without --select and --trained" in err
    (run.trial_folder(2) / "student.onnx").unlink()
    code, _, err = command(capsys, monkeypatch, "export", run.path, "--trial", "front", "--out", tmp_path / "none")
    assert code == 2 and "student.onnx: not there" in err and not (tmp_path / "none").exists()


def test_the_card_says_where_to_cut(run: RunFolder, tmp_path: Path) -> None:
    trial = run.results()[1]
    assert "conf=" not in export(run, trial, ["onnx"], tmp_path).card.read_text(), "an older run does not know"
    run.write_trial(trial.model_copy(update={"confidence": 0.314}))
    card = export(run, run.results()[1], ["onnx"], tmp_path).card.read_text()
    assert "a confidence of about 0.31" in card and 'predict("image.jpg", conf=0.31)' in card
    weights = export(run, run.results()[1], ["safetensors"], tmp_path).card.read_text()
    assert "Input `images`" not in weights and "export `onnx`" in weights


def test_what_was_trained_for_longer_is_named(run: RunFolder, tmp_path: Path) -> None:
    folder = run.trained_folder(3)
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(run.results()[3].model_dump_json())
    with pytest.raises(InputError, match=r"trial 1 was not trained for longer; trained were: 3 \(--trial 3\)"):
        export(run, run.results()[1], ["onnx"], tmp_path, trained=True)


def test_a_damaged_trial_is_named_where_the_run_is_read(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run.trial_folder(1) / "trial.json"
    file.write_text(file.read_text()[:40])
    for arguments in (
        ("pareto", run.path, "--json"),
        ("report", run.path, "--out", tmp_path / "page.html"),
        ("export", run.path, "--select", "fastest", "--out", tmp_path / "o"),
    ):
        code, _, err = command(capsys, monkeypatch, *arguments)
        assert code == 0 and err.startswith(f"nasdistill: {file} left out: ") and err.count("\n") == 1, err


def test_a_model_is_timed(tmp_path: Path, capsys, monkeypatch) -> None:
    model = tmp_path / "m.onnx"
    tiny_onnx(model, 2.0)
    figures = {"median_ms": 2.0, "p90_ms": 3.0, "min_ms": 1.0, "cv": 0.1, "samples": 9, "energy_mj": 4.5}
    stats = LatencyStats(device="local", disturbed=True, **figures)
    monkeypatch.setattr(OnnxRuntimeLocal, "measure", lambda self, *given: stats)
    assert command(capsys, monkeypatch, "profile", model)[1] == (
        f"{model} on local: median 2.00 ms, p90 3.00 ms (9 samples, variation 10.0%; 4.5 mJ; the machine was busy, do "
        "not trust it)\n"
    )
    told = json.loads(command(capsys, monkeypatch, "profile", model, "--json")[1])
    assert (told["model"], told["p90_ms"], told["measured_with"]["threads"]) == (str(model), 3.0, 1)


def test_the_best_on_a_device(run: RunFolder, tmp_path: Path, capsys, monkeypatch) -> None:
    """On the phone trial 5 alone is fast: it is the fastest there, and no member of the run's own front."""
    for result in (one for one in run.trials() if one.latency_ms is not None):
        latency = 1.0 if result.trial == 5 else 50.0 + result.latency_ms
        run.write_trial(
            result.model_copy(update={"further": {"latency_ms@phone": latency, "latency_p90_ms@phone": latency}})
        )
    run.update_run(
        further_devices=[{"name": "phone"}],
        objectives=["map50_95", "latency_ms"],
        teacher={"name": "t", "map50_95": 0.7, "latency_ms": 30.0, "latency_ms@phone": 200.0},
    )

    _write(run)  # what a search leaves at its end
    tables = {
        name: [row["trial"] for row in csv.DictReader((run.path / f"{name}.csv").read_text().splitlines())]
        for name in ("pareto", "pareto@local", "pareto@phone")
    }
    assert tables == {"pareto": [*"0123"], "pareto@local": [*"0123"], "pareto@phone": [*"5123"]}

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nasdistill", *arguments])
        cli.main()
        return capsys.readouterr().out

    there = json.loads(command("pareto", str(run.path), "--device", "phone", "--json"))
    assert (there["device"], there["objectives"]) == ("phone", ["map50_95", "latency_ms@phone"])
    assert [member["trial"] for member in there["front"]] == [5, 1, 2, 3]
    assert there["front"][0]["speed_up"] == 200.0
    here = json.loads(command("pareto", str(run.path), "--json"))
    assert [member["trial"] for member in here["front"]] == [0, 1, 2, 3]
    assert json.loads(command("pareto", str(run.path), "--device", "local", "--json"))["front"] == here["front"]
    table = command("pareto", str(run.path), "--device", "phone")
    assert "ms phone" in table and "200.0x" in table
    chosen = ("export", str(run.path), "--select", "fastest", "--out", str(tmp_path / "o"), "--json")
    assert json.loads(command(*chosen))["trial"]["trial"] == 0
    assert json.loads(command(*chosen, "--device", "phone"))["trial"]["trial"] == 5
    card = (tmp_path / "o" / "monday-0005.md").read_text()
    assert "| latency on device `phone`, ms | 1.00 |" in card
    with pytest.raises(SystemExit) as stop:
        command("pareto", str(run.path), "--device", "tablet")
    assert stop.value.code == 2 and "expected one of: local, phone" in capsys.readouterr().err
