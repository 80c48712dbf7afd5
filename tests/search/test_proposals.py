"""What Optuna is told, without Ray: points in order and once, honest scores only, a study that survives anything."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from search_workers import SmallSpace

from nasdistill.pareto.limits import parse_constraints
from nasdistill.pareto.objectives import LATENCY_MS, MAP50_95
from nasdistill.records import Scalar, Scouted, TrialResult
from nasdistill.search.distributions import key_of, point_of
from nasdistill.search.journal import STUDY_NAME
from nasdistill.search.journal_file import open_journal_file
from nasdistill.search.latency_first import LatencyFirstSampler
from nasdistill.search.memory import Warmth
from nasdistill.search.proposals import Draft, Proposals
from nasdistill.search.reconcile import directions_of
from nasdistill.search.samplers import SAMPLERS, SamplerTask, make_sampler
from nasdistill.space.parameters import Parameter, Range

OBJECTIVES = (MAP50_95, LATENCY_MS)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def opened(
    folder: Path, results: list[TrialResult] | None = None, sampler: str = "random", space: SmallSpace | None = None
) -> Proposals:
    journal = open_journal_file(folder / "study.journal", directions_of(OBJECTIVES))
    number = len(results or [])
    return Proposals(
        space or SmallSpace(),
        make_sampler(sampler, SamplerTask(space or SmallSpace(), seed=0), number),
        journal,
        OBJECTIVES,
        results or [],
        0,
    )


def on_disk(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """What any other Optuna program finds in the journal."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name=STUDY_NAME, storage=storage).trials


def complete(number: int, params: dict[str, object], accuracy: float = 0.5) -> TrialResult:
    return TrialResult.model_validate(
        {
            "trial": number,
            "state": "complete",
            "family": params["family"],
            "map50": accuracy,
            "map50_95": accuracy,
            "latency_ms": 1.0 + number,
            "params": {**params, "init": "random"},
        }
    )


