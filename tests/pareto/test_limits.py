"""What `--constraint` accepts, and what it says of everything else."""

from __future__ import annotations

import pytest

from nasdistill.errors import InputError
from nasdistill.options import each_constraint_named
from nasdistill.pareto.limits import parse_constraints


@pytest.mark.parametrize(
    "texts", [["latency_ms<=20", "params_m < 2"], ["latency_ms<=20 params_m<2"], ["latency-ms<=2e1,params_m<2.0"]]
)
def test_limits_in_one_text_or_several(texts: list[str]) -> None:
    assert [str(limit) for limit in parse_constraints(texts)] == ["latency_ms<=20", "params_m<2"]


def test_a_limit_keeps_what_is_within() -> None:
    at_most, below = parse_constraints(["latency_ms<=20 params_m<2"])
    assert at_most.keeps(20.0) and not at_most.keeps(20.01)
    assert below.keeps(1.99) and not below.keeps(2.0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not understood"),
        ("latency_ms", "not understood"),
        ("latency_ms=20", "not understood"),
        ("latency_ms<=20 please", "not understood"),
        ("speed<=3", "unknown figure 'speed'"),
        ("latency_ms<=fast", "no finite number"),
        ("latency_ms<=nan", "no finite number"),
        ("latency_ms>=20", "takes <="),
        ("latency_ms<=-1", "no student keeps it"),
        ("map50>=0.5", "only after training"),
        ("params_m<=2 params_m<=3", "has a limit already"),
    ],
)
def test_anything_else_is_one_clear_line(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as error:
        parse_constraints([text])
    assert str(error.value).startswith(f"--constraint {text!r}") and "\n" not in str(error.value)


def test_several_limits_may_follow_the_option() -> None:
    given = ["search", "--constraint", "a<=1", "b<=2", "--seed", "3", "--constraint", "c<=4", "--json"]
    assert each_constraint_named(given) == [
        *["search", "--constraint", "a<=1", "--constraint", "b<=2", "--seed", "3", "--constraint", "c<=4", "--json"]
    ]


def test_limits_on_further_devices():
    (limit,) = parse_constraints(["Latency-ms@my-phone.2<=20"], ["here", "my-phone.2"])
    assert str(limit) == "latency_ms@my-phone.2<=20"
    assert str(parse_constraints(["latency_ms@here<=20"], ["here"])[0]) == "latency_ms<=20"
    with pytest.raises(InputError, match="no device 'phone' in this run, expected one of: here"):
        parse_constraints(["latency_ms@phone<=20"], ["here"])
    with pytest.raises(InputError, match="latency_ms has a limit already"):
        parse_constraints(["latency_ms<=5 latency_ms@here<=6"], ["here"])
