"""The sampler as anyone may use it: Optuna, a plain objective, a latency function, and no nasdistill search around it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from nasdistill.errors import SpaceExhaustedError
from nasdistill.search import LatencyFirstSampler
from nasdistill.search.acquisition import Goal
from nasdistill.search.encoding import Encoder
from nasdistill.search.known import FIDELITY, PARTIAL_VALUES, PROPOSAL
from nasdistill.search.prior import Prior

optuna.logging.set_verbosity(optuna.logging.ERROR)
DIRECTIONS = ["maximize", "minimize"]
FLAT: dict[str, BaseDistribution] = {
    "width": FloatDistribution(0.1, 1.0, log=True),
    "depth": IntDistribution(1, 8),
    "act": CategoricalDistribution(("relu", "silu", None)),
}


def flat_latency(params: Mapping[str, Any]) -> float:
    return 1.0 + 20.0 * params["width"] ** 2 * params["depth"] / 8


def flat_score(params: Mapping[str, Any]) -> float:
    return 1.0 - math.exp(-3.0 * params["width"]) / params["depth"] ** 0.5 + 0.05 * (params["act"] == "silu")


def objective(trial: optuna.Trial) -> tuple[float, float]:
    params = {
        "width": trial.suggest_float("width", 0.1, 1.0, log=True),
        "depth": trial.suggest_int("depth", 1, 8),
        "act": trial.suggest_categorical("act", ("relu", "silu", None)),
    }
    return flat_score(params), flat_latency(params)


def study_of(sampler: optuna.samplers.BaseSampler, directions: list[str] | None = None) -> optuna.Study:
    return optuna.create_study(directions=directions or DIRECTIONS, sampler=sampler)


def tree(chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    if "family" not in chosen:
        return {"family": CategoricalDistribution(("conv", "vit"))}
    own = {"conv.width": IntDistribution(1, 6)} if chosen["family"] == "conv" else {"vit.heads": IntDistribution(1, 3)}
    both = {**own, "size": CategoricalDistribution((160, 256))}
    return {name: distribution for name, distribution in both.items() if name not in chosen}


def tree_latency(params: Mapping[str, Any]) -> float:
    return params["size"] / 100 * (params["conv.width"] if params["family"] == "conv" else 4 * params["vit.heads"])


def ask(study: optuna.Study, space: Callable[[Mapping[str, Any]], dict[str, BaseDistribution]]) -> optuna.Trial:
    trial = study.ask()
    params: dict[str, Any] = {}
    while following := space(params):
        for name, distribution in following.items():
            params[name] = trial._suggest(name, distribution)
    return trial


def hypervolume(study: optuna.Study, reference: tuple[float, float] = (0.0, 22.0)) -> float:
    area, below = 0.0, reference[0]
    for score, latency in sorted((t.values[0], t.values[1]) for t in study.best_trials):
        area += (score - below) * (reference[1] - latency)
        below = score
    return area


def test_it_finds_a_better_front_than_chance() -> None:
    def mean_volume(make: Callable[[int], optuna.samplers.BaseSampler]) -> float:
        volumes = []
        for seed in range(3):
            study = study_of(make(seed))
            study.optimize(objective, n_trials=18)
            volumes.append(hypervolume(study))
        return sum(volumes) / len(volumes)

    ours = mean_volume(lambda seed: LatencyFirstSampler(FLAT, flat_latency, seed=seed))
    chance = mean_volume(lambda seed: optuna.samplers.RandomSampler(seed=seed))
    assert ours > chance + 0.2


def test_the_same_seed_proposes_the_same() -> None:
    def proposed(seed: int) -> list[dict[str, Any]]:
        study = study_of(LatencyFirstSampler(FLAT, flat_latency, seed=seed))
        study.optimize(objective, n_trials=11)
        return [trial.params for trial in study.trials]

    assert proposed(4) == proposed(4)
    assert proposed(4) != proposed(5)


def test_a_conditional_space_is_walked_to_its_end_without_repeating_a_point() -> None:
    study = study_of(LatencyFirstSampler(tree, tree_latency, seed=0))
    for _ in range(18):  # 6 widths and 3 heads at 2 sizes each
        trial = ask(study, tree)
        assert set(trial.params) == {
            "family",
            "size",
            "conv.width" if trial.params["family"] == "conv" else "vit.heads",
        }
        study.tell(trial, [tree_latency(trial.params) ** 0.5, tree_latency(trial.params)])
    assert len({str(sorted(trial.params.items())) for trial in study.trials}) == 18
    with pytest.raises(SpaceExhaustedError, match="has been tried"):
        ask(study, tree)


@pytest.mark.parametrize("lookups", [1, 4, None])
def test_what_cannot_be_built_is_never_proposed_and_nothing_is_measured_twice(lookups: int | None) -> None:
    asked: list[str] = []

    def latency(params: Mapping[str, Any]) -> float:
        asked.append(str(sorted(params.items())))
        return math.inf if params["family"] == "vit" or params["size"] == 256 else tree_latency(params)

    study = study_of(LatencyFirstSampler(tree, latency, seed=1, lookups=lookups))
    for _ in range(6):
        trial = ask(study, tree)
        assert trial.params["family"] == "conv" and trial.params["size"] == 160
        study.tell(trial, [0.1 * trial.params["conv.width"], tree_latency(trial.params)])
    with pytest.raises(SpaceExhaustedError):
        ask(study, tree)
    assert len(asked) == len(set(asked))


def test_few_points_are_measured_for_a_suggestion() -> None:
    sampler = LatencyFirstSampler(FLAT, flat_latency, seed=0, lookups=4)
    study_of(sampler).optimize(objective, n_trials=12)
    assert 12 <= sampler.lookups <= 12 * 4


def test_points_that_are_equal_after_rounding_are_duplicates() -> None:
    def canonical(params: Mapping[str, Any]) -> tuple[Any, ...]:
        return round(params["width"], 1), params["act"]

    study = study_of(LatencyFirstSampler(FLAT, flat_latency, seed=0, canonical=canonical))
    study.optimize(objective, n_trials=15)
    assert len({canonical(trial.params) for trial in study.trials}) == 15


def test_failed_trials_are_not_proposed_again() -> None:
    study = study_of(LatencyFirstSampler(tree, tree_latency, seed=2))
    for _ in range(12):
        study.tell(ask(study, tree), state=TrialState.FAIL)
    assert len({str(sorted(trial.params.items())) for trial in study.trials}) == 12


def test_workers_see_what_the_others_are_running() -> None:
    """Also a trial of another process that has not asked for its parameters yet, and one that was enqueued."""
    study = study_of(LatencyFirstSampler(tree, tree_latency, seed=0))
    study.enqueue_trial({"family": "vit", "vit.heads": 2, "size": 160})
    for _ in range(8):
        trial = ask(study, tree)
        study.tell(trial, [tree_latency(trial.params) ** 0.5, tree_latency(trial.params)])
    for _ in range(6):
        ask(study, tree)
    silent = study.ask()
    study._storage.set_trial_system_attr(silent._trial_id, PROPOSAL, {"family": "vit", "vit.heads": 3, "size": 256})
    points = [str(sorted(trial.params.items())) for trial in study.trials if trial.number != silent.number]
    assert len(set(points)) == len(points) == 14
    others = LatencyFirstSampler(tree, tree_latency, seed=0)
    study.sampler = others
    for _ in range(3):
        proposed = ask(study, tree).params
        assert proposed != {"family": "vit", "vit.heads": 3, "size": 256}
        assert str(sorted(proposed.items())) not in points


def test_fixed_parameters_are_kept_and_the_rest_is_chosen_around_them() -> None:
    study = study_of(LatencyFirstSampler(tree, tree_latency, seed=0))
    study.enqueue_trial({"family": "vit"})
    study.enqueue_trial({"size": 256})
    assert ask(study, tree).params["family"] == "vit"
    assert ask(study, tree).params["size"] == 256


def test_without_a_latency_function_it_is_predicted_from_finished_trials_and_told_figures() -> None:
    sampler = LatencyFirstSampler(FLAT, None, seed=0, figure_limits={"latency_ms": 4.0, "params_m": 3.0})
    study = study_of(sampler)
    proposed = []
    for _ in range(24):
        trial = study.ask()
        values = objective(trial)
        # a worker measures it and turns it down, untrained
        kept = values[1] <= 4.0 and trial.params["depth"] <= 3
        proposed.append(kept)
        sampler.observe(trial.params, values[1], params_m=float(trial.params["depth"]))
        study.tell(trial, values) if kept else study.tell(trial, state=TrialState.FAIL)
    assert sum(proposed[-10:]) >= 8  # by chance three of ten


def test_effort_is_expected_of_points_like_those_told() -> None:
    def seconds(params: Mapping[str, Any]) -> float:
        return 20.0 + 15.0 * flat_latency(params)

    sampler = LatencyFirstSampler(FLAT, flat_latency, seed=0, effort="seconds")
    study = study_of(sampler)
    unseen = {"width": 0.55, "depth": 3, "act": "silu"}
    assert sampler.expecting_effort() is None
    for _ in range(12):
        trial = study.ask()
        values = objective(trial)
        sampler.observe(trial.params, values[1], seconds=seconds(trial.params))
        study.tell(trial, values)
    sampler.observe(unseen, flat_latency(unseen))
    expected = sampler.expecting_effort()
    assert expected is not None and expected(unseen) == pytest.approx(seconds(unseen), rel=0.15)
    assert LatencyFirstSampler(FLAT, flat_latency, seed=0).expecting_effort() is None


def test_a_parameter_that_nothing_had_before_widens_the_models_at_any_time() -> None:
    """It opens at the very end of a range, where random points hardly ever are."""

    def rare(chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        if "width" not in chosen:
            return {"width": FloatDistribution(0.0, 1.0)}
        if chosen["width"] > 0.9999 and "late" not in chosen:
            return {"late": CategoricalDistribution(("a", "b", "c"))}
        return {}

    sampler = LatencyFirstSampler(rare, None, seed=0, startup=3, effort="seconds", figure_limits={"params_m": 3.0})
    study = study_of(sampler)
    expected = None
    sampler.observe({"width": 0.99999, "late": "c"}, 2.0)
    for number in range(12):
        if number >= 6:
            study.enqueue_trial({"width": 0.9999 + number * 1e-6, "late": "abcabc"[number - 6]})
            study.ask()  # and never told: pending
        trial = ask(study, rare)
        width = trial.params["width"]
        sampler.observe(trial.params, 1.0 + width, seconds=10.0 + width, params_m=1.0 + width)
        study.tell(trial, (width, 1.0 + width))
        expected = expected or sampler.expecting_effort()
    assert "late" in sampler._costs.encoder._parameters
    assert expected is not None and expected({"width": 1.0, "late": "a"}) == pytest.approx(11.0, rel=0.2)


def test_what_is_not_possible_at_present_is_not_proposed() -> None:
    """In the startup, by the models, and by their climb; afterwards everything is again."""
    sampler = LatencyFirstSampler(FLAT, flat_latency, seed=0, startup=3)
    study = study_of(sampler)
    sampler.possible = lambda point: point["depth"] <= 2
    study.optimize(objective, n_trials=10)
    assert {trial.params["depth"] for trial in study.trials} <= {1, 2}
    sampler.possible = lambda point: False
    with pytest.raises(SpaceExhaustedError):
        study.optimize(objective, n_trials=1)
    sampler.possible = None
    study.optimize(objective, n_trials=6)
    assert max(trial.params["depth"] for trial in study.trials[11:]) > 2


@pytest.mark.parametrize(("short", "wanted"), [(0.45, True), (0.01, False)])
def test_scores_of_short_training_inform_but_take_no_place_on_the_front(short: float, wanted: bool) -> None:
    """All full scores are of "relu": whether "silu" is worth a trial is only known from short ones."""

    def space(chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        return {name: distribution for name, distribution in FLAT.items() if name not in chosen}

    study = study_of(LatencyFirstSampler(FLAT, flat_latency, seed=0, startup=2))
    for depth in range(1, 9):
        for act in ("relu", "silu"):
            params = {"width": 0.3, "depth": depth, "act": act}
            full = act == "relu"
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if full else TrialState.PRUNED,
                    values=[0.2 + 0.01 * depth, flat_latency(params)] if full else None,
                    params=params,
                    distributions=FLAT,
                    user_attrs={} if full else {FIDELITY: 0.3, PARTIAL_VALUES: [short, flat_latency(params)]},
                )
            )
    assert (ask(study, space).params["act"] == "silu") == wanted
    assert all(trial.params["act"] == "relu" for trial in study.best_trials)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"search_space": {}}, "search_space is empty"),
        ({"search_space": 3}, "expected a dict or a callable, got int"),
        ({"search_space": {"a": (1, 2)}}, "a is .*expected an Optuna distribution"),
        ({"lookups": 0}, "lookups=0"),
        ({"startup": 0}, "startup=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        LatencyFirstSampler(**{"search_space": FLAT, "latency": flat_latency, **arguments})


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_a_latency_that_is_none_is_refused(wrong: float) -> None:
    study = study_of(LatencyFirstSampler(FLAT, lambda params: wrong, seed=0))
    with pytest.raises(ValueError, match="expected milliseconds above 0"):
        study.optimize(objective, n_trials=1)


def test_a_study_without_that_objective_is_refused() -> None:
    study = study_of(LatencyFirstSampler(FLAT, flat_latency, latency_objective=2, seed=0))
    with pytest.raises(ValueError, match="latency_objective=2, but the study has 2"):
        study.optimize(objective, n_trials=1)


def test_a_second_cost_that_is_only_told_steers_like_a_known_one() -> None:
    """Score and latency of both kinds are alike; that "relu" needs fewer parameters is told of points nobody trained."""

    def space(chosen: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        return {name: distribution for name, distribution in FLAT.items() if name not in chosen}

    def proposed(small: str) -> list[str]:
        sampler = LatencyFirstSampler(FLAT, None, seed=0, startup=2, figures={2: "params_m"}, latency_name="size_mb")
        study = study_of(sampler, ["maximize", "minimize", "minimize"])
        for depth in range(1, 9):
            params = {"width": 0.3, "depth": depth, "act": None}
            values = [0.2 + 0.01 * depth, flat_latency(params), 4.0]
            study.add_trial(create_trial(values=values, params=params, distributions=FLAT))
            for act in ("relu", "silu"):
                told = {"params_m": 1.0 if act == small else 9.0, "size_mb": flat_latency(params), "latency_ms": 7.0}
                sampler.observe({**params, "act": act, "width": 0.31}, **told)
        return [ask(study, space).params["act"] for _ in range(3)]

    assert proposed("relu") == ["relu"] * 3
    assert proposed("silu") == ["silu"] * 3


RECIPE: dict[str, BaseDistribution] = {
    **FLAT,
    **{name: FloatDistribution(0.1, 10.0, log=True) for name in ("cls", "box", "feature")},
    "temperature": FloatDistribution(1.0, 8.0),
}
BELIEVED = {"cls": 1.0, "box": 1.0, "feature": 1.0, "temperature": 4.5}


def taught(trial: optuna.Trial) -> tuple[float, float]:
    """A student's score falls with every decade that its three loss weights are away from 1."""
    score, latency = objective(trial)
    weights = [trial.suggest_float(name, 0.1, 10.0, log=True) for name in ("cls", "box", "feature")]
    trial.suggest_float("temperature", 1.0, 8.0)
    return score * math.exp(-sum(math.log10(weight) ** 2 for weight in weights)), latency


