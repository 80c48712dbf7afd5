"""Trains the members of a front again with other seeds, after the search proper, on warm workers of its own.

A repeat is no trial: neither the sampler nor the front hears of it, and nothing but its score and its log is kept. Tune is
not needed for a fixed list of jobs, and its actors are gone by now; each worker process is opened once and kept.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayError

from nasdistill.errors import DeadlineReachedError, InterruptedSearchError
from nasdistill.records import RepeatScore, TrialResult
from nasdistill.search.budget import BudgetClock
from nasdistill.search.events import EventHandler
from nasdistill.search.reasons import DISK_FULL, breaks_process, reason_of
from nasdistill.search.reserve import MARGIN, WORKER_START_S
from nasdistill.search.room import Room
from nasdistill.search.scratch import scratch_folder
from nasdistill.search.stop import Patience, StopControl, stopping_on_signals
from nasdistill.search.warm_worker import WarmWorker, reporting_to
from nasdistill.search.worker import BUDGET_USED_UP, INTERRUPTED, TrialJob, WorkerFactory, at_the_end
from nasdistill.store.room import is_full_disk

# A stage's batches are drawn with the trial's seed plus its first step: seeds further apart than that never meet.
SEED_STEP = 1_000_003
# The budget was kept for repeats and must end with them: what is late is lost.
PATIENCE = Patience(overtime=0.0, kill_after=5.0)
_MOST_FAILURES_IN_A_ROW = 3
_POLL_S = 0.2


class RepeatRun(Protocol):
    """What repeating needs of a run folder."""

    @property
    def path(self) -> Path: ...

    def write_repeat(self, score: RepeatScore) -> None: ...

    def repeats_folder(self, trial: int) -> Path: ...


@dataclass(frozen=True)
class Repeat:
    """One training to come: a member of the front, and the seed it gets."""

    member: TrialResult
    seed: int


@dataclass(frozen=True)
class RepeatEnded:
    """What became of a repeat: its score, already on disk, or (`score` None) the reason why there is none."""

    repeat: Repeat
    score: RepeatScore | None
    reason: str = ""


OnRepeat = Callable[[RepeatEnded], None]


def plan_repeats(
    members: Sequence[TrialResult],
    done: Mapping[int, Collection[int]],
    seed: int,
    repeats: int,
    first: int | None = None,
) -> list[Repeat]:
    """What is left to do, in order: every member's second seed before any member's third.

    `members` are a front, cheapest first, all trained with `seed`; `done` the seeds of each trial's repeats so far. Within a
    round the trial `first` (the knee, which most people take) comes before the others, the budget may end at any time.
    """
    order = sorted(members, key=lambda member: member.trial != first)
    rounds = [seed + (turn + 1) * SEED_STEP for turn in range(repeats)]
    return [Repeat(member, again) for again in rounds for member in order if again not in done.get(member.trial, ())]


def run_repeats(
    plan: Sequence[Repeat],
    make_worker: WorkerFactory,
    run: RepeatRun,
    clock: BudgetClock,
    *,
    stop_file: Path,
    workers: int = 1,
    resources: Mapping[str, float] | None = None,
    on_repeat: OnRepeat | None = None,
    on_event: EventHandler | None = None,
    patience: Patience = PATIENCE,
    worker_start_s: float = WORKER_START_S,
) -> list[RepeatScore]:
    """Run as much of `plan` as fits into the budget, on the Ray that is running, and return the new scores.

    A repeat that does not fit is left out and the next one tried, `worker_start_s` being what a new process takes to start;
    with a budget of trials all fit. `make_worker` and `resources` are those of `runner.run_search`. A repeat that fails is
    told to `on_repeat` and is no failure of the run, but after three in a row no more are started. On a full disk none is
    started, `on_event` hears of it, and those that ran into it come again when there is room; `on_repeat` is
    called again when it ran into one.

    Raises InterruptedSearchError after Ctrl-C, and whatever writing a score or `on_repeat` raised. Scores on disk stay.
    """
    if not plan:
        return []
    stop = StopControl(stop_file, clock, patience)
    stop.clear()
    pool = _Pool(cloudpickle.dumps(make_worker), dict(resources or {"cpu": 1}), run, stop)
    queue, scores, failures, room = deque(plan), [], 0, Room(run.path, on_event)
    try:
        with stopping_on_signals(stop):
            while True:
                waiting = None
                while stop.reason is None and failures < _MOST_FAILURES_IN_A_ROW and len(pool.running) < workers:
                    waiting = _first_that_fits(queue, clock, pool, worker_start_s)
                    if waiting is None or not room.there():
                        break
                    queue.remove(waiting)
                    pool.start(waiting)
                if stop.must_kill():
                    pool.kill_running()
                if not pool.running:
                    if waiting is None or stop.reason is not None:
                        break
                    time.sleep(_POLL_S)
                    continue
                for ended in pool.ended(_POLL_S):
                    if ended.reason == DISK_FULL and not room.there():  # with room here it is another disk
                        queue.appendleft(ended.repeat)
                        continue
                    if ended.score is not None:
                        _written(functools.partial(run.write_repeat, ended.score), room, stop)
                        clock.count_repeat(ended.score)
                        scores.append(ended.score)
                        failures = 0
                    elif stop.reason is None:
                        failures += 1
                    if on_repeat is not None:
                        _written(functools.partial(on_repeat, ended), room, stop)
    except KeyboardInterrupt:
        raise InterruptedSearchError("interrupted; everything finished is kept, and --resume goes on") from None
    except OSError as error:
        if not (stop.interrupted and is_full_disk(error)):
            raise
    finally:
        pool.close()
        stop.clear()
    if stop.interrupted:
        raise InterruptedSearchError("interrupted; everything finished is kept, and --resume goes on")
    return scores


def _written(write: Callable[[], None], room: Room, stop: StopControl) -> None:
    room.when_there(write, lambda: stop.reason is not None or stop.must_kill())


def _first_that_fits(queue: deque[Repeat], clock: BudgetClock, pool: _Pool, worker_start_s: float) -> Repeat | None:
    """The first repeat in the queue that can finish in what is left of the budget."""
    start = 0.0 if pool.idle else worker_start_s
    for repeat in queue:
        if clock.budget.kind == "time":
            fits = start + repeat.member.seconds * MARGIN <= clock.left
        elif clock.budget.kind == "epochs":
            under_way = sum(job.repeat.member.epochs for job in pool.running.values())
            fits = under_way + repeat.member.epochs <= clock.left
        else:
            fits = True
        if fits:
            return repeat
    return None


@dataclass
class _Running:
    repeat: Repeat
    actor: Any


@dataclass
class _Pool:
    """Worker processes, opened when first needed and used again."""

    make_worker: bytes
    resources: dict[str, float]
    run: RepeatRun
    stop: StopControl
    idle: list[Any] = field(default_factory=list)
    running: dict[Any, _Running] = field(default_factory=dict)
    _shared: Any = None

    def start(self, repeat: Repeat) -> None:
        member, folder = repeat.member, self.run.repeats_folder(repeat.member.trial)
        job = TrialJob(
            member.trial, dict(member.params), folder, self.stop.trial_deadline, self.stop.stop_file, seed=repeat.seed
        )
        actor = self.idle.pop() if self.idle else self._open()
        self.running[actor.run.remote(job.to_json())] = _Running(repeat, actor)

    def ended(self, timeout: float) -> list[RepeatEnded]:
        """The repeats that ended, waiting for one up to `timeout` seconds."""
        ready, _ = ray.wait(list(self.running), num_returns=1, timeout=timeout)
        return [self._ended(reference, self.running.pop(reference)) for reference in ready]

    def kill_running(self) -> None:
        for job in self.running.values():
            ray.kill(job.actor)

    def close(self) -> None:
        self.kill_running()
        for actor in self.idle:
            ray.kill(actor)

    def _ended(self, reference: Any, job: _Running) -> RepeatEnded:
        try:
            score, reason = ray.get(reference)
        except RayActorError:
            # Killed by us at the end of the budget or after Ctrl-C, or its own crash: then the next one gets a new process.
            died = "the worker process died (a crash in native code, or killed for its memory)"
            return RepeatEnded(job.repeat, None, self.stop.reason or died)
        except RayError as error:
            return RepeatEnded(job.repeat, None, reason_of(error))
        self.idle.append(job.actor)
        return RepeatEnded(job.repeat, None if score is None else RepeatScore.model_validate_json(score), reason)

    def _open(self) -> Any:
        if self._shared is None:
            self._shared = ray.put(self.make_worker)
        named = {"cpu": "num_cpus", "gpu": "num_gpus"}
        options: dict[str, Any] = {named[name]: amount for name, amount in self.resources.items() if name in named}
        others = {name: amount for name, amount in self.resources.items() if name not in named}
        return ray.remote(RepeatActor).options(**options, resources=others).remote(self._shared)


class RepeatActor:
    """A worker process that runs one repeat after the other and never raises to Ray."""

    def __init__(self, make_worker: bytes) -> None:
        self._warm = WarmWorker(make_worker)

    def run(self, job_text: str) -> tuple[str | None, str]:
        """The `RepeatScore` as JSON and "", or None and the reason. What a trial leaves behind is removed but for its log."""
        job = TrialJob.from_json(job_text)
        job.folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with open(job.folder / f"{job.seed}.txt", "a", encoding="utf-8", errors="replace", buffering=1) as log:
            report = reporting_to(log)
            try:
                with scratch_folder() as folder:
                    result = at_the_end(self._warm.open().run(dataclasses.replace(job, folder=folder), report))
                result = TrialResult.model_validate(result.model_dump())  # NaN may have been smuggled in
                if result.state != "complete":
                    raise ValueError(f"it ended as {result.state}: {result.reason}")
                score = RepeatScore.model_validate(
                    {
                        "trial": job.trial,
                        "seed": job.seed,
                        "map50": result.map50,
                        "map50_95": result.map50_95,
                        "epochs": result.epochs,
                        "seconds": result.seconds or time.monotonic() - started,
                    }
                )
            except DeadlineReachedError:
                reason = INTERRUPTED if job.stop_file.exists() else BUDGET_USED_UP
                report(reason)
                return None, reason
            except BaseException as error:
                reason = reason_of(error)
                report(reason)
                if breaks_process(error):
                    log.flush()
                    os._exit(1)
                return None, reason
        return score.model_dump_json(), ""
