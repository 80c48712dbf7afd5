"""The run folder: what is kept survives, what is damaged costs only itself, what is wrong is one clear line."""

import json
import shutil
from pathlib import Path

import pytest

from nasdistill.errors import InputError
from nasdistill.records import RepeatScore, TrialResult
from nasdistill.store.run_folder import FORMAT_VERSION, STOP_FILE_NAME, RunFolder, default_run_path


def complete(trial: int, map50: float = 0.5, latency_ms: float = 3.25) -> TrialResult:
    return TrialResult(
        trial=trial,
        state="complete",
        family="yolov5",
        fidelity=1.0,
        map50=map50,
        map50_95=map50 / 3,
        latency_ms=latency_ms,
        latency_p90_ms=latency_ms * 1.1,
        epochs=7,
        seconds=12.5,
        params={"family": "yolov5", "yolov5.width": 0.15, "image_size": 256, "init": "teacher"},
    )


def failed(trial: int) -> TrialResult:
    params = {"family": "mobilenetv3", "mobilenetv3.variant": "small_050"}
    return TrialResult(trial=trial, state="failed", family="mobilenetv3", reason="out of memory", params=params)


def test_a_run_reads_back_the_same_after_it_is_moved(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "results" / "first")
    run.update_run(seed=3, data={"sha256": "ab", "classes": ["open", "kurzschluß"]})
    run.update_run(seed=4)
    written = [complete(0), failed(1), complete(12, 0.7, 1.5)]
    for result in reversed(written):
        run.write_trial(result)
    run.write_tables(written, {0, 12})
    assert run.trial_folder(12) == run.path / "trials" / "0012"

    moved = tmp_path / "elsewhere"
    shutil.move(run.path, moved)
    again = RunFolder.open(moved)
    assert again.results() == written
    assert again.read_run()["seed"] == 4
    assert again.read_run()["data"]["classes"] == ["open", "kurzschluß"]
    for file in moved.rglob("*"):
        assert not file.is_file() or str(tmp_path) not in file.read_text(encoding="utf-8")


def test_the_tables_alone_are_enough_to_read_a_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    written = [complete(0), failed(1), complete(2, 0.7, 1.5)]
    for result in written:
        run.write_trial(result)
    run.write_tables(written, {0, 2})
    shutil.rmtree(run.path / "trials" / "0000")
    shutil.rmtree(run.path / "trials" / "0001")
    assert run.results() == written, "some trial folders left"
    shutil.rmtree(run.path / "trials")
    assert run.results() == written, "no trial folder left"
    run.trials_file.unlink()
    assert run.results() == []


def test_repeats_are_read_with_their_trial_and_never_change_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    written = [complete(0), complete(2, 0.7, 1.5)]
    for result in written:
        run.write_trial(result)
    for seed, score in ((2000, 0.2), (1000, 0.3)):
        run.write_repeat(RepeatScore(trial=2, seed=seed, map50=score * 2, map50_95=score, epochs=7, seconds=9.0))
    assert (run.path / "trials" / "0002" / "repeats" / "1000.json").is_file()
    repeated = written[1].model_copy(update={"repeats_map50": (0.6, 0.4), "repeats_map50_95": (0.3, 0.2)})
    assert run.results() == [written[0], repeated]
    assert run.trials() == written, "what is kept of the trial itself is as before"
    run.write_tables(run.results(), {0, 2})
    shutil.rmtree(run.path / "trials")
    assert run.results() == [written[0], repeated], "from the table alone"


