import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nasdistill.errors import InputError, NothingSucceededError
from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.pareto.select import choose, find_trial, knee, parse_rule, select
from nasdistill.records import TrialResult


def trial(number: int, accuracy: float, latency_ms: float, **more: object) -> TrialResult:
    figures = {"state": "complete", "fidelity": 1.0, "map50": accuracy, "map50_95": accuracy, "latency_ms": latency_ms}
    return TrialResult(trial=number, family="f", **(figures | more))


RESULTS = [
    trial(0, 0.20, 1.0, map50=0.40, params_m=0.3),
    trial(1, 0.40, 2.0, map50=0.70, params_m=0.9),  # the knee
    trial(2, 0.45, 5.0, map50=0.75, params_m=1.5),
    trial(3, 0.48, 9.0, map50=0.74, params_m=2.5),
    trial(4, 0.30, 6.0, map50=0.90, params_m=0.2),  # dominated, but best in mAP50
    trial(5, 0.0, 0.1, state="failed", reason="out of memory"),
]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("knee", 1),
        ("best", 1),
        ("fastest", 0),
        ("most-accurate", 3),
        ("Most_Accurate", 3),
        ("latency_ms<=5", 2),
        ("latency_ms<5", 1),
        ("latency_ms <= 100", 3),
        ("map50>=0.6", 1),
        ("map50_95>=0.41", 2),
        ("params_m<=1", 1),
        ("latency_ms<=5, map50>=0.6", 2),
        ("map50>=0.6 params_m<=2", 2),
        ("fastest,map50>=0.6,latency_ms<=9", 1),
        ("most-accurate map50>=0.6", 3),
        ("knee latency_ms<=5", 1),
    ],
)
def test_rules(rule, expected):
    assert select(RESULTS, rule).trial == expected


def test_the_accuracy_decides_the_front():
    assert select(RESULTS, "most-accurate", DEFAULT.with_accuracy("map50")).trial == 4


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "empty.*knee"),
        ("prettiest", "'prettiest' is not understood.*knee.*fastest"),
        ("fastest knee", "fastest and knee contradict"),
        ("speed<=3", "unknown figure 'speed'.*latency_ms"),
        ("latency_ms<=fast", "'fast'.*no finite number"),
        ("latency_ms<=nan", "no finite number"),
        ("latency_ms>=3", "latency_ms takes <="),
        ("map50<=0.4", "map50 takes >="),
        ("map50>=60", "from 0 to 1"),
        ("latency_ms<=", "not understood"),
    ],
)
def test_unreadable_rules_say_what_is_allowed(rule, message):
    with pytest.raises(InputError, match=message):
        select(RESULTS, rule)


def test_when_none_satisfies_the_closest_is_named():
    with pytest.raises(InputError, match=r"latency_ms<=0.5; the closest is trial 0 \(latency_ms 1.0"):
        select(RESULTS, "latency_ms<=0.5")
    with pytest.raises(InputError, match="closest is trial 2 .*; off the front, trial 4 does"):
        select(RESULTS, "map50>=0.8")


def test_nothing_to_select_from():
    with pytest.raises(NothingSucceededError):
        select([RESULTS[5]], "knee")


def test_knee_of_small_and_flat_fronts():
    a, b = trial(0, 0.2, 1.0), trial(1, 0.4, 2.0)
    assert knee([a]) is a
    assert knee([a, b]) is b
    straight = [trial(0, 0.25, 1.0), trial(1, 0.5, 2.0), trial(2, 0.75, 3.0)]
    assert knee(straight) is straight[2]
    hollow = [trial(0, 0.25, 1.0), trial(1, 0.3, 2.0), trial(2, 0.75, 3.0)]
    assert knee(hollow) is hollow[2]
    twins = [trial(0, 0.0, 0.0), trial(1, 0.5, 1.0), trial(2, 0.75, 2.0), trial(3, 1.0, 4.0)]  # both 0.25 above
    assert knee(twins) is twins[2]


