from hypothesis import event, given
from hypothesis import strategies as st

from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import TrialResult


def trial(number: int, accuracy: float, latency_ms: float, **more: object) -> TrialResult:
    figures = {"state": "complete", "fidelity": 1.0, "map50": accuracy, "map50_95": accuracy, "latency_ms": latency_ms}
    return TrialResult(trial=number, family="f", **(figures | more))


def brute_force(results: list[TrialResult]) -> list[int]:
    """The definition, pair by pair: not dominated, and the first of its equals."""

    def beats(a: TrialResult, b: TrialResult) -> bool:
        as_good = a.map50_95 >= b.map50_95 and a.latency_ms <= b.latency_ms
        return as_good and ((a.map50_95, a.latency_ms) != (b.map50_95, b.latency_ms) or a.trial < b.trial)

    full = [r for r in results if r.state == "complete" and r.fidelity == 1.0]
    kept = [r for r in full if not any(beats(other, r) for other in full if other is not r)]
    return [r.trial for r in sorted(kept, key=lambda r: r.latency_ms)]


# A grid this small makes ties and exact duplicates the rule, not the exception.
grids = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 5), st.sampled_from([1.0, 1.0, 1.0, 0.5])), max_size=14
).flatmap(lambda rows: st.permutations(list(enumerate(rows))))


@given(grids)
def test_front_equals_brute_force(rows):
    results = [trial(n, accuracy / 4, latency, fidelity=fidelity) for n, (accuracy, latency, fidelity) in rows]
    points = [row[:2] for _, row in rows]
    event("with duplicates" if len(set(points)) < len(points) else "without duplicates")
    members = front(results)
    assert [m.trial for m in members] == brute_force(results)
    assert all(
        a.latency_ms < b.latency_ms and a.map50_95 < b.map50_95 for a, b in zip(members, members[1:], strict=False)
    )


def test_brute_force_can_fail():
    results = [trial(0, 0.5, 1.0), trial(1, 0.4, 2.0)]
    assert brute_force(results) != [0, 1]


def test_of_equal_points_the_lowest_number_stays():
    assert [m.trial for m in front([trial(9, 0.5, 1), trial(3, 0.5, 1), trial(5, 0.5, 1)])] == [3]


def test_only_complete_trials_at_full_length_are_eligible():
    best = {"map50": 0.9, "map50_95": 0.9, "latency_ms": 0.1}
    others = [
        trial(1, 0.9, 0.1, fidelity=0.5),
        *(trial(2 + i, 0.9, 0.1, state=s, reason="r") for i, s in enumerate(["failed", "rejected", "stopped"])),
    ]
    assert all(getattr(r, k) == v for r in others for k, v in best.items())
    assert [m.trial for m in front([*others, trial(0, 0.2, 5.0)])] == [0]
    assert front(others) == []


def test_no_results_no_front():
    assert front([]) == []


def test_accuracy_and_cost_can_be_chosen():
    a = trial(0, 0.5, 1.0, map50=0.6, params_m=3.0)
    b = trial(1, 0.4, 2.0, map50=0.7, params_m=1.0)
    assert front([a, b]) == [a]
    assert front([a, b], DEFAULT.with_accuracy("map50")) == [a, b]
    assert front([a, b], DEFAULT.against("params_m")) == [b, a]


def test_the_arguments_are_left_alone():
    results = [trial(2, 0.5, 1.0), trial(1, 0.4, 0.5)]
    before = list(results)
    front(results)
    assert results == before


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)), max_size=12))
def test_a_front_of_three_objectives_equals_brute_force(grid):
    results = [
        trial(n, a / 4, float(ms)).model_copy(update={"params_m": float(m)}) for n, (a, ms, m) in enumerate(grid)
    ]
    points = [(-a, ms, m) for a, ms, m in grid]
    wanted = {
        n
        for n, own in enumerate(points)
        if not any(all(x <= y for x, y in zip(other, own, strict=True)) and other != own for other in points)
        and points.index(own) == n
    }
    members = front(results, DEFAULT.against("latency_ms", "params_m"))
    assert {member.trial for member in members} == wanted
    assert [m.latency_ms for m in members] == sorted(m.latency_ms for m in members)


def test_the_front_of_a_device_knows_nothing_of_the_others():
    def on(number: int, accuracy: float, here: float, there: float) -> TrialResult:
        return trial(number, accuracy, here).model_copy(update={"further": {"latency_ms@b": there}})

    results = [on(0, 0.3, 1.0, 9.0), on(1, 0.5, 2.0, 4.0), on(2, 0.6, 3.0, 8.0), on(3, 0.55, 9.0, 2.0)]
    assert [m.trial for m in front(results)] == [0, 1, 2]
    assert [m.trial for m in front(results, DEFAULT.against("latency_ms@b"))] == [3, 2]
    assert [m.trial for m in front(results, DEFAULT.against("latency_ms", "latency_ms@b"))] == [0, 1, 2, 3]