def ended(number: int, state: str, params: dict[str, object], reason: str) -> TrialResult:
    return TrialResult.model_validate(
        {"trial": number, "state": state, "family": "a", "reason": reason, "params": params, "map50_95": 0.9}
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_anchors_come_first_then_every_other_point_once_then_the_end(tmp_path: Path, sampler: str) -> None:
    proposals = opened(tmp_path, sampler=sampler)
    points = []
    while (draft := proposals.ask()) is not None:
        number = proposals.start(draft)
        assert number == len(points)
        points.append(draft.params)
        proposals.finish(complete(number, draft.params))
    assert points[:2] == SmallSpace().anchors()
    assert len(points) == len({key_of(point) for point in points}) == 10
    trials = on_disk(tmp_path)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 10
    assert [trial.params for trial in trials] == points
    assert trials[3].values == [0.5, 4.0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_points_that_are_the_same_trial_are_proposed_once(tmp_path: Path, sampler: str) -> None:
    """Here `lr` makes no difference to family b: of its four points two are trials of their own."""

    class Rounded(SmallSpace):
        def canonical(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
            return {**params, "lr": 0} if params["family"] == "b" else params

    proposals = opened(tmp_path, space=Rounded(), sampler=sampler)
    points = []
    while (draft := proposals.ask()) is not None:
        points.append(draft.params)
        proposals.finish(complete(proposals.start(draft), draft.params))
    assert sorted(str(point.get("b.depth")) for point in points if point["family"] == "b") == ["1", "2"]
    assert len(points) == 3 * 2 + 2


def test_points_that_run_at_the_same_time_differ(tmp_path: Path) -> None:
    proposals = opened(tmp_path, sampler="tpe")
    drafts = [proposals.ask() for _ in range(10)]
    assert len({key_of(draft.params) for draft in drafts if draft}) == 10
    assert proposals.ask() is None


def test_a_withdrawn_point_leaves_no_trace_and_may_come_back(tmp_path: Path) -> None:
    proposals = opened(tmp_path)
    drafts = [proposals.ask() for _ in range(10)]
    for draft in drafts:
        assert draft is not None
        proposals.withdraw(draft)
    assert on_disk(tmp_path) == []
    again = proposals.ask()
    assert again is not None and proposals.start(again) == 0


@pytest.mark.parametrize("state", ["failed", "stopped", "rejected"])
def test_only_complete_trials_are_complete_to_optuna(tmp_path: Path, state: str) -> None:
    proposals = opened(tmp_path)
    draft = proposals.ask()
    assert draft is not None
    proposals.finish(ended(proposals.start(draft), state, draft.params, "some reason"))
    (trial,) = on_disk(tmp_path)
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    assert trial.user_attrs["reason"] == f"{state}: some reason"
    assert [trial.state for trial in proposals._memory.study.trials] == [TrialState.FAIL]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path, value: float | None) -> None:
    proposals = opened(tmp_path)
    draft = proposals.ask()
    assert draft is not None
    good = complete(proposals.start(draft), draft.params)
    proposals.finish(good.model_copy(update={"map50_95": value}))
    assert [trial.state for trial in on_disk(tmp_path)] == [TrialState.FAIL]


def test_an_outcome_counts_once(tmp_path: Path) -> None:
    proposals = opened(tmp_path)
    draft = proposals.ask()
    assert draft is not None
    number = proposals.start(draft)
    proposals.finish(ended(number, "failed", draft.params, "died"))
    proposals.finish(complete(number, draft.params))
    proposals.finish(complete(99, draft.params))
    assert [trial.state for trial in on_disk(tmp_path)] == [TrialState.FAIL]


def crashed_run(folder: Path) -> list[TrialResult]:
    """Four trials begun: one complete, one stopped by Ctrl-C, one written down but not told to Optuna, one running."""
    proposals = opened(folder)
    drafts = [proposals.ask() for _ in range(4)]
    numbers = [proposals.start(draft) for draft in drafts if draft]
    assert numbers == [0, 1, 2, 3]
    points = [draft.params for draft in drafts if draft]
    results = [complete(0, points[0]), ended(1, "stopped", points[1], "interrupted"), complete(2, points[2])]
    proposals.finish(results[0])
    proposals.finish(results[1])
    return results


def test_a_resumed_run_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    results = crashed_run(tmp_path)
    running = on_disk(tmp_path)[3].params
    resumed = opened(tmp_path, results)
    assert [trial.state.name for trial in on_disk(tmp_path)] == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    assert resumed.next_trial == 4
    assert sorted(trial.state.name for trial in resumed._memory.study.trials) == ["COMPLETE", "COMPLETE", "FAIL"]

    points = []
    while (draft := resumed.ask()) is not None:
        points.append(draft)
        resumed.finish(complete(resumed.start(draft), draft.params))
    assert [draft.params for draft in points[:2]] == [SmallSpace().anchors()[1], running]
    assert [draft.origin for draft in points[:2]] == ["interrupted", "interrupted"]
    # Ten points in all, of which two were done before the kill.
    assert len({key_of(draft.params) for draft in points}) == len(points) == 8
    assert all(trial.state.is_finished() for trial in on_disk(tmp_path))


def test_what_was_interrupted_once_and_done_later_is_not_repeated(tmp_path: Path) -> None:
    results = crashed_run(tmp_path)
    resumed = opened(tmp_path, results)
    for _ in range(2):
        draft = resumed.ask()
        assert draft is not None and draft.origin == "interrupted"
        result = complete(resumed.start(draft), draft.params)
        resumed.finish(result)
        results.append(result)
    again = opened(tmp_path, results)
    draft = again.ask()
    assert draft is not None and draft.origin != "interrupted"


def test_a_trial_that_no_worker_had_begun_is_tried_first_next_time(tmp_path: Path) -> None:
    proposals = opened(tmp_path)
    draft = proposals.ask()
    assert draft is not None
    proposals.abandon(proposals.start(draft))
    assert [trial.state for trial in on_disk(tmp_path)] == [TrialState.FAIL]
    again = opened(tmp_path).ask()
    assert again is not None and (again.origin, again.params) == ("interrupted", draft.params)


def test_what_was_interrupted_twice_goes_on_from_all_that_it_left(tmp_path: Path) -> None:
    for before in range(2):
        proposals = opened(tmp_path)
        draft = proposals.ask()
        assert draft is not None and draft.resumes == tuple(range(before))
        assert proposals.start(draft) == before  # and the driver dies
    last = opened(tmp_path)
    again = last.ask()
    assert again is not None and (again.params, again.resumes) == (draft.params, (0, 1))
    following = last.ask()
    assert following is not None and following.resumes == ()


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    results = crashed_run(tmp_path)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    for torn in (b'{"op_code":6,"worker_id":"x","tri', b'{"op_code":6,"worker_id":"x","tri\n', b"\x00" * 40):
        journal.write_bytes(whole + torn)
        assert opened(tmp_path, results).next_trial == 4
        assert [trial.state.name for trial in on_disk(tmp_path)] == ["COMPLETE", "FAIL", "COMPLETE", "FAIL"]
    # Cut anywhere in its last line, and even down to nothing.
    for length in (len(whole) - 1, len(whole) - 30, 10, 0):
        journal.write_bytes(whole[:length])
        assert opened(tmp_path, results).next_trial >= 3
        assert {trial.user_attrs["trial"]: trial.state.name for trial in on_disk(tmp_path)}[2] == "COMPLETE"
    assert not list(tmp_path.glob("*.damaged"))


@pytest.mark.parametrize("damage", ["middle", "garbage", "other study", "missing"])
def test_without_a_readable_journal_the_results_rebuild_it(tmp_path: Path, damage: str) -> None:
    results = crashed_run(tmp_path)
    journal = tmp_path / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    if damage == "middle":
        journal.write_bytes(b"".join([lines[0], b"{oops\n", *lines[2:]]))
    elif damage == "garbage":
        journal.write_bytes(os.urandom(3000) + b"\n\n{}\n")
    elif damage == "other study":
        journal.unlink()
        storage = JournalStorage(JournalFileBackend(str(journal)))
        optuna.create_study(study_name=STUDY_NAME, storage=storage, directions=["minimize"])
    else:
        journal.unlink()
    resumed = opened(tmp_path, results)
    assert (tmp_path / "study.journal.damaged").exists() == (damage != "missing")
    assert [trial.state.name for trial in on_disk(tmp_path)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert on_disk(tmp_path)[2].values == [0.5, 3.0]
    draft = resumed.ask()
    assert resumed.next_trial == 3 and draft is not None and draft.origin == "interrupted"


def test_the_lock_of_a_killed_process_does_not_hold_up_the_next(tmp_path: Path) -> None:
    crashed_run(tmp_path)
    (tmp_path / "study.journal.lock").symlink_to(tmp_path / "study.journal")
    draft = opened(tmp_path).ask()
    assert draft is not None  # Optuna would have waited 30 s; the suite's time limit notices.
    assert not (tmp_path / "study.journal.lock").is_symlink()


def test_results_outside_the_space_count_but_teach_nothing(tmp_path: Path) -> None:
    stranger = complete(7, {"family": "z", "z.size": 3})
    resumed = opened(tmp_path, [stranger])
    assert resumed.next_trial == 8
    assert resumed._memory.study.trials == []


def test_resuming_keeps_what_nsga2_knows_of_its_generations(tmp_path: Path) -> None:
    space = SmallSpace(endless=True)
    results = []
    proposals = opened(tmp_path, sampler="nsga2", space=space)
    for _ in range(40):
        draft = proposals.ask()
        assert draft is not None
        results.append(complete(proposals.start(draft), draft.params))
        proposals.finish(results[-1])
    resumed = opened(tmp_path, results, sampler="nsga2", space=space)

    def generations(of: Proposals) -> list[int]:
        # Duplicates that the sampler drew are failures in its memory, and not worth keeping.
        done = [trial for trial in of._memory.study.trials if trial.state == TrialState.COMPLETE]
        return [value for trial in done for name, value in trial.system_attrs.items() if "generation" in name]

    assert generations(resumed) == generations(proposals)
    # Anchors belong to no generation.
    assert len(generations(proposals)) == 40 - 2 and max(generations(proposals)) >= 1


def test_enqueued_points_come_before_the_anchors_and_are_not_repeated(tmp_path: Path) -> None:
    known = {"family": "b", "lr": 2, "b.depth": 1}
    found = point_of(SmallSpace(), known)
    assert found is not None
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), seed=0))
    proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, enqueued=[known, known])
    first, second = proposals.ask(), proposals.ask()
    assert first is not None and second is not None
    assert (first.params, first.origin) == (found[0], "enqueued")
    assert second.origin == "anchor" and second.params != first.params