def test_a_dozen_trials_find_more_from_what_is_believed_of_the_recipe() -> None:
    def mean_volume(believed: dict[str, float]) -> float:
        volumes = []
        for seed in range(4):
            study = study_of(LatencyFirstSampler(RECIPE, flat_latency, seed=seed, believed=believed))
            study.optimize(taught, n_trials=12)
            volumes.append(hypervolume(study))
        return sum(volumes) / len(volumes)

    assert mean_volume(BELIEVED) > 1.1 * mean_volume({})


def test_the_first_trials_keep_what_is_believed_and_differ_in_the_rest() -> None:
    study = study_of(LatencyFirstSampler(RECIPE, flat_latency, seed=0, startup=5, believed=BELIEVED))
    study.optimize(taught, n_trials=5)
    params = [trial.params for trial in study.trials]
    assert all({name: point[name] for name in BELIEVED} == BELIEVED for point in params)
    assert len({(point["width"], point["depth"], point["act"]) for point in params}) == 5


def test_a_value_given_for_a_trial_counts_more_than_what_is_believed() -> None:
    study = study_of(LatencyFirstSampler(RECIPE, flat_latency, seed=0, believed=BELIEVED))
    study.enqueue_trial({"cls": 0.2})
    study.optimize(taught, n_trials=1)
    assert study.trials[0].params["cls"] == 0.2
    assert study.trials[0].params["box"] == 1.0


