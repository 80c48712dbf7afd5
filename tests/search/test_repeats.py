"""Repeats of a front: their order, what is kept of the budget for them, and the real thing on Ray."""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from search_workers import CaseSpace, CaseWorker, CurveWorker, SmallSpace, scored

from nasdistill.errors import TrialError
from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import DEFAULT
from nasdistill.records import RepeatScore, Scalar, TrialResult
from nasdistill.search import repeats, room
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.search.cluster import environment, start_ray
from nasdistill.search.events import DiskFull, RoomAgain, SearchEvent
from nasdistill.search.reasons import DISK_FULL
from nasdistill.search.repeats import SEED_STEP, Repeat, RepeatEnded, plan_repeats, run_repeats
from nasdistill.search.reserve import FEWEST_TRIALS, MARGIN, SHARE, WORKER_START_S, RepeatReserve, repeats_for
from nasdistill.search.runner import run_search
from nasdistill.search.searcher import StudySearcher
from nasdistill.search.stop import Patience
from nasdistill.search.worker import TrialJob
from nasdistill.store.run_folder import RunFolder


def member(number: int, seconds: float = 10.0, epochs: int = 3, **more: object) -> TrialResult:
    """On the front with all others: each is slower and better than those before."""
    return TrialResult.model_validate(
        {
            "trial": number,
            "state": "complete",
            "family": "a",
            "fidelity": 1.0,
            "map50": 0.01 * number,
            "map50_95": 0.01 * number,
            "latency_ms": 1.0 + number,
            "epochs": epochs,
            "seconds": seconds,
            **more,
        }
    )


