"""trials.csv and pareto.csv: the promised columns, and nothing lost on the way back."""

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasdistill.errors import InputError
from nasdistill.records import TrialResult
from nasdistill.store.tables import format_trials, parse_trials, read_trials_csv, write_pareto_csv, write_trials_csv

HEADER = (
    "trial,state,fidelity,family,map50,map50_95,latency_ms,latency_p90_ms,params_m,gflops,size_mb,epochs,seconds,"
    "on_front,reason"
)

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["", "12", "-1.5", "1e5", "true", '"', '"a"']
)
scalars = texts | st.integers() | finite | st.booleans()
results = st.builds(
    TrialResult,
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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("complete", "finished", "line 2: state: Input should be"),
        ("0.5,0.25", "nan,0.25", "line 2: map50: Input should be a finite number"),
        ("0.5,0.25", ",0.25", "line 2: Value error, a complete trial needs a finite map50"),
        ("0.1\n", "0.1,7\n", "line 2: the row has not as many cells"),
        ("0.1\n", '"""a"\n', "line 2: "),
        ("trial,", "number,", "no table of trials, column trial is missing"),
    ],
)
def test_an_edited_table_is_one_clear_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "trials.csv"
    write_trials_csv(path, [result(0, 2.5, width=0.1)], {0})
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