@pytest.mark.parametrize("first", [0, 1])
def test_a_name_that_is_fixed_in_one_branch_has_one_column_for_all(first: int) -> None:
    branches = [{"w": FloatDistribution(0.0, 0.0)}, {"w": FloatDistribution(0.1, 1.0)}]
    encoder = Encoder()
    for at in (first, 1 - first):
        encoder.add(branches[at])
    assert encoder.rows([{"w": 0.0}, {"w": 0.25}, {"w": 1.0}])[:, 0].tolist() == [0.0, 0.25, 1.0]


def test_a_belief_fades_with_trials_and_says_nothing_of_what_it_does_not_name() -> None:
    encoder = Encoder()
    encoder.add({"a": FloatDistribution(0.01, 100.0, log=True), "b": IntDistribution(0, 9), "c": IntDistribution(4, 4)})
    points = [{"a": 1.0, "b": 0}, {"a": 1.0, "b": 9}, {"a": 10.0, "b": 0}, {"a": 0.1, "b": 9}, {"a": 100.0, "b": 0}]
    prior = Prior({"a": 1.0, "c": 4})
    early, late = (prior.weights(encoder.rows(points), encoder, trials) for trials in (10, 1000))
    # a quarter of the range is one standard deviation: exp(-1/2), and two at the end
    assert early == pytest.approx([1.0, 1.0, math.exp(-0.5), math.exp(-0.5), math.exp(-2.0)])
    assert late == pytest.approx(early**0.01)