class TestOrder:
    def test_every_second_seed_before_any_third_and_the_knee_first(self) -> None:
        plan = plan_repeats([member(4), member(7), member(2)], {}, seed=5, repeats=2, first=7)
        one, two = 5 + SEED_STEP, 5 + 2 * SEED_STEP
        assert [(repeat.member.trial, repeat.seed) for repeat in plan] == [
            (7, one), (4, one), (2, one), (7, two), (4, two), (2, two),
        ]  # fmt: skip

    def test_what_is_on_disk_is_not_done_again(self) -> None:
        done = {4: {SEED_STEP}, 7: {SEED_STEP, 2 * SEED_STEP}, 99: {1}}
        plan = plan_repeats([member(4), member(7), member(2)], done, seed=0, repeats=2)
        assert [(repeat.member.trial, repeat.seed // SEED_STEP) for repeat in plan] == [(2, 1), (4, 2), (2, 2)]
        assert plan_repeats([member(4)], {}, seed=0, repeats=0) == []
        assert plan_repeats([], {}, seed=0, repeats=2) == []


class TestReserve:
    def test_how_many_seeds(self) -> None:
        assert [repeats_for(parse_budget(text), None) for text in ("30m", "200epochs", "40trials")] == [2, 2, 0]
        assert [repeats_for(parse_budget(text), 1) for text in ("30m", "200epochs", "40trials")] == [1, 1, 1]
        assert repeats_for(parse_budget("30m"), 0) == 0

    def test_a_dozen_trials_come_first_unless_asked(self) -> None:
        trials = [member(number) for number in range(FEWEST_TRIALS)]
        reserve = RepeatReserve(parse_budget("30m"), 2, workers=2)
        assert reserve.kept(trials[:-1]) == 0.0
        assert reserve.kept(trials[:-1], running=1) > 0.0
        assert reserve.kept(trials) > 0.0
        asked = RepeatReserve(parse_budget("30m"), 2, workers=2, asked=True)
        assert asked.kept(trials[:1]) > 0.0
        assert asked.kept([]) == 0.0
        assert RepeatReserve(parse_budget("30m"), 0).kept(trials) == 0.0
        assert RepeatReserve(parse_budget("40trials"), 2, asked=True).kept(trials) == 0.0

    def test_no_more_than_a_share_and_no_more_than_the_front_needs(self) -> None:
        few, many = [member(1), member(2)], [member(number) for number in range(40)]
        budget = parse_budget("10m")
        needed = WORKER_START_S + MARGIN * 10.0 * 2 * 2 / 2
        assert RepeatReserve(budget, 2, workers=2, asked=True).kept(few) == pytest.approx(needed)
        assert RepeatReserve(budget, 2, workers=2, asked=True).kept(many) == pytest.approx(SHARE * 600)
        # More workers than repeats: the longest decides.
        assert RepeatReserve(budget, 1, workers=9, asked=True).kept(few) == pytest.approx(WORKER_START_S + MARGIN * 10)
        dominated = member(3, map50_95=0.0001, seconds=500.0)
        assert RepeatReserve(budget, 2, workers=2, asked=True).kept([*few, dominated]) == pytest.approx(needed)

    def test_the_front_is_that_of_the_runs_objectives(self) -> None:
        small = member(3, map50_95=0.0001, seconds=50.0, params_m=0.5)
        few = [member(1, params_m=1.0), small]
        two = RepeatReserve(parse_budget("10m"), 2, workers=2, asked=True).kept(few)
        three = RepeatReserve(
            parse_budget("10m"), 2, workers=2, asked=True, objectives=DEFAULT.against("latency_ms", "params_m")
        ).kept(few)
        assert three > two > 0.0

    def test_nothing_when_not_one_repeat_would_fit_or_all_are_done(self) -> None:
        long = [member(number, seconds=100.0) for number in range(20)]
        assert RepeatReserve(parse_budget("10m"), 2).kept(long) == 0.0
        done = [member(1, repeats_map50=(0.1, 0.1), repeats_map50_95=(0.1, 0.1))]
        assert RepeatReserve(parse_budget("10m"), 2, asked=True).kept(done) == 0.0
        assert RepeatReserve(parse_budget("10m"), 3, asked=True).kept(done) > 0.0

    def test_nothing_where_running_trials_leave_too_little_for_one(self) -> None:
        done = [member(number, seconds=10.0) for number in range(12)]
        reserve = RepeatReserve(parse_budget("30m"), 2, workers=2)
        assert reserve.kept(done, 1) == reserve.kept(done, 1, 1000.0) > WORKER_START_S + MARGIN * 10
        assert reserve.kept(done, 1, 40.0) == 40.0
        assert reserve.kept(done, 1, WORKER_START_S + MARGIN * 10 - 1) == 0.0

    @pytest.mark.parametrize(
        ("ends", "left"),
        [
            ([], 300 - 45),  # their share
            ([100.0], 300 - 45),
            ([270.0], 270.0),  # repeats wait for that one
            ([120.0, 292.0], 300.0),  # and have too little time left then
            ([400.0], 300.0),
        ],
    )
    def test_trials_go_on_while_repeats_have_to_wait(self, ends: list[float], left: float) -> None:
        budget, now = parse_budget("300s"), [1000.0]
        done = [member(number, seconds=10.0) for number in range(12)]
        reserve = RepeatReserve(budget, 2, workers=2)
        ledger = SimpleNamespace(finished=done)
        clock = BudgetClock(budget, now=lambda: now[0])
        searcher = StudySearcher(None, ledger, clock, None, workers=3, reserve=reserve)  # type: ignore[arg-type]
        searcher._live = {str(number): end for number, end in enumerate(ends)}
        assert searcher._left() == pytest.approx(left)
        now[0] += 50
        assert searcher._left() == pytest.approx(left - 50)

    def test_epochs(self) -> None:
        trials = [member(number, epochs=8) for number in range(20)]
        assert RepeatReserve(parse_budget("200epochs"), 2).kept(trials) == pytest.approx(30)
        assert RepeatReserve(parse_budget("1000epochs"), 2).kept(trials[-1:] * 12) == 16.0
        assert RepeatReserve(parse_budget("50epochs"), 2).kept(trials) == 0.0


class PoolInOneProcess:
    """Runs what is started at once; the outcomes are given, then scores."""

    def __init__(self, outcomes: list[str]) -> None:
        self.running: dict[int, Repeat] = {}
        self.idle: list[object] = []
        self.started: list[int] = []
        self._outcomes = outcomes

    def start(self, repeat: Repeat) -> None:
        self.started.append(repeat.member.trial)
        self.running[len(self.started)] = repeat

    def ended(self, timeout: float) -> list[RepeatEnded]:
        found = []
        for repeat in self.running.values():
            reason = self._outcomes.pop(0) if self._outcomes else ""
            score = RepeatScore(trial=repeat.member.trial, seed=repeat.seed, map50=0.5, map50_95=0.4)
            found.append(RepeatEnded(repeat, None if reason else score, reason))
        self.running.clear()
        return found

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("full", "told"), [(True, ["", ""]), (False, [DISK_FULL, ""])])
def test_a_full_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool, told: list[str]
) -> None:
    """The first repeat meets a full disk: the run's own, for a while, or another one, which nobody here waits for."""
    run = RunFolder.create(tmp_path / "run")
    plan = [Repeat(member(number, params={"family": "a"}), SEED_STEP) for number in (1, 2)]
    for repeat in plan:
        run.write_trial(repeat.member)
    looks = [True, False, False, False] if full else []
    monkeypatch.setattr(room, "has_room", lambda folder: looks.pop(0) if looks else True)
    monkeypatch.setattr(room, "POLL_S", 0.0)
    monkeypatch.setattr(repeats, "_POLL_S", 0.0)
    pool = PoolInOneProcess([DISK_FULL])
    monkeypatch.setattr(repeats, "_Pool", lambda *arguments: pool)
    events: list[SearchEvent] = []
    ended: list[RepeatEnded] = []
    records = iter([OSError(errno.ENOSPC, "full")] if full else [])

    def on_repeat(repeat: RepeatEnded) -> None:
        if (error := next(records, None)) is not None:
            raise error
        ended.append(repeat)

    run_repeats(
        plan,
        SeededWorker,
        run,
        BudgetClock(parse_budget("2trials")),
        stop_file=run.path / ".stop",
        on_repeat=on_repeat,
        on_event=events.append,
    )
    assert [repeat.reason for repeat in ended] == told
    assert pool.started == ([1, 1, 2] if full else [1, 2])
    assert [type(event) for event in events] == ([DiskFull, RoomAgain] * 2 if full else [])
    assert [score.trial for score in run.repeats()] == ([1, 2] if full else [2])


