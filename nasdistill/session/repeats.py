"""The last part of a search: the members of the front are trained again with other seeds."""

from nasdistill.pareto.front import front
from nasdistill.pareto.objectives import Objective
from nasdistill.pareto.select import knee
from nasdistill.search.repeats import RepeatEnded, plan_repeats, run_repeats
from nasdistill.session.session import Session
from nasdistill.store.run_folder import STOP_FILE_NAME
from nasdistill.workbench import Assets
from nasdistill.worker import MakeTrialWorker


def repeat_front(session: Session, assets: Assets, repeats: int, worker_start_s: float) -> None:
    """Give each member of the front up to `repeats` further scores, as far as the budget goes; those on disk count.

    Raises:
        InterruptedSearchError: Ctrl-C; everything finished is kept.
    """
    run, objectives, progress = session.run, session.goals.objectives, session.progress
    results = run.results()
    members = front(results, objectives)
    done: dict[int, set[int]] = {}
    for score in run.repeats():
        done.setdefault(score.trial, set()).add(score.seed)
    plan = plan_repeats(
        members, done, assets.training.seed, repeats, knee(members, objectives).trial if members else None
    )
    if not plan:
        return
    ended = 0

    def on_repeat(outcome: RepeatEnded) -> None:
        nonlocal ended
        run.update_run(seconds=session.clock.seconds)  # first: on a full disk all of this is done again
        ended += 1
        progress.log(_line(outcome, objectives.accuracy))
        progress.phase(f"repeating the front: {ended} of {len(plan)}")

    progress.phase(f"repeating the front: 0 of {len(plan)}")
    scores = run_repeats(
        plan,
        MakeTrialWorker(assets, session.inputs.space),  # a repeat is never rejected
        run,
        session.clock,
        stop_file=run.path / STOP_FILE_NAME,
        workers=session.place.workers,
        resources=session.place.per_trial,
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