def test_warm_results_are_not_proposed_again_and_are_no_trials_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    points = [draft.params for draft in drafts(opened(tmp_path / "all"))]
    warm = [Warmth(complete(number, params, 0.1 * number)) for number, params in enumerate(points[:-2])]
    short = Warmth(complete(len(points), points[-2]), fidelity=0.5)
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), seed=0))
    proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, warm=[*warm, short])
    left = drafts(proposals)
    # what was trained half as long only is worth a full trial
    assert sorted(key_of(draft.params) for draft in left) == sorted(key_of(params) for params in points[-2:])
    assert proposals.next_trial == 0 and on_disk(tmp_path) == []


def test_what_is_asked_for_is_tried_although_an_earlier_run_has_tried_it(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    points = [draft.params for draft in drafts(opened(tmp_path / "all"))]
    warm = [Warmth(complete(number, params, 0.1 * number)) for number, params in enumerate(points[:-1])]
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), seed=0))
    proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, enqueued=points[1:3], warm=warm)
    tried = [(draft.params, draft.origin) for draft in drafts(proposals)]
    assert tried == [(points[1], "enqueued"), (points[2], "enqueued"), (points[-1], "sampler")]


def test_a_warm_result_beyond_a_limit_of_this_run_takes_no_place_on_its_front(tmp_path: Path) -> None:
    points = SmallSpace().anchors()
    warm = [Warmth(complete(number, params, 0.9)) for number, params in enumerate(points)]  # 1 ms and 2 ms
    limits = parse_constraints(["latency_ms<=1.6"])
    sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), constraints=limits, seed=0))
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, warm=warm, constraints=limits)
    assert [trial.constraints for trial in proposals._memory.study.trials] == [
        {"latency_ms": pytest.approx(-0.375)},
        {"latency_ms": pytest.approx(0.25)},
    ]