def test_a_damaged_repeat_is_left_out_with_a_warning(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.write_trial(complete(0))
    good = RepeatScore(trial=0, seed=1000, map50=0.5, map50_95=0.25)
    run.write_repeat(good)
    (run.repeats_folder(0) / "2000.json").write_text(good.model_dump_json())  # of another seed
    (run.repeats_folder(0) / "3000.json").write_text("{")
    warnings: list[str] = []
    assert run.results(warnings)[0].repeats_map50_95 == (0.25,)
    assert len(warnings) == 2 and "it is about trial 0 with seed 1000" in " ".join(warnings)


def test_a_damaged_trial_is_left_out_with_a_warning(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    for trial in range(4):
        run.write_trial(complete(trial))
    (run.path / "trials/0001/trial.json").write_text('{"trial": 1, "state": "comp')
    (run.path / "trials/0002/trial.json").write_text(complete(3).model_dump_json())
    (run.path / "trials/0007").mkdir()
    warnings: list[str] = []
    assert [result.trial for result in run.trials(warnings)] == [0, 3]
    assert len(warnings) == 2
    assert all("\n" not in warning and "trial.json left out" in warning for warning in warnings)
    assert [result.trial for result in run.trials()] == [0, 3]


def test_a_damaged_table_does_not_hide_the_trials(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.write_trial(complete(0))
    run.trials_file.write_text("trial,state\n0,complete\n")
    warnings: list[str] = []
    assert run.results(warnings) == [complete(0)]
    assert "column fidelity is missing" in warnings[0]
    assert run.results() == [complete(0)]
    run.write_tables(run.results(), {0})
    assert (
        run.results([]) == [complete(0)]
        and (run.path / "trials.csv.damaged").read_text() == "trial,state\n0,complete\n"
    )
    run.trials_file.write_text("trial,state\n0,complete\n")
    (run.trial_folder(0) / "trial.json").unlink()
    with pytest.raises(InputError, match="column fidelity is missing"):  # all there was
        run.results([])


def test_an_output_folder_with_a_run_or_files_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run")
    with pytest.raises(InputError, match=r"run already holds a run; go on with --resume or choose another --out"):
        RunFolder.create(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"other is not empty \(it holds thesis.tex\); choose another --out"):
        RunFolder.create(tmp_path / "other")
    with pytest.raises(InputError, match="cannot be used"):
        RunFolder.create(tmp_path / "other" / "thesis.tex")
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty")


def test_what_is_no_run_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        RunFolder.open(tmp_path / "missing")
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(InputError, match="is a file; give the folder"):
        RunFolder.open(run.run_file)
    with pytest.raises(InputError, match=r"no run.json\); it holds runs, the last is .*run$"):
        RunFolder.open(tmp_path)
    for content, message in (
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "expected an object"),
        ("{}", "format_version is missing"),
        (json.dumps({"format_version": FORMAT_VERSION + 1}), "newer than this program reads"),
    ):
        run.run_file.write_text(content)
        with pytest.raises(InputError, match=message) as error:
            RunFolder.open(run.path)
        assert "\n" not in str(error.value)


def test_what_json_cannot_hold_leaves_run_json_as_it_was(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.update_run(seed=1)
    before = run.run_file.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.update_run(hypervolume=float("nan"))
    with pytest.raises(TypeError):
        run.update_run(path=tmp_path)
    assert run.run_file.read_bytes() == before
    assert [file.name for file in run.path.iterdir()] == ["run.json"]


def test_a_run_that_nobody_named_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Two searches may begin in the same second; the first has written nothing yet when the second looks."""
    path = default_run_path(tmp_path / "results")
    path.mkdir(parents=True)
    folders = [RunFolder.create(path, or_beside=True).path for _ in range(2)]
    assert [folder.name for folder in folders] == [f"{path.name}-2", f"{path.name}-3"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        RunFolder.create(tmp_path / "file" / "run", or_beside=True)
    assert default_run_path().parent == Path("results")


def test_a_run_that_is_taken_up_is_not_being_stopped(tmp_path: Path) -> None:
    """A process killed while it stopped leaves the sign for its workers to stop."""
    run = RunFolder.create(tmp_path / "run")
    (run.path / STOP_FILE_NAME).touch()
    with run.held():
        assert not (run.path / STOP_FILE_NAME).exists()
