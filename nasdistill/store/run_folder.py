"""The run folder `results/<run>/`: everything a search leaves behind, and the only thing that reading commands need."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import ValidationError

from nasdistill import __version__
from nasdistill.errors import InputError
from nasdistill.pareto.intervals import Certainty
from nasdistill.records import Record, RepeatScore, TrialResult
from nasdistill.store.atomic import write_text
from nasdistill.store.tables import read_trials_csv, write_pareto_csv, write_trials_csv

FORMAT_VERSION = 1
LOCK_NAME = ".lock"
STOP_FILE_NAME = ".stop"
"""There while the run is being stopped: workers look for it between two steps."""
R = TypeVar("R", bound=Record)


class RunFolder:
    """One run on disk. Nothing in it is an absolute path that reading needs, so it may be moved or copied.

    Made by `create` or `open`. One process at a time writes `run.json` and the tables; `trials/<n>/` belongs to
    whoever runs trial n. Every file is replaced in one step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: str | Path, or_beside: bool = False) -> RunFolder:
        """Start a run in a new or empty folder; `or_beside`: a new one, where `path` is there already `<path>-2` and so on.

        Raises InputError when the folder holds anything, or cannot be made.
        """
        folder = Path(path)
        if or_beside:
            folder = _made_beside(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = next(folder.iterdir(), None)
        except OSError as error:
            raise InputError(f"output folder {folder}: cannot be used ({error.strerror or error})") from None
        if taken is not None:
            if (folder / "run.json").exists():
                raise InputError(
                    f"output folder {folder} already holds a run; go on with --resume or choose another --out"
                )
            raise InputError(f"output folder {folder} is not empty (it holds {taken.name}); choose another --out")
        run = cls(folder)
        run._write_run(
            {
                "format_version": FORMAT_VERSION,
                "nasdistill_version": __version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run. Raises InputError when `path` is none, or one of a newer format."""
        folder = Path(path)
        if not folder.exists():
            raise InputError(f"run folder {folder}: no such folder")
        if not folder.is_dir():
            raise InputError(f"run folder {folder} is a file; give the folder that holds it")
        if not (folder / "run.json").is_file():
            runs = sorted(file.parent.name for file in folder.glob("*/run.json"))
            inside = f"; it holds runs, the last is {folder / runs[-1]}" if runs else ""
            raise InputError(f"{folder} is no run folder (it has no run.json){inside}")
        run = cls(folder)
        version = run.read_run().get("format_version")
        if not isinstance(version, int):
            raise InputError(f"{run.run_file}: format_version is missing or no whole number")
        if version > FORMAT_VERSION:
            raise InputError(
                f"{run.run_file}: format {version} is newer than this program reads ({FORMAT_VERSION}); "
                "update nasdistill"
            )
        return run

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The run for this process alone, by a lock that ends with it. Raises InputError while another has it."""
        lock = FileLock(self.path / LOCK_NAME, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(f"run folder {self.path}: another process is working on it") from None
        try:
            # a process that was killed before it could say that it has stopped
            (self.path / STOP_FILE_NAME).unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def trials_file(self) -> Path:
        return self.path / "trials.csv"

    @property
    def pareto_file(self) -> Path:
        return self.path / "pareto.csv"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    def read_run(self) -> dict[str, Any]:
        """The settings and facts of the run. Raises InputError when run.json is damaged."""
        try:
            content = json.loads(self.run_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.run_file}: cannot be read ({error})") from None
        if not isinstance(content, dict):
            raise InputError(f"{self.run_file}: expected an object of settings")
        return content

    def update_run(self, **fields: Any) -> None:
        """Set top-level fields of run.json, keeping the others.

        Raises ValueError or TypeError for what JSON cannot hold, NaN and infinity included; the file is then as before.
        """
        self._write_run({**self.read_run(), **fields})

    def trial_folder(self, trial: int) -> Path:
        """The folder of one trial, `trials/0007`."""
        return self.path / "trials" / f"{trial:04d}"

    def write_trial(self, result: TrialResult) -> None:
        """Keep one result in its trial's folder."""
        write_text(self.trial_folder(result.trial) / "trial.json", result.model_dump_json(indent=2) + "\n")

    def write_repeat(self, score: RepeatScore) -> None:
        """Keep the score of a trial that was trained again, as `trials/<n>/repeats/<seed>.json`."""
        write_text(self.repeats_folder(score.trial) / f"{score.seed}.json", score.model_dump_json(indent=2) + "\n")

    def repeats_folder(self, trial: int) -> Path:
        """Where the scores and logs of a trial's repeats are; not made yet."""
        return self.trial_folder(trial) / "repeats"

    def repeats(self, warnings: list[str] | None = None) -> list[RepeatScore]:
        """The repeats kept in `trials/`, by trial and seed; a damaged one is left out and described in `warnings`."""

        def check(file: Path, score: RepeatScore) -> None:
            if (file.parent.parent.name, file.stem) != (f"{score.trial:04d}", str(score.seed)):
                raise ValueError(f"it is about trial {score.trial} with seed {score.seed}")

        scores = self._readable("trials/*/repeats/*.json", RepeatScore, check, warnings)
        return sorted(scores, key=lambda score: (score.trial, score.seed))

    def trained_folder(self, trial: int) -> Path:
        """Where a trial's student lies that was trained for longer, with the same files as the trial's; not made yet."""
        return self.path / "trained" / f"{trial:04d}"

    def trained(self, warnings: list[str] | None = None) -> list[TrialResult]:
        """What training for longer gave, by the trial's number. Of another length than the trials, so of no front."""
        results = self._readable("trained/*/trial.json", TrialResult, _of_its_folder, warnings)
        return sorted(results, key=lambda result: result.trial)

    def trials(self, warnings: list[str] | None = None) -> list[TrialResult]:
        """The results kept in `trials/`, by number; a damaged one is left out and described in `warnings`."""
        results = self._readable("trials/*/trial.json", TrialResult, _of_its_folder, warnings)
        return sorted(results, key=lambda result: result.trial)

    def _readable(
        self, pattern: str, kind: type[R], check: Callable[[Path, R], None], warnings: list[str] | None
    ) -> list[R]:
        """The records in the files of a pattern; what cannot be read, or `check` refuses, goes to `warnings`."""
        found: list[R] = []
        for file in self.path.glob(pattern):
            try:
                record = kind.model_validate_json(file.read_bytes())
                check(file, record)
            except (OSError, ValueError) as error:
                if warnings is not None:
                    warnings.append(f"{file} left out: {_one_line(error)}")
                continue
            found.append(record)
        return found

    def results(self, warnings: list[str] | None = None) -> list[TrialResult]:
        """Every result, by number: those of `trials/`, and from `trials.csv` those that have no readable file there.

        So a run that was copied, or committed, without its trial folders reads the same. Unlike those of `trials`, these
        results carry the scores of their repeats.

        A damaged table is described in `warnings` where `trials/` has results; else it raises InputError.
        """
        results, kept = dict[int, TrialResult](), self.trials(warnings)
        if self.trials_file.is_file():
            try:
                results = {result.trial: result for result in read_trials_csv(self.trials_file)}
            except InputError as error:
                if not kept:
                    raise
                if warnings is not None:
                    warnings.append(f"{error}")
        results.update((result.trial, result) for result in kept)
        again: dict[int, list[RepeatScore]] = {}
        for score in self.repeats(warnings):
            again.setdefault(score.trial, []).append(score)
        for trial, scores in again.items():
            if trial in results:
                results[trial] = results[trial].model_copy(
                    update={
                        "repeats_map50": tuple(score.map50 for score in scores),
                        "repeats_map50_95": tuple(score.map50_95 for score in scores),
                    }
                )
        return [results[trial] for trial in sorted(results)]

    def write_tables(
        self,
        results: Iterable[TrialResult],
        front_ids: Collection[int],
        certainty: Certainty | None = None,
        cost: str = "latency_ms",
    ) -> None:
        """Write `trials.csv` and `pareto.csv`; `front_ids` are the trial numbers on the front, which `cost` orders, and
        `certainty` is what repeats say about them."""
        results = list(results)
        if self.trials_file.is_file():
            try:
                read_trials_csv(self.trials_file)
            except InputError:  # rows of trials without a folder may still be told from it
                os.replace(self.trials_file, self.trials_file.with_name("trials.csv.damaged"))
        write_trials_csv(self.trials_file, results, front_ids, certainty)
        write_pareto_csv(self.pareto_file, results, front_ids, certainty, cost)

    def write_device_front(
        self, device: str, results: Iterable[TrialResult], front_ids: Collection[int], certainty: Certainty, cost: str
    ) -> None:
        """Write `pareto@<device>.csv`, the front on one of several devices: accuracy against `cost`, its latency."""
        write_pareto_csv(self.path / f"pareto@{device}.csv", results, front_ids, certainty, cost)

    def _write_run(self, content: dict[str, Any]) -> None:
        write_text(self.run_file, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _of_its_folder(file: Path, result: TrialResult) -> None:
    if not file.parent.name.isdecimal() or int(file.parent.name) != result.trial:
        raise ValueError(f"it is about trial {result.trial}")


def _made_beside(path: Path) -> Path:
    """A folder that this process alone has made."""
    folder, number = path, 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
                folder = path.with_name(f"{path.name}-{number}")
            else:
                return folder
    except OSError as error:
        raise InputError(f"output folder {folder}: cannot be used ({error.strerror or error})") from None


def default_run_path(root: str | Path = "results") -> Path:
    """A folder name under `root`, from the local date and time: `results/2031-05-17_14-03-09`."""
    return Path(root) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
    return " ".join(str(error).split())