@pytest.mark.parametrize(
    ("budget", "idle", "running", "wanted"),
    [
        ("100s", [], [], 2),  # a worker's start and 1.1 times 80 s are too much
        ("100s", [1], [], 1),
        ("20s", [], [], None),
        ("10epochs", [], [], 1),
        ("10epochs", [], [4], 2),
        ("1trials", [], [], 1),
    ],
)
def test_the_first_that_can_still_finish(budget: str, idle: list[int], running: list[int], wanted: int | None) -> None:
    lengths = ((1, 80.0, 9), (2, 70.0, 4), (3, 10.0, 1))
    queue = deque(Repeat(member(n, seconds=seconds, epochs=epochs), SEED_STEP) for n, seconds, epochs in lengths)
    jobs = {n: SimpleNamespace(repeat=Repeat(member(9, epochs=epochs), 1)) for n, epochs in enumerate(running)}
    clock, pool = BudgetClock(parse_budget(budget), now=lambda: 0.0), SimpleNamespace(idle=idle, running=jobs)
    found = repeats._first_that_fits(queue, clock, pool, 15.0)  # type: ignore[arg-type]
    assert (found and found.member.trial) == wanted


class SeededWorker(CurveWorker):
    """Its score depends on the seed, and it leaves files behind as a trial does."""

    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        result = super().run(job, report)
        (job.folder / "student.onnx").write_bytes(b"model")
        shift = 0.0 if job.seed is None else job.seed / SEED_STEP / 100
        return result.model_copy(update={"map50_95": result.map50_95 + shift, "fidelity": 1.0})