def test_knee_against_the_distance_to_the_chord():
    members = front(RESULTS)
    x = [(m.latency_ms - 1.0) / 8.0 for m in members]
    y = [(m.map50_95 - 0.20) / 0.28 for m in members]
    distances = [(yi - xi) / 2**0.5 for xi, yi in zip(x, y, strict=True)]
    assert knee(members) is members[distances.index(max(distances))]


def test_find_trial():
    assert find_trial(RESULTS, 4).trial == 4
    with pytest.raises(InputError, match=r"trial 5 is failed \(out of memory\).*on the front: 0, 1, 2, 3"):
        find_trial(RESULTS, 5)
    with pytest.raises(InputError, match="no trial 77: this run has 0 to 5"):
        find_trial(RESULTS, 77)
    with pytest.raises(InputError, match="no trials"):
        find_trial([], 0)


def test_choose():
    assert choose(RESULTS).trial == 1
    assert choose(RESULTS, "best", "fastest").trial == 0
    assert choose(RESULTS, "4").trial == 4
    assert choose(RESULTS, 4).trial == 4
    with pytest.raises(InputError, match="expected a trial's number or best"):
        choose(RESULTS, "first")
    with pytest.raises(InputError, match="both name a trial"):
        choose(RESULTS, "3", "fastest")


cells = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=12)
rules = st.sampled_from(
    ["knee", "fastest", "most-accurate", "latency_ms<=3", "map50_95>=0.5", "params_m<=2, map50>=0.25"]
)


@given(cells, rules)
def test_select_gives_a_front_member_that_satisfies_the_rule(rows, rule):
    results = [trial(n, a / 4, latency, params_m=float(p)) for n, (a, latency, p) in enumerate(rows)]
    _, limits = parse_rule(rule)
    within = [m for m in front(results) if all(limit.allows(m) for limit in limits)]
    if not within:
        with pytest.raises(InputError, match="closest"):
            select(results, rule)
        return
    chosen = select(results, rule)
    assert chosen in within
    assume(limits)
    if any(limit.objective.minimise for limit in limits):
        assert chosen.map50_95 == max(m.map50_95 for m in within)
    else:
        assert chosen.latency_ms == min(m.latency_ms for m in within)


def test_the_rules_with_three_objectives():
    three = DEFAULT.against("params_m", "latency_ms")

    def one(number: int, accuracy: float, latency_ms: float, params_m: float) -> TrialResult:
        figures = {"map50": accuracy, "map50_95": accuracy, "latency_ms": latency_ms, "params_m": params_m}
        return TrialResult(trial=number, state="complete", family="f", fidelity=1.0, **figures)

    results = [one(0, 0.1, 9.0, 1.0), one(1, 0.55, 3.0, 3.0), one(2, 0.6, 9.0, 9.0), one(3, 0.2, 1.0, 9.0)]
    assert [m.trial for m in front(results, three)] == [0, 1, 3, 2]
    assert select(results, "fastest", three).trial == 3, "the latency among the objectives, not the first cost"
    assert select(results, "most-accurate", three).trial == 2
    assert select(results, "knee", three).trial == 1
    assert select(results, "fastest", DEFAULT.against("params_m")).trial == 0, "without a latency the first cost"
    # by the mean of both costs it is trial 5; by their sum 2, their maximum 1, the first alone 3, the second alone 4
    places = [(0, 0, 0), (0.8, 0.5, 0.5), (0.3, 0.1, 0.1), (0.75, 0.05, 0.99), (0.75, 0.95, 0.2), (0.72, 0.05, 0.72)]
    bulging = [one(n, a, 1.0 + second, 1.0 + first) for n, (a, first, second) in enumerate([*places, (1, 1, 1)])]
    assert select(bulging, "knee", three).trial == 5
    with pytest.raises(InputError, match="no trial of this run has latency_ms@phone"):
        select(results, "latency_ms@phone<=3", three)


def test_a_rule_may_name_the_main_device() -> None:
    _, limits = parse_rule("latency_ms@local<=3", ["local", "phone"])
    assert [limit.objective.name for limit in limits] == ["latency_ms"]
    with pytest.raises(InputError, match="no device 'tablet' in this run, expected one of: local, phone"):
        parse_rule("latency_ms@tablet<=3", ["local", "phone"])
