import random
import warnings

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_workers import SmallSpace

from nasdistill.errors import InputError
from nasdistill.pareto.hypervolume import Reference
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.search.distributions import distribution_of, key_of, point_of, suggest_params, unseen_point
from nasdistill.search.grid import value_at
from nasdistill.search.latency_first import LatencyFirstSampler
from nasdistill.search.reconcile import directions_of
from nasdistill.search.samplers import SAMPLERS, SamplerTask, make_sampler
from nasdistill.space.parameters import Choice, Parameter, Range

optuna.logging.set_verbosity(optuna.logging.ERROR)


def draws(name: str, seed: int, count: int = 12, already: int = 0) -> list[dict[str, object]]:
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=make_sampler(name, SamplerTask(SmallSpace(endless=True), seed=seed), already),
    )
    chosen = []
    for _ in range(count):
        trial = study.ask()
        params = suggest_params(trial, SmallSpace(endless=True))
        chosen.append(params)
        study.tell(trial, [float(params.get("a.width", 0)), float(params["lr"])])
    return chosen


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_handles_conditional_parameters_and_its_seed(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_sampler(name, SamplerTask(SmallSpace()))
    points = draws(name, seed=1)
    assert {point["family"] for point in points} == {"a", "b"}
    for point in points:
        assert set(point) == {"family", "lr", "a.width" if point["family"] == "a" else "b.depth"}
        assert point_of(SmallSpace(endless=True), point) is not None
    assert points == draws(name, seed=1)
    assert points != draws(name, seed=2)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "qmc"])
def test_a_resumed_run_does_not_replay_its_random_numbers(name: str) -> None:
    assert draws(name, seed=1, count=5) != draws(name, seed=1, count=5, already=5)


def test_an_unknown_sampler_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(
        InputError, match="unknown sampler 'tpee'; allowed: latency-first, random, tpe, nsga2, nsga3, gp, qmc"
    ):
        make_sampler("tpee", SamplerTask(SmallSpace()))


def test_halton_covers_more_evenly_than_chance() -> None:
    """The largest gap between 64 points in one dimension is about 0.07 by chance, and 1/32 at most in base 2."""

    def largest_gap(name: str, param: str) -> float:
        study = optuna.create_study(sampler=make_sampler(name, SamplerTask(SmallSpace(), seed=3)))
        trials = [study.ask() for _ in range(64)]
        values = sorted(trial.suggest_float(param, 0.0, 1.0) for trial in trials)
        return max(after - before for before, after in zip([0.0, *values], [*values, 1.0], strict=True))

    assert largest_gap("qmc", "x") <= 2 / 64 + 1e-9
    assert largest_gap("random", "x") > 2 / 64 + 1e-9


def test_halton_goes_on_in_another_process_where_it_was() -> None:
    """Of conditional parameters, whatever comes first after resuming."""

    def ask(study: optuna.Study) -> dict[str, object]:
        trial = study.ask()
        return suggest_params(trial, SmallSpace(endless=True))

    def new_study(storage: optuna.storages.BaseStorage) -> optuna.Study:
        sampler = make_sampler("qmc", SamplerTask(SmallSpace(endless=True), seed=3))
        return optuna.create_study(study_name="s", storage=storage, sampler=sampler, load_if_exists=True)

    once = new_study(optuna.storages.InMemoryStorage())
    drawn = [ask(once) for _ in range(12)]
    for cut in (2, 5, 7):
        storage = optuna.storages.InMemoryStorage()
        first = new_study(storage)
        before = [ask(first) for _ in range(cut)]
        second = new_study(storage)
        assert before + [ask(second) for _ in range(12 - cut)] == drawn


parameters = st.one_of(
    st.lists(st.integers(-5, 5) | st.sampled_from(["x", "y"]), min_size=1, max_size=5, unique=True).map(
        lambda values: Choice(tuple(values))
    ),
    st.tuples(st.integers(-9, 9), st.integers(0, 7), st.integers(1, 3)).map(
        lambda t: Range(t[0], t[0] + t[1] * t[2], t[2])
    ),
    st.tuples(st.integers(-9, 9), st.integers(0, 7)).map(
        lambda t: Range(t[0] * 5 / 100, (t[0] + t[1]) * 5 / 100, 0.05)
    ),
    st.tuples(st.floats(-9, 9), st.floats(0.01, 9)).map(lambda t: Range(t[0], t[0] + t[1])),
    st.tuples(st.floats(0.001, 9), st.floats(0.01, 9)).map(lambda t: Range(t[0], t[0] + t[1], log=True)),
)


@given(parameters, st.floats(0, 1, exclude_max=True))
def test_distributions_hold_exactly_the_values_of_their_parameter(parameter: Parameter, position: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distribution = distribution_of(parameter)
    value = value_at(distribution, position)
    assert parameter.contains(value)
    assert distribution._contains(distribution.to_internal_repr(value))
    for allowed in parameter.grid() or ():
        assert distribution._contains(distribution.to_internal_repr(allowed))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 9))
def test_the_walk_finds_every_unseen_point_and_knows_the_end(seed: int, seen_count: int) -> None:
    space, rng = SmallSpace(), random.Random(seed)
    seen: set[str] = set()
    for _ in range(seen_count):
        point = unseen_point(space, seen, rng)
        assert point is not None and key_of(point) not in seen
        seen.add(key_of(point))
    left = 0
    while (point := unseen_point(space, seen, rng)) is not None:
        assert point_of(space, point) is not None
        seen.add(key_of(point))
        left += 1
    assert seen_count + left == 10


def test_equal_points_have_equal_keys() -> None:
    assert key_of({"b": 256, "a": 0.15}) == key_of({"a": 0.15000000000000002, "b": 256.0})
    assert key_of({"a": True}) != key_of({"a": 1})
    assert key_of({"a": "1"}) != key_of({"a": 1})


def test_points_of_another_space_are_told() -> None:
    good = {"family": "a", "a.width": 0.5, "lr": 2, "init": "inherited"}
    found = point_of(SmallSpace(), good)
    assert found is not None and found[0] == {"family": "a", "a.width": 0.5, "lr": 2}
    for bad in ({"family": "c"}, {"family": "a", "lr": 2}, {**good, "a.width": 0.6}, {**good, "lr": "fast"}):
        assert point_of(SmallSpace(), bad) is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_an_accuracy_and_two_costs(name: str) -> None:
    objectives = DEFAULT.against("params_m", "latency_ms@phone")
    corner = Reference(**{"params_m": 4.0, "latency_ms@phone": 9.0})
    space, points = SmallSpace(endless=True), set()
    sampler = make_sampler(name, SamplerTask(space, objectives, reference=corner, seed=1))
    study = optuna.create_study(directions=directions_of(objectives), sampler=sampler)
    for _ in range(10):
        trial = study.ask()
        params = suggest_params(trial, space)
        points.add(str(params))
        size = float(params.get("a.width", 0)) + float(params.get("b.depth", 0)) / 4
        study.tell(trial, [0.5 + size / 3, 1.0 + size, 5.0 - size])
    assert len(points) == 10
    if isinstance(sampler, LatencyFirstSampler):
        assert sampler._aims.reference == [0.0, 4.0, 9.0]