def test_what_takes_long_is_tried_less_often_where_effort_counts() -> None:
    def slow_ones(effort: str | None) -> int:
        sampler = LatencyFirstSampler(FLAT, flat_latency, seed=1, effort=effort)
        study = study_of(sampler)

        def told(trial: optuna.Trial) -> tuple[float, float]:
            values = objective(trial)
            sampler.observe(trial.params, seconds=100.0 if trial.params["depth"] > 4 else 5.0)
            return values

        study.optimize(told, n_trials=20)
        return sum(trial.params["depth"] > 4 for trial in study.trials[6:])

    assert slow_ones("seconds") < slow_ones(None) / 2


def test_effort_counts_from_the_third_that_was_told_on() -> None:
    sampler = LatencyFirstSampler(FLAT, flat_latency, seed=0, effort="seconds")
    points = [{"width": width, "depth": 4, "act": "relu"} for width in (0.1, 0.2, 0.4, 0.8)]
    candidates = [sampler._reader.candidate(dict(point)) for point in points]
    for told, (point, seconds) in enumerate(zip(points, (10.0, 20.0, 40.0, 80.0), strict=True)):
        if told < 3:
            assert sampler._costs.effort("seconds") is None
        sampler.observe(point, seconds=seconds)
    effort = sampler._costs.effort("seconds")
    assert effort is not None
    found = effort(sampler._costs.features(candidates))
    assert list(found) == sorted(found)
    assert found[-1] / found[0] == pytest.approx(8.0, rel=0.5)
    assert found[1] < 28.0 < found[2]


