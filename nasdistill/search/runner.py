"""Runs a search: Optuna's proposals on Ray's warm workers, within a budget, with nothing lost."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

from ray import cloudpickle, tune
from ray.exceptions import RayError
from ray.tune.error import TuneError
from ray.tune.schedulers import TrialScheduler

from nasdistill.errors import InterruptedSearchError, NasdistillError
from nasdistill.pareto.hypervolume import Reference
from nasdistill.pareto.limits import Limit
from nasdistill.pareto.objectives import DEFAULT, Objectives
from nasdistill.records import RungScore, Scalar, Scouted, TrialResult
from nasdistill.search.budget import Budget, BudgetClock
from nasdistill.search.callback import LedgerCallback, StopWhenAsked
from nasdistill.search.cluster import environment, start_ray
from nasdistill.search.distributions import Space
from nasdistill.search.events import EventHandler
from nasdistill.search.journal import StudyJournal
from nasdistill.search.journal_file import JOURNAL_NAME, open_journal_file
from nasdistill.search.ledger import Ledger, Run
from nasdistill.search.memory import Warmth
from nasdistill.search.nodes import check_resources
from nasdistill.search.pareto_asha import DEFAULT_SCHEDULER, SCHEDULERS, check_scheduler
from nasdistill.search.proposals import Proposals
from nasdistill.search.reconcile import directions_of
from nasdistill.search.reserve import RepeatReserve
from nasdistill.search.samplers import DEFAULT_SAMPLER, SamplerTask, make_sampler
from nasdistill.search.scratch import scratch_folder
from nasdistill.search.searcher import Estimate, StudySearcher
from nasdistill.search.stop import Patience, StopControl, stopping_on_signals
from nasdistill.search.trainable import TrialActor
from nasdistill.search.worker import BUDGET_USED_UP, INTERRUPTED, WorkerFactory
from nasdistill.store.room import is_full_disk
from nasdistill.store.run_folder import STOP_FILE_NAME


def run_search(
    space: Space,
    make_worker: WorkerFactory,
    run: Run,
    budget: Budget | BudgetClock,
    *,
    sampler: str = DEFAULT_SAMPLER,
    scheduler: str = DEFAULT_SCHEDULER,
    rung_scores: Sequence[RungScore] = (),
    workers: int = 1,
    seed: int = 0,
    objectives: Objectives = DEFAULT,
    constraints: Sequence[Limit] = (),
    reference: Reference | None = None,
    enqueued: Sequence[Mapping[str, Scalar]] = (),
    warm: Sequence[Warmth] = (),
    scouted: Sequence[Scouted] = (),
    resources_per_trial: Mapping[str, float] | None = None,
    on_event: EventHandler | None = None,
    estimate: Estimate | None = None,
    patience: Patience | None = None,
    warm_workers: bool = True,
    journal: StudyJournal | None = None,
    reserve: RepeatReserve | None = None,
    trial_epochs: int = 0,
) -> list[TrialResult]:
    """Search `space` until the budget is used up and return all results of the run, earlier parts included.

    `make_worker` is pickled, sent to `workers` processes and called once in each. `resources_per_trial` are Ray's
    (`{"cpu": 1, "gpu": 0.5}`; one CPU by default). A `BudgetClock` already running counts what came before the search;
    a plain `Budget` starts now, with the trials and epochs of a resumed run charged to it. When `run` holds trials, the
    search goes on after them, beginning with the points that were interrupted. A Ray that is running in this process is
    used; otherwise one is started and shut down again. For `estimate` see `StudySearcher`; for `enqueued`, `warm` and
    `scouted` see `Proposals`, for `constraints` and `reference` see `samplers.SamplerTask`: the sampler keeps to the
    constraints as far as it can tell, and the worker rejects what it measures beyond them. `scheduler` decides who goes on
    at the rungs that a worker stops at, by `rung_scores` of earlier parts too. Without `warm_workers` every trial gets a
    process of its own, seconds slower each. The Optuna study goes to `journal`, by default a file in the run folder. No
    trial is begun that would run into `reserve`, the part of the budget that is kept for repeats of the front.
    `trial_epochs` is the length of a trial, where it is known.

    Raises InputError for an unknown sampler or resources that Ray does not have, InterruptedSearchError after Ctrl-C
    (everything finished is kept), and whatever writing a result or `on_event` raised.
    """
    check_scheduler(scheduler)
    results = run.results()
    clock = budget if isinstance(budget, BudgetClock) else BudgetClock.resumed(budget, results)
    patience = patience or Patience()
    timed = clock.budget.kind == "time"
    chosen_sampler = make_sampler(
        sampler, SamplerTask(space, objectives, constraints, reference, timed, seed), len(results)
    )
    stop = StopControl(run.path / STOP_FILE_NAME, clock, patience)
    stop.clear()
    journal = journal or open_journal_file(run.path / JOURNAL_NAME, directions_of(objectives))
    proposals = Proposals(
        space, chosen_sampler, journal, objectives, results, seed, enqueued, warm, constraints, scouted
    )
    ledger = Ledger(run, proposals, clock, stop, on_event)
    searcher = StudySearcher(proposals, ledger, clock, stop, workers, results, estimate, reserve, trial_epochs)
    resources = dict(resources_per_trial or {"cpu": 1})
    try:
        with start_ray(workers, cpus=_cpus(workers, resources)), stopping_on_signals(stop):
            check_resources(resources)
            _tune(
                searcher,
                SCHEDULERS[scheduler](objectives, rung_scores),
                ledger,
                stop,
                make_worker,
                workers,
                resources,
                warm_workers,
            )
    finally:
        ledger.close(stop.reason or BUDGET_USED_UP)
        stop.clear()
        proposals.mend_journal(run.results)
    if ledger.error is not None and not (stop.interrupted and is_full_disk(ledger.error)):
        raise ledger.error
    if stop.interrupted:
        raise InterruptedSearchError("interrupted; everything finished is kept, and --resume goes on")
    return run.results()


def _tune(
    searcher: StudySearcher,
    scheduler: TrialScheduler,
    ledger: Ledger,
    stop: StopControl,
    make_worker: WorkerFactory,
    workers: int,
    resources: dict[str, float],
    warm_workers: bool,
) -> None:
    """Ray Tune's loop, with everything off that costs time per trial or prints."""
    stopper = StopWhenAsked()
    callback = LedgerCallback(ledger, searcher, stop, stopper)
    settings = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_DISABLE_AUTO_INIT": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
        "TUNE_MAX_PENDING_TRIALS_PG": str(workers),
        "TUNE_RESULT_BUFFER_LENGTH": "1",
    }
    with scratch_folder() as folder, environment(settings):
        try:
            with _quiet("ray.tune", "ray.air", "ray.train"):
                tune.run(
                    tune.with_parameters(TrialActor, make_worker=cloudpickle.dumps(make_worker)),
                    name="search",
                    search_alg=searcher,
                    scheduler=scheduler,
                    num_samples=-1,
                    resources_per_trial=resources,
                    stop=stopper,
                    callbacks=[callback],
                    reuse_actors=warm_workers,
                    raise_on_failed_trial=False,
                    storage_path=str(folder),
                    trial_dirname_creator=lambda trial: trial.trial_id,
                    verbose=0,
                )
        except KeyboardInterrupt:
            # The second Ctrl-C: no more waiting. Shutting Ray down kills what runs.
            stop.request(INTERRUPTED)
        except (TuneError, RayError) as error:
            # After a request to stop, whatever Tune trips over no longer matters.
            if stop.reason is None:
                raise NasdistillError(f"Ray stopped working: {_last_line(error)}") from error


def _cpus(workers: int, resources: Mapping[str, float]) -> int:
    """CPUs that a local Ray has to offer for `workers` trials to run at the same time."""
    needed = workers * resources.get("cpu", 1)
    return max(1, int(needed) + (needed > int(needed)))


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Only let critical messages of these loggers through."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
