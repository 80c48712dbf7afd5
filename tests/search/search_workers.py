"""Spaces, workers and a small run folder for the tests of the search. Workers must be importable by Ray's processes."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nasdistill.errors import DeadlineReachedError, TrialError
from nasdistill.records import Scalar, TrialResult
from nasdistill.search.worker import TrialJob
from nasdistill.space.parameters import Choice, Parameter, Range
from nasdistill.store.atomic import write_text


class SmallSpace:
    """Two families with a parameter of their own each, and a common one: 3 * 2 + 2 * 2 = 10 points, or endless."""

    def __init__(self, endless: bool = False) -> None:
        self.common: dict[str, Parameter] = {"lr": Range(0.001, 1.0, log=True) if endless else Choice((1, 2))}

    def parameters(self, chosen: Mapping[str, Scalar]) -> dict[str, Parameter]:
        if "family" not in chosen:
            return {"family": Choice(("a", "b"))}
        own: dict[str, Parameter] = (
            {"a.width": Range(0.25, 0.75, 0.25)} if chosen["family"] == "a" else {"b.depth": Range(1, 2, 1)}
        )
        return {name: parameter for name, parameter in {**own, **self.common}.items() if name not in chosen}

    def canonical(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        return params

    def believed(self) -> dict[str, float]:
        return {}

    def anchors(self) -> list[dict[str, Scalar]]:
        return [{"family": "a", "a.width": 0.75, "lr": 1}, {"family": "b", "b.depth": 1, "lr": 1}]


class CaseSpace:
    """One parameter, `case`, that tells `CaseWorker` what to do; every case is tried once, in this order."""

    def __init__(self, *cases: str) -> None:
        self.cases = cases

    def parameters(self, chosen: Mapping[str, Scalar]) -> dict[str, Parameter]:
        return {} if chosen else {"case": Choice(self.cases)}

    def canonical(self, params: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        return params

    def believed(self) -> dict[str, float]:
        return {}

    def anchors(self) -> list[dict[str, Scalar]]:
        return [{"case": case} for case in self.cases]


class FileRun:
    """The methods of a run folder that the search uses, on plain files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "results").mkdir(parents=True, exist_ok=True)

    def trial_folder(self, trial: int) -> Path:
        folder = self.path / "trials" / str(trial)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_trial(self, result: TrialResult) -> None:
        write_text(self.path / "results" / f"{result.trial:05}.json", result.model_dump_json())

    def results(self) -> list[TrialResult]:
        files = sorted((self.path / "results").glob("*.json"))
        return [TrialResult.model_validate_json(file.read_text()) for file in files]


def scored(job: TrialJob, accuracy: float = 0.5, latency_ms: float = 2.0, **more: object) -> TrialResult:
    fields = {"map50": accuracy, "map50_95": accuracy, "latency_ms": latency_ms, **more}
    family = str(job.params.get("family", "case"))
    return TrialResult.model_validate({"trial": job.trial, "state": "complete", "family": family, **fields})


class CurveWorker:
    """Accuracy and latency both grow with width and depth; a trial takes `seconds` and watches for its end."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        report(f"process {os.getpid()}, threads {os.environ.get('OMP_NUM_THREADS')}")
        begin = time.time()
        while not self.done(job, begin):
            if job.stop_file.exists() or (job.deadline is not None and time.time() > job.deadline):
                raise DeadlineReachedError("told to stop")
            time.sleep(0.02)
        size = float(job.params.get("a.width", 0)) + float(job.params.get("b.depth", 0)) / 4
        noise = math.log10(float(job.params.get("lr", 1))) / 100
        return scored(job, 0.5 + 0.3 * size + noise, 1.0 + 4.0 * size, epochs=3)

    def done(self, job: TrialJob, begin: float) -> bool:
        return time.time() >= begin + self.seconds


class NodeWorker(CurveWorker):
    """Writes to the log on which Ray node, with which GPUs and from when to when a trial ran."""

    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        import ray

        context = ray.get_runtime_context()
        report(f"node {context.get_node_id()} gpus [{','.join(context.get_accelerator_ids().get('GPU', []))}]")
        begin = time.time()
        result = super().run(job, report)
        report(f"from {begin} to {time.time()}")
        return result


class MeetingWorker(NodeWorker):
    """The first two trials wait for each other to begin, whichever worker is up first; half a minute at most."""

    def done(self, job: TrialJob, begin: float) -> bool:
        if job.trial > 1:
            return super().done(job, begin)
        other = job.folder.parent / str(1 - job.trial) / "log.txt"
        return (other.exists() and "process" in other.read_text()) or time.time() >= begin + 30.0


class SlowWorker(CurveWorker):
    """What subprocess tests run: half a second a trial."""

    def __init__(self) -> None:
        super().__init__(0.5)


class AcceleratorError(RuntimeError):
    """As torch's is called, after which a process can do nothing more on its GPU."""


class CaseWorker:
    """Does what its `case` says."""

    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        case = str(job.params["case"])
        report(f"process {os.getpid()}")
        print(f"printed by {case}")
        if case == "nan":
            return scored(job, math.nan)
        if case == "smuggled":
            good = scored(job)
            return good.model_copy(update={"latency_ms": math.inf})
        if case == "trial_error":
            raise TrialError("no images left\nsecond line")
        if case == "bug":
            raise KeyError("missing")
        if case == "disk_full" and not (job.folder / "was_full").exists():
            (job.folder / "was_full").touch()
            raise RuntimeError("I/O error: No space left on device (os error 28)")
        if case == "memory":
            raise MemoryError
        if case == "exit":
            sys.exit(3)
        if case == "wrong_type":
            return "fine"  # type: ignore[return-value]
        if case == "gpu_broken_once" and job.attempt == 0:
            raise AcceleratorError("CUDA error: device-side assert triggered")
        if case == "die":
            os._exit(1)
        if case == "stubborn":
            time.sleep(60)
        if case == "patient":
            while not job.stop_file.exists() and (job.deadline is None or time.time() < job.deadline):
                time.sleep(0.02)
            raise DeadlineReachedError("told to stop")
        if case == "rejected":
            result = scored(job).model_dump()
            return TrialResult.model_validate({**result, "state": "rejected", "reason": "too slow"})
        return scored(job)


def broken_factory() -> CaseWorker:
    raise OSError("teacher.pt is gone")


def interruptible_main(folder: str, budget: str, workers: str = "2", worker: str = "SlowWorker") -> None:
    """A whole search as a process of its own, as a person would run (and kill) it. Prints a line per event."""
    from nasdistill.errors import NasdistillError
    from nasdistill.search.budget import parse_budget
    from nasdistill.search.events import SearchEvent, TrialFinished
    from nasdistill.search.runner import run_search

    def show(event: SearchEvent) -> None:
        word = f"finished {event.result.trial}" if isinstance(event, TrialFinished) else f"started {event.trial}"
        print(word, flush=True)

    space = SmallSpace(endless=True) if worker == "SlowWorker" else CaseSpace("stubborn", "stubborn2")
    factory = SlowWorker if worker == "SlowWorker" else StubbornWorker
    try:
        results = run_search(
            space, factory, FileRun(Path(folder)), parse_budget(budget), workers=int(workers), on_event=show
        )
    except NasdistillError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        sys.exit(error.exit_code)
    print(f"done {len(results)}", flush=True)


class StubbornWorker:
    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        time.sleep(120)
        return scored(job)


if __name__ == "__main__":
    # By its real name, so that Ray's workers find the classes in a module and not in __main__.
    from search_workers import interruptible_main as main

    main(*sys.argv[1:])
