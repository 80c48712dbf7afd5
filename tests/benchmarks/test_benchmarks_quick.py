"""The training benchmarks import, read their options, and keep what they have measured. Nothing is timed here."""

import argparse
import importlib
import json
import math
import shutil
from pathlib import Path

import pytest

from benchmarks import _losses, cached_step, distill_gain, inheritance_search, precision, real_search, retention
from benchmarks._parts import Parts
from benchmarks._students import draw_students, steps_within
from nasdistill.errors import InputError
from nasdistill.prepare.length import TRIAL_OVERHEAD_S
from nasdistill.space.loader import load_space
from nasdistill.store.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]

NAMES = (
    "cached_step",
    "precision",
    "inheritance",
    "inheritance_search",
    "proxy_rank",
    "cache_agreement",
    "data_free",
    "distill_gain",
    "peer_ultralytics",
    "real_search",
    "optimizers",
)


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as end:
        module.main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--quick", "--json", "--out", "--data", "--teacher"))


@pytest.mark.parametrize("name", NAMES)
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"benchmarks.{name}").main(["--quik"])
    assert end.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_ends_with_a_figure(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASDISTILL_CACHE", str(tmp_path))
    assert math.isfinite(importlib.import_module(f"benchmarks.{name}").main(["--quick"]).value)


def test_cached_step_takes_the_student() -> None:
    parser = argparse.ArgumentParser()
    cached_step.add_arguments(parser)
    assert parser.parse_args(["--width", "0.25"]).width == 0.25


def test_a_killed_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    path, made = tmp_path / "parts.json", []

    def make() -> dict[str, float]:
        made.append(1)
        return {"map50": 0.5}

    first = Parts(path, {"data": "a"}).get("trial", make)
    assert Parts(path, {"data": "a"}).get("trial", make) == first
    assert len(made) == 1
    Parts(path, {"data": "b"}).get("trial", make)  # of other inputs: measured anew
    assert len(made) == 2
    path.write_text("{")  # torn
    Parts(path, {"data": "b"}).get("trial", make)
    assert len(made) == 3
    assert json.loads(path.read_text())["parts"]["trial"]["map50"] == 0.5


def test_the_interval_is_students() -> None:
    mean, low, high = distill_gain.interval([0.01, 0.03, 0.02, 0.04, 0.05])
    # by hand: s = 0.015811, t(4) = 2.776, half = t * s / sqrt(5) = 0.019629
    assert (mean, low, high) == pytest.approx((0.03, 0.010371, 0.049629), abs=1e-5)
    assert distill_gain.interval([0.02]) == (0.02, 0.02, 0.02)


def test_every_mix_is_a_trial_and_labels_alone_hear_no_teacher() -> None:
    for name, mix in _losses.MIXES.items():
        weights = mix.weights
        assert weights.feature or weights.cls or weights.box or weights.detections, name
        assert mix.config(family="yolov5", arch={}, image_size=64).image_size == 64
    silent = _losses.LABELS.weights
    assert (silent.feature, silent.cls, silent.box, silent.detections, silent.label) == (0, 0, 0, 0, 1)
    assert _losses.MIXES["cwd"].form.maps and not _losses.MIXES["default"].form.maps
    assert _losses.form_of(list(_losses.MIXES.values())).bins


def test_searches_that_ended_are_compared_and_not_run_again(tmp_path: Path) -> None:
    for name in ("defaults-0", "random-0"):
        shutil.copytree(ROOT / "results/deeppcb-30m", tmp_path / name)
    outcome = real_search.main(["--runs", str(tmp_path), "--seeds", "1"])
    assert outcome.value == 1.0 and outcome.goal.met_by(1.0)
    defaults, random = (outcome.detail["runs"][side][0] for side in ("defaults", "random"))
    assert defaults == random and 0.2 < defaults["hypervolume"] < 0.6
    assert len(defaults["front"]) >= 4 and defaults["trials"] >= len(defaults["front"])
    assert outcome.detail["data"] == "deeppcb"


def test_retention_of_a_finished_run() -> None:
    outcome = retention.main([str(ROOT / "results/deeppcb-30m"), "--least-ratio", "9"])
    assert 0.9 < outcome.value < 1.5
    best = outcome.detail["best"]
    assert best["times smaller"] >= 9 and best["times faster"] > 2
    with pytest.raises(InputError, match="at most 1/1000 of the teacher's parameters"):
        retention.measure(argparse.Namespace(run=ROOT / "results/deeppcb-30m", least_ratio=1000.0))


def test_students_of_a_run_are_its_first_complete_trials() -> None:
    run = RunFolder.open(ROOT / "results/deeppcb-30m")
    space = load_space("edge-default", run.read_run()["space_text"])
    found = inheritance_search.students_of(run, space, 12)
    complete = [result.family for result in run.results() if result.state == "complete"]
    assert [student.family for student in found] == complete[:12]
    with pytest.raises(InputError, match="not 1000 complete trials in the space edge-default"):
        inheritance_search.students_of(run, space, 1000)


def test_precisions_are_compared_over_seeds() -> None:
    scores = {("float32", 0): 0.5, ("float32", 1): 0.6, ("auto", 0): 0.52, ("auto", 1): 0.6}
    rows = [{"precision": p, "seed": seed, "map50": score} for (p, seed), score in scores.items()]
    found = precision.compare(rows)
    assert found["difference"] == pytest.approx(0.01)
    assert found["difference_between_seeds"] == pytest.approx(0.09)


def test_drawn_students_differ_and_families_take_turns() -> None:
    space = load_space("edge-default")
    configs = draw_students(space, 9, seed=0)
    assert [config.family for config in configs] == list(space.families) * 3
    assert len({(c.family, tuple(sorted(c.arch.items())), c.image_size) for c in configs}) == 9
    assert configs == draw_students(space, 9, seed=0)


def test_steps_fill_the_time() -> None:
    assert steps_within(core_seconds=2 * TRIAL_OVERHEAD_S + 30 * 1.5, steps_s=[0.5, 1.0]) == 30
