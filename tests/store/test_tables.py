"""trials.csv and pareto.csv: the promised columns, and nothing lost on the way back."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdistill.errors import InputError
from nasdistill.pareto.intervals import Certainty, certainty
from nasdistill.records import TrialResult
from nasdistill.store.tables import format_trials, parse_trials, read_trials_csv, write_pareto_csv, write_trials_csv

HEADER = (
    "trial,state,fidelity,family,map50,map50_95,latency_ms,latency_p90_ms,params_m,gflops,size_mb,epochs,seconds,"
    "on_front,reason,seeds,map50_95_mean,map50_95_low,map50_95_high,tied_with,repeats_map50,repeats_map50_95"
)

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["", "12", "-1.5", "1e5", "true", '"', '"a"']
)
scalars = texts | st.integers() | finite | st.booleans()
repeats = st.lists(st.tuples(finite, finite), max_size=3)
results = st.builds(
    lambda repeats, **fields: TrialResult(
        **fields, repeats_map50=tuple(a for a, _ in repeats), repeats_map50_95=tuple(b for _, b in repeats)
    ),
    repeats=repeats,
    trial=st.integers(0, 10**6),
    state=st.just("complete"),
    family=st.just("yolov5"),
    fidelity=st.floats(0, 1),
    map50=finite,
    map50_95=finite,
    latency_ms=finite,
    latency_p90_ms=finite | st.none(),
    params_m=finite | st.none(),
    epochs=st.integers(0, 1000),
    seconds=st.floats(0, 1e6),
    reason=texts,
    params=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), scalars, max_size=4),
)


@settings(max_examples=150, deadline=None)
@given(written=st.lists(results, max_size=5, unique_by=lambda result: result.trial))
def test_every_result_reads_back_equal_with_equal_types(written: list[TrialResult]) -> None:
    read = parse_trials(format_trials(written, set()), "trials.csv")
    written = sorted(written, key=lambda result: result.trial)
    assert read == written
    for one, other in zip(read, written, strict=True):
        assert {key: type(value) for key, value in one.params.items()} == {
            key: type(value) for key, value in other.params.items()
        }


def result(trial: int, latency_ms: float, **params: float) -> TrialResult:
    return TrialResult(
        trial=trial, state="complete", family="yolov5", map50=0.5, map50_95=0.25, latency_ms=latency_ms, params=params
    )


def test_columns_order_and_front(tmp_path: Path) -> None:
    rows = [result(2, 1.5, width=0.25), result(0, 2.5, depth=1, width=0.1), result(1, 9.0, b=3)]
    write_trials_csv(tmp_path / "trials.csv", rows, {0, 2})
    write_pareto_csv(tmp_path / "pareto.csv", rows, {0, 2})
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == HEADER + ",param.b,param.depth,param.width"
    with open(tmp_path / "trials.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["trial"], row["on_front"], row["param.width"]) for row in table] == [
        ("0", "true", "0.1"),
        ("1", "false", ""),
        ("2", "true", "0.25"),
    ]
    with open(tmp_path / "pareto.csv", newline="") as file:
        assert [row["trial"] for row in csv.DictReader(file)] == ["2", "0"]
    write_trials_csv(tmp_path / "empty.csv", [], set())
    assert (tmp_path / "empty.csv").read_text() == HEADER + "\n"
    assert read_trials_csv(tmp_path / "empty.csv") == []


def test_repeats_are_columns_of_their_own(tmp_path: Path) -> None:
    repeated = result(0, 2.5).model_copy(update={"repeats_map50": (0.5, 0.6), "repeats_map50_95": (0.24, 0.26)})
    rows = [repeated, result(1, 1.5), result(2, 9.0).model_copy(update={"map50_95": 0.9})]
    sure = certainty(rows, [rows[1], rows[0], rows[2]])
    write_trials_csv(tmp_path / "trials.csv", rows, {0, 1, 2}, sure)
    write_pareto_csv(tmp_path / "pareto.csv", rows, {0, 1, 2}, sure)
    with open(tmp_path / "pareto.csv", newline="") as file:
        fastest, middle, last = csv.DictReader(file)
    assert (middle["seeds"], middle["tied_with"]) == ("3", "1")
    assert float(middle["map50_95_low"]) < float(middle["map50_95_mean"]) == 0.25 < float(middle["map50_95_high"])
    assert middle["repeats_map50_95"] == "0.24;0.26"
    assert (fastest["seeds"], fastest["map50_95_mean"], fastest["tied_with"]) == ("", "", "0")
    assert (last["tied_with"], last["repeats_map50"]) == ("", "")
    assert read_trials_csv(tmp_path / "trials.csv") == rows


def test_a_table_of_before_there_were_repeats_is_read(tmp_path: Path) -> None:
    old = HEADER.split(",seeds")[0] + ",param.width\n3,complete,1.0,yolov5,0.5,0.25,2.5,,,,,7,1.5,true,,0.25\n"
    (tmp_path / "trials.csv").write_text(old)
    (read,) = read_trials_csv(tmp_path / "trials.csv")
    assert read.trial == 3 and read.params == {"width": 0.25} and read.repeats_map50_95 == ()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("complete", "finished", "line 2: state: Input should be"),
        ("0.5,0.25", "nan,0.25", "line 2: map50: Input should be a finite number"),
        ("0.5,0.25", ",0.25", "line 2: Value error, a complete trial needs a finite map50"),
        ("0.24;0.26", "0.24", "line 2: Value error, repeats_map50 and repeats_map50_95 are not equally many"),
        ("0.24;0.26", "0.24;good", "line 2: could not convert string to float: 'good'"),
        ("0.24;0.26", "0.24;inf", "line 2: repeats_map50_95.1: Input should be a finite number"),
        ("0.1\n", "0.1,7\n", "line 2: the row has not as many cells"),
        ("0.1\n", '"""a"\n', "line 2: "),
        ("trial,", "number,", "no table of trials, column trial is missing"),
    ],
)
def test_an_edited_table_is_one_clear_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "trials.csv"
    again = {"repeats_map50": (0.5, 0.6), "repeats_map50_95": (0.24, 0.26)}
    write_trials_csv(path, [result(0, 2.5, width=0.1).model_copy(update=again)], {0})
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_trials_csv(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreadable_table_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_trials_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_trials_csv(tmp_path / "binary.csv")


def test_energy_and_further_devices_have_columns_where_a_trial_has_them() -> None:
    plain, both = (
        result(0, 2.0),
        result(1, 1.0).model_copy(
            update={"energy_mj": 12.5, "further": {"latency_ms@a-b": 3.5, "latency_p90_ms@a-b": 4.0}}
        ),
    )
    text = format_trials([plain, both], set())
    header = text.splitlines()[0].split(",")
    after = header.index("reason") + 1
    assert header[after : after + 3] == ["energy_mj", "latency_ms@a-b", "latency_p90_ms@a-b"]
    assert parse_trials(text, "trials.csv") == [plain, both]
    assert "@" not in format_trials([plain], set()) and "energy" not in format_trials([plain], set())
    with pytest.raises(InputError, match="line 3: further"):
        parse_trials(text.replace("latency_ms@a-b", "latency_ms@a b"), "trials.csv")


def test_certainty_columns_are_named_after_the_accuracy() -> None:
    assert ",seeds,map50_mean,map50_low,map50_high,tied_with," in format_trials([], set(), Certainty("map50"))


def test_a_front_is_in_the_order_of_its_cost(tmp_path: Path) -> None:
    rows = [result(n, ms).model_copy(update={"further": {"latency_ms@b": 9 - ms}}) for n, ms in enumerate((1.0, 2.0))]
    write_pareto_csv(tmp_path / "p.csv", rows, {0, 1}, None, "latency_ms@b")
    assert [line.split(",")[0] for line in (tmp_path / "p.csv").read_text().splitlines()] == ["trial", "1", "0"]