@pytest.mark.parametrize("sampler", ["gp", "latency-first"])
def test_a_warm_result_whose_limit_nobody_measured_is_no_trial_of_full_worth(tmp_path: Path, sampler: str) -> None:
    limits = parse_constraints(["latency_ms@phone<=1.6"], ["local", "phone"])
    made = make_sampler(sampler, SamplerTask(SmallSpace(), constraints=limits, seed=0))
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    warm = [Warmth(complete(number, params, 0.9)) for number, params in enumerate(SmallSpace().anchors())]
    proposals = Proposals(SmallSpace(), made, journal, OBJECTIVES, warm=warm, constraints=limits)
    assert {trial.state for trial in proposals._memory.study.trials} == {TrialState.FAIL}
    for _ in range(6):  # the run's own have the figure
        draft = proposals.ask()
        assert draft is not None
        result = complete(proposals.start(draft), draft.params)
        proposals.finish(result.model_copy(update={"further": {"latency_ms@phone": 1.0}}))
    assert proposals.ask() is not None


def test_results_by_another_recipe_tell_costs_alone(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    points = [draft.params for draft in drafts(opened(tmp_path / "all"))]
    warm = [Warmth(complete(number, params, 0.9), None) for number, params in enumerate(points)]
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), seed=0))
    assert isinstance(sampler, LatencyFirstSampler)
    proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, warm=warm)
    assert len(sampler._costs.measured) == len(points) and not proposals._memory.study.trials
    tried = drafts(proposals)
    assert tried[0].origin == "anchor"
    assert sorted(key_of(draft.params) for draft in tried) == sorted(key_of(params) for params in points)


