"""The last part of a search: the members of the front are trained again with other seeds."""

from collections.abc import Mapping

from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import Objective, Objectives
from nasdistill.pareto.select import knee
from nasdistill.progress import Progress
from nasdistill.search.budget import BudgetClock
from nasdistill.search.repeats import RepeatEnded, plan_repeats, run_repeats
from nasdistill.search.runner import STOP_FILE_NAME
from nasdistill.search.worker import WorkerFactory
from nasdistill.store.run_folder import RunFolder


def repeat_front(
    run: RunFolder,
    make_worker: WorkerFactory,
    clock: BudgetClock,
    *,
    objectives: Objectives,
    repeats: int,
    seed: int,
    workers: int,
    resources: Mapping[str, float],
    progress: Progress,
    worker_start_s: float,
) -> None:
    """Give each member of the front up to `repeats` further scores, as far as the budget goes; those on disk count.

    The front is that of the costs measured so far; the last measurement may still move a member off it.

    Raises:
        InterruptedSearchError: Ctrl-C; everything finished is kept.
    """
    results = run.results()
    members = front(results, objectives)
    done: dict[int, set[int]] = {}
    for score in run.repeats():
        done.setdefault(score.trial, set()).add(score.seed)
    plan = plan_repeats(members, done, seed, repeats, knee(members, objectives).trial if members else None)
    if not plan:
        return
    ended = 0

    def on_repeat(outcome: RepeatEnded) -> None:
        nonlocal ended
        ended += 1
        progress.log(_line(outcome, objectives.accuracy))
        progress.phase(f"repeating the front: {ended} of {len(plan)}")

    progress.phase(f"repeating the front: 0 of {len(plan)}")
    scores = run_repeats(
        plan,
        make_worker,
        run,
        clock,
        stop_file=run.path / STOP_FILE_NAME,
        workers=workers,
        resources=resources,
        on_repeat=on_repeat,
        on_event=progress.event,
        worker_start_s=worker_start_s,
    )
    progress.log(f"front repeated with other seeds: {len(scores)} of {len(plan)} trainings fitted and succeeded")


def _line(ended: RepeatEnded, accuracy: Objective) -> str:
    member, seed = ended.repeat.member, ended.repeat.seed
    if ended.score is None:
        return f"trial {member.trial} again with seed {seed}: no score ({ended.reason})"
    score, first = getattr(ended.score, accuracy.name), accuracy.of(member)
    return f"trial {member.trial} again with seed {seed}: {accuracy.label} {score:.3f}, at first {first:.3f}"
