"""The warm worker process: one Ray Tune Trainable that runs trial after trial and never raises to Ray."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import time
import traceback
from collections.abc import Generator, Iterator
from typing import Any, TextIO

from ray import tune

from nasdistill.errors import DeadlineReachedError
from nasdistill.records import RungScore, TrialResult
from nasdistill.search.pareto_asha import SCORE
from nasdistill.search.reasons import DISK_FULL, breaks_process, reason_of
from nasdistill.search.room import POLL_S, wait_for_room
from nasdistill.search.warm_worker import WarmWorker, reporting_to
from nasdistill.search.worker import BUDGET_USED_UP, INTERRUPTED, TrialJob
from nasdistill.store.room import has_room, is_full_disk

_TRIES_WITH_ROOM = 3  # of a trial that says the disk is full, although its folder's is not


class TrialActor(tune.Trainable):
    """Runs one job, a step from rung to rung. Its config is `{"job": TrialJob as JSON}`.

    The worker is built in the first step rather than in `setup`: building it takes long and may fail, and here that is
    one failed trial with its reason and log.
    """

    def setup(self, config: dict[str, Any], make_worker: bytes) -> None:  # type: ignore[override]
        self._warm = WarmWorker(make_worker)
        self._running: Generator[RungScore, None, TrialResult] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Ray Tune has set `self.config` already: the actor stays, and the next `step` runs the new job."""
        self._leave()
        return True

    def step(self) -> dict[str, Any]:
        if self._running is None:
            self._running = self._run(TrialJob.from_json(self.config["job"]))
        try:
            return {SCORE: next(self._running).model_dump_json(), "done": False}
        except StopIteration as end:
            self._running = None
            result: TrialResult = end.value
            return {"result": result.model_dump_json(), "state": result.state, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """A job runs as a whole: there is nothing to go on from."""

    def cleanup(self) -> None:
        self._leave()
        self._warm.close()

    def _leave(self) -> None:
        """End a trial that was stopped at a rung."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _run(self, job: TrialJob) -> Generator[RungScore, None, TrialResult]:
        """The trial; after a full disk again, from its last rung, once there is room.

        A quota, the number of files, or another disk may be what is full: then there is room here, and waiting is of no use.
        """
        job.folder.mkdir(parents=True, exist_ok=True)
        started, with_room = time.monotonic(), 0
        while True:
            try:
                result = yield from self._logged(job)
            except OSError as error:  # of the log itself
                if not is_full_disk(error):
                    raise
                result = _without_result(job, error)
            if (result.state, result.reason) != ("failed", DISK_FULL):
                break
            with_room = with_room + 1 if has_room(job.folder) else 0
            if with_room == _TRIES_WITH_ROOM:
                break
            time.sleep(POLL_S)
            if not wait_for_room(job.folder, job.must_end):
                result = _without_result(job, DeadlineReachedError())
                break
        if not result.seconds:
            result = result.model_copy(update={"seconds": time.monotonic() - started})
        return result

    def _logged(self, job: TrialJob) -> Generator[RungScore, None, TrialResult]:
        with open(job.folder / "log.txt", "a", encoding="utf-8", errors="replace", buffering=1) as log:
            try:
                with _output_to(log):
                    outcome = self._attempt(job, log)
                if isinstance(outcome, Generator):
                    outcome = yield from _in_rungs(job, outcome, log)
                result = _checked(job, outcome)
            except GeneratorExit:
                raise
            except BaseException as error:
                # SystemExit from some library and SIGINT sent to the whole process group end here as well.
                log.write(traceback.format_exc())
                result = _without_result(job, error)
                if breaks_process(error):
                    log.flush()
                    os._exit(1)  # the trial is run again, by another process
                if isinstance(error, MemoryError):
                    self._warm.drop()
                    gc.collect()
        return result

    def _attempt(self, job: TrialJob, log: TextIO) -> object:
        report = reporting_to(log)
        if job.attempt:
            report(f"attempt {job.attempt + 1}: the first worker died")
        return self._warm.open().run(job, report)


def _in_rungs(job: TrialJob, trial: Generator[Any, None, Any], log: TextIO) -> Generator[RungScore, None, object]:
    """The worker's scores, validated again and under this job's number; its output goes to the log."""
    with contextlib.closing(trial):
        while True:
            with _output_to(log):
                try:
                    score = next(trial)
                except StopIteration as end:
                    return end.value
            yield RungScore.model_validate({**score.model_dump(), "trial": job.trial})


def _checked(job: TrialJob, result: object) -> TrialResult:
    """The worker's result with this job's number and parameters, validated again (NaN may have been smuggled in)."""
    if not isinstance(result, TrialResult):
        raise TypeError(f"the worker returned {type(result).__name__}, not a TrialResult")
    fields = result.model_dump()
    return TrialResult.model_validate({**fields, "trial": job.trial, "params": {**job.params, **result.params}})


def _without_result(job: TrialJob, error: BaseException) -> TrialResult:
    stopped = isinstance(error, DeadlineReachedError | KeyboardInterrupt)
    reason = (INTERRUPTED if job.stop_file.exists() else BUDGET_USED_UP) if stopped else reason_of(error)
    if isinstance(error, KeyboardInterrupt):
        reason = INTERRUPTED
    return TrialResult(
        trial=job.trial,
        state="stopped" if stopped else "failed",
        family=str(job.params.get("family", "")),
        reason=reason,
        params=dict(job.params),
    )


@contextlib.contextmanager
def _output_to(log: TextIO) -> Iterator[None]:
    """Send prints, and the stack of a crash in native code, to the trial's log."""
    faulthandler.enable(file=log)
    try:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    finally:
        faulthandler.disable()