def test_scouted_students_are_known_by_their_costs_and_still_to_be_tried(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    points = [draft.params for draft in drafts(opened(tmp_path / "all"))]
    scouted = [
        Scouted(params=params, figures={"latency_ms": 1.0 + number, "gflops": 2.0})
        for number, params in enumerate(points)
    ]
    scouted.append(
        Scouted(params={"family": "c", "lr": 1}, figures={"latency_ms": 1.0})
    )  # of a space that has changed since
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), seed=0))
    assert isinstance(sampler, LatencyFirstSampler)
    proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, scouted=scouted)
    assert sorted(sampler._costs.measured.values()) == [1.0 + number for number in range(len(points))]
    left = drafts(proposals)
    assert sorted(key_of(draft.params) for draft in left) == sorted(key_of(params) for params in points)
    Proposals(SmallSpace(), make_sampler("random", SamplerTask(SmallSpace())), journal, OBJECTIVES, scouted=scouted)


def test_where_time_is_the_budget_the_sampler_is_told_the_seconds_of_complete_trials(tmp_path: Path) -> None:
    for timed in (True, False):
        sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), timed=timed, seed=0))
        assert isinstance(sampler, LatencyFirstSampler)
        (folder := tmp_path / str(timed)).mkdir()
        journal = open_journal_file(folder / "study.journal", directions_of(OBJECTIVES))
        before = complete(0, {"family": "a", "lr": 2, "a.width": 0.5}).model_copy(update={"seconds": 30.0})
        proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, [before])
        for seconds, update in ((20.0, {}), (7.0, {"state": "failed", "reason": "no", "map50_95": None})):
            draft = proposals.ask()
            assert draft is not None
            number = proposals.start(draft)
            proposals.finish(complete(number, draft.params).model_copy(update={"seconds": seconds, **update}))
        told = sampler._costs._figures
        assert (sorted(told["seconds"].values()) == [20.0, 30.0]) if timed else ("seconds" not in told)


def test_a_rejected_trial_tells_the_sampler_what_it_costs(tmp_path: Path) -> None:
    """Everything wide was too slow, and the widest are the most accurate: what comes next is just within the limit."""

    class Wide(SmallSpace):
        def parameters(self, chosen: Mapping[str, Scalar]) -> Mapping[str, Parameter]:
            return {} if chosen else {"width": Range(0.0, 1.0)}

        def anchors(self) -> Sequence[Mapping[str, Scalar]]:
            return []

    def next_widths(limit: str) -> list[float]:
        folder = tmp_path / limit
        folder.mkdir()
        results = []
        for number in range(12):
            width = (number + 0.5) / 12
            state = "complete" if width < 0.3 else "rejected"
            scores = {"map50": width, "map50_95": width} if state == "complete" else {"reason": "too slow"}
            figures = {"latency_ms": 1 + 9 * width}
            fields = {"trial": number, "state": state, "family": "", "params": {"width": width}}
            results.append(TrialResult.model_validate({**fields, **scores, **figures}))
        journal = open_journal_file(folder / "study.journal", directions_of(OBJECTIVES))
        task = SamplerTask(Wide(), constraints=parse_constraints([limit]), seed=0)
        proposals = Proposals(Wide(), make_sampler("latency-first", task), journal, OBJECTIVES, results)
        widths = []
        for _ in range(2):
            draft = proposals.ask()
            assert draft is not None
            widths.append(float(draft.params["width"]))
        return widths

    assert max(next_widths("latency_ms<=3.7")) <= 0.32
    assert max(next_widths("latency_ms<=37")) > 0.32


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3"])
def test_samplers_that_rank_by_constraints_learn_by_how_much_one_was_missed(tmp_path: Path, sampler: str) -> None:
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    made = make_sampler(sampler, SamplerTask(SmallSpace(), seed=0))
    limits = parse_constraints(["latency_ms<=10"])
    proposals = Proposals(SmallSpace(), made, journal, OBJECTIVES, constraints=limits)
    for _ in range(2):
        draft = proposals.ask()
        assert draft is not None
        proposals.start(draft)
    proposals.finish(ended(0, "rejected", proposals.running[0], "latency_ms").model_copy(update={"latency_ms": 15.0}))
    proposals.finish(complete(1, proposals.running[1]))
    assert [trial.constraints for trial in proposals._memory.study.trials] == [
        {"latency_ms": 0.5},
        {"latency_ms": -0.8},
    ]
    assert [trial.state for trial in on_disk(tmp_path)] == [TrialState.FAIL, TrialState.COMPLETE]
    assert [trial.number for trial in proposals._memory.study.best_trials] == [1]