class BadSeedsWorker(SeededWorker):
    """Fails with some second seeds: one raises, one scores NaN, one kills its process."""

    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        result = super().run(job, report)
        if job.seed == SEED_STEP and job.trial == 0:
            raise TrialError("no gradient")
        if job.seed == SEED_STEP and job.trial == 1:
            return result.model_copy(update={"map50_95": float("nan")})
        if job.seed == SEED_STEP and job.trial == 2:
            os._exit(1)
        return result


def half_second() -> SeededWorker:
    return SeededWorker(0.5)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    with environment({"PYTHONPATH": str(Path(__file__).parent)}), start_ray(2, gpus=0):
        yield


def searched(path: Path) -> RunFolder:
    """What a search leaves."""
    run = RunFolder.create(path)
    points: list[dict[str, Scalar]] = [{"family": "a", "a.width": width, "lr": 1} for width in (0.25, 0.5, 0.75)]
    points += [{"family": "b", "b.depth": depth, "lr": 1} for depth in (1, 2)]
    for number, params in enumerate(points):
        job = TrialJob(number, params, run.trial_folder(number), None, path / ".stop")
        job.folder.mkdir(parents=True)
        run.write_trial(SeededWorker().run(job, lambda line: None).model_copy(update={"params": params}))
    return run


def repeat(
    run: RunFolder, budget: str, make: Callable[[], object] = SeededWorker, **options: object
) -> list[RepeatEnded]:
    done: dict[int, set[int]] = {}
    for score in run.repeats():
        done.setdefault(score.trial, set()).add(score.seed)
    members, told = front(run.results()), []

    def on_repeat(ended: RepeatEnded) -> None:
        # On disk before anyone hears of it.
        assert ended.score is None or ended.score in run.repeats()
        told.append(ended)

    clock = options.pop("clock", None) or BudgetClock(parse_budget(budget))
    plan = plan_repeats(members, done, 0, 2)
    run_repeats(plan, make, run, clock, stop_file=run.path / ".stop", on_repeat=on_repeat, **options)
    return told