def goal_of(sampler: LatencyFirstSampler, study: optuna.Study, *pending: Mapping[str, Any]) -> Goal:
    known = sampler._known(study, SimpleNamespace(number=-1))  # type: ignore[arg-type]
    waiting = [sampler._reader.candidate(dict(point)) for point in pending]
    return Goal(dataclasses.replace(known, pending=waiting), sampler._costs, sampler._aims, sampler._score_models)


def add(study: optuna.Study, width: float, score: float, missed: float = -0.1) -> None:
    params = {"width": width, "depth": 4, "act": "relu"}
    values = [score, flat_latency(params)]
    study.add_trial(create_trial(values=values, params=params, distributions=FLAT, constraints={"params_m": missed}))


def test_what_breaks_a_limit_is_on_no_front_and_the_reference_is_the_box() -> None:
    sampler = LatencyFirstSampler(FLAT, flat_latency, seed=0, reference=[0.1, 15.0])
    study = study_of(sampler)
    for width, score, missed in ((0.2, 0.5, -0.1), (0.3, 0.9, 0.4), (0.6, 0.6, 0.0)):
        add(study, width, score, missed)
    goal = goal_of(sampler, study)
    assert [member.point["width"] for member in goal.members] == [0.2, 0.6]
    assert goal._cells.high.max(axis=0).tolist() == [-0.1, 15.0]


def test_what_runs_has_taken_its_place_on_the_front() -> None:
    sampler = LatencyFirstSampler(FLAT, flat_latency, seed=0)
    study = study_of(sampler)
    for width in (0.15, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9):
        add(study, width, flat_score({"width": width, "depth": 4, "act": "relu"}))
    point = {"width": 0.5, "depth": 4, "act": "relu"}
    sampler.observe(point, flat_latency(point))
    candidate = sampler._reader.candidate(dict(point))
    alone, beside = (goal_of(sampler, study, *running).of([candidate])[0] for running in ((), (point,)))
    assert beside < 0.5 * alone