def drafts(proposals: Proposals) -> list[Draft]:
    return list(iter(proposals.ask, None))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "latency-first"])
@pytest.mark.parametrize("journal_lost", [False, True])
def test_a_resumed_search_knows_which_students_missed_a_constraint(
    tmp_path: Path, sampler: str, journal_lost: bool
) -> None:
    limits = parse_constraints(["latency_ms<=10"])

    def opened_again(results: Sequence[TrialResult]) -> Proposals:
        journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
        journal.lost = journal_lost and bool(results)
        made = make_sampler(sampler, SamplerTask(SmallSpace(), seed=0), len(results))
        return Proposals(SmallSpace(), made, journal, OBJECTIVES, results, constraints=limits)

    proposals = opened_again([])
    for _ in range(2):
        draft = proposals.ask()
        assert draft is not None
        proposals.start(draft)
    points = proposals.running
    slow = ended(0, "rejected", points[0], "latency_ms").model_copy(update={"latency_ms": 15.0})
    results = [slow, complete(1, points[1])]
    for result in results:
        proposals.finish(result)
    told = [(trial.state, trial.constraints) for trial in proposals._memory.study.trials]
    again = [(trial.state, trial.constraints) for trial in opened_again(results)._memory.study.trials]
    assert again == told
    assert told[0][1] == {"latency_ms": 0.5}


def test_what_was_trained_for_longer_elsewhere_is_tried_here(tmp_path: Path) -> None:
    """Scores of another length are no scores of this run, whether they are too low or too high."""
    (tmp_path / "all").mkdir()
    points = [draft.params for draft in drafts(opened(tmp_path / "all"))]
    warm = [Warmth(complete(number, params, 0.9), fidelity=12.5) for number, params in enumerate(points)]
    journal = open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES))
    sampler = make_sampler("latency-first", SamplerTask(SmallSpace(), seed=0))
    proposals = Proposals(SmallSpace(), sampler, journal, OBJECTIVES, warm=warm)
    tried = []
    while (draft := proposals.ask()) is not None:
        tried.append(draft)
        proposals.finish(complete(proposals.start(draft), draft.params, 0.1 * len(tried)))
    assert sorted(key_of(draft.params) for draft in tried) == sorted(key_of(params) for params in points)
    assert {draft.origin for draft in tried} == {"sampler"}
    assert all(trial.state is TrialState.FAIL for trial in proposals._memory.study.trials[: len(warm)])


def test_a_sampler_that_heeds_it_is_asked_for_what_is_possible_and_the_queue_is_not(tmp_path: Path) -> None:
    proposals = opened(tmp_path, sampler="latency-first", space=SmallSpace(endless=True))
    drafts = [proposals.ask(lambda params: params["family"] == "b") for _ in range(8)]
    assert [(draft.origin, draft.params["family"]) for draft in drafts if draft is not None] == [
        ("anchor", "a"),
        ("anchor", "b"),
        *[("sampler", "b")] * 6,
    ]
    none = proposals.ask(lambda params: False)
    assert none is not None and none.origin == "fill"
    after = [proposals.ask() for _ in range(12)]
    assert {draft.params["family"] for draft in after if draft is not None} == {"a", "b"}