@pytest.mark.usefixtures("two_workers")
class TestOnRay:
    def test_repeats_are_kept_beside_their_trial_and_are_no_trials(self, tmp_path: Path) -> None:
        run = searched(tmp_path / "run")
        before, members = run.trials(), [m.trial for m in front(run.results())]
        told = repeat(run, "6trials", workers=2)
        assert sorted((e.repeat.member.trial, e.repeat.seed // SEED_STEP) for e in told) == sorted(
            (trial, turn) for trial in members for turn in (1, 2)
        )
        assert run.trials() == before, "no row more, no score changed"
        for result in run.results():
            expected = (result.map50_95 + 0.01, result.map50_95 + 0.02) if result.trial in members else ()
            assert result.repeats_map50_95 == pytest.approx(expected)
        folder = run.repeats_folder(members[0])
        assert sorted(file.name for file in folder.iterdir()) == sorted(
            f"{turn * SEED_STEP}.{kind}" for turn in (1, 2) for kind in ("json", "txt")
        )
        logs = [file.read_text() for file in run.path.glob("trials/*/repeats/*.txt")]
        assert len({number for log in logs for number in re.findall(r"process (\d+)", log)}) <= 2, "warm workers"
        # Resumed: nothing is left to do, and files are as they were.
        written = {file: file.stat().st_mtime_ns for file in run.path.glob("trials/*/repeats/*")}
        assert repeat(run, "6trials", workers=2) == []
        assert written == {file: file.stat().st_mtime_ns for file in run.path.glob("trials/*/repeats/*")}
        lost = next(iter(run.repeats()))
        (run.repeats_folder(lost.trial) / f"{lost.seed}.json").unlink()
        assert [ended.score and ended.score.seed for ended in repeat(run, "6trials")] == [lost.seed]

    def test_a_repeat_that_fails_is_told_and_the_others_go_on(self, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path / "run")
        for number in range(4):
            run.write_trial(member(number, params={"family": "a", "a.width": 0.25, "lr": 1}))
        told = repeat(run, "9trials", BadSeedsWorker)
        reasons = {ended.repeat.member.trial: ended.reason for ended in told if ended.score is None}
        assert reasons[0] == "no gradient"
        assert "map50_95: Input should be a finite number" in reasons[1]
        assert "the worker process died" in reasons[2]
        # Three in a row: something is wrong with all of them, and no more are started.
        assert len(told) == 3 and run.repeats() == []
        run.write_repeat(RepeatScore(trial=1, seed=SEED_STEP, map50=0.1, map50_95=0.1))
        told = repeat(run, "9trials", BadSeedsWorker)
        assert [ended.repeat.member.trial for ended in told] == [0, 2, 3, 0, 1, 2, 3]
        assert [ended.score is None for ended in told] == [True, True] + 5 * [False]
        assert "no gradient" in (run.repeats_folder(0) / f"{SEED_STEP}.txt").read_text()

    def test_only_what_fits_is_started(self, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path / "run")
        params = {"family": "a", "a.width": 0.25, "lr": 1}
        for number, epochs in ((0, 3), (1, 50), (2, 3)):
            run.write_trial(member(number, epochs=epochs, seconds=epochs / 6, params=params))
        clock = BudgetClock.resumed(parse_budget("20epochs"), [member(9, epochs=10)])
        told = repeat(run, "", clock=clock)
        assert [ended.repeat.member.trial for ended in told] == [0, 2, 0] and clock.left == 1
        assert repeat(run, "1s", half_second) == [], "a new worker alone takes longer"

    @pytest.mark.slow
    def test_what_is_late_is_lost(self, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path / "run")
        run.write_trial(member(0, seconds=0.1, params={"family": "a", "a.width": 0.25, "lr": 1}))
        clock = BudgetClock(parse_budget("10s"))
        told = repeat(
            run,
            "",
            lambda: SeededWorker(60),
            clock=clock,
            patience=Patience(overtime=0, kill_after=2),
            worker_start_s=1.0,
        )
        assert [(ended.score, ended.reason) for ended in told] == [(None, "budget used up")]
        assert clock.used < 14 and run.repeats() == []

    def test_the_search_stops_before_the_reserve(self, tmp_path: Path) -> None:
        run, budget = RunFolder.create(tmp_path / "run"), parse_budget("20epochs")
        reserve = RepeatReserve(budget, 2, asked=True)
        results = run_search(SmallSpace(), SeededWorker, run, budget, reserve=reserve)
        # Three epochs each: six would fit, and 3 of 20 are kept, which is one repeat.
        assert len(results) == 5
        clock = BudgetClock.resumed(budget, results)
        assert len([e for e in repeat(run, "", clock=clock) if e.score]) == 1
        assert clock.used == 18

    def test_a_factory_that_fails_is_a_reason(self, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path / "run")
        run.write_trial(member(0, params={"case": "good"}))

        def gone() -> CaseWorker:
            raise OSError("teacher.pt is gone")

        assert "OSError: teacher.pt is gone" in repeat(run, "5trials", gone)[0].reason
        assert run.results()[0].state == "complete"


def test_the_tools_of_these_tests() -> None:
    assert len(front([member(number) for number in range(5)])) == 5
    assert CaseSpace("good").anchors() and Repeat(member(1), 3).seed == 3
    assert scored(TrialJob(1, {}, Path("."), None, Path("s"), seed=4)).trial == 1
    assert TrialJob.from_json(TrialJob(1, {}, Path("."), None, Path("s"), seed=4).to_json()).seed == 4
