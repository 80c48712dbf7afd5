"""A full disk: what counts as one, and that nothing is lost by waiting."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.storages.journal import JournalFileBackend
from ray import cloudpickle
from search_workers import FileRun
from test_proposals import OBJECTIVES, complete, on_disk, opened

from nasdistill.records import TrialResult
from nasdistill.search import room as room_module
from nasdistill.search.budget import BudgetClock, parse_budget
from nasdistill.search.events import DiskFull, RoomAgain, SearchEvent
from nasdistill.search.journal_file import open_journal_file
from nasdistill.search.ledger import Ledger
from nasdistill.search.reasons import DISK_FULL
from nasdistill.search.reconcile import directions_of
from nasdistill.search.room import Room, wait_for_room
from nasdistill.search.trainable import TrialActor
from nasdistill.search.warm_worker import WarmWorker
from nasdistill.search.worker import TrialJob
from nasdistill.store.room import is_full_disk


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "POLL_S", 0.0)


def answers(monkeypatch: pytest.MonkeyPatch, *has_room: bool) -> list[bool]:
    left = list(has_room)
    monkeypatch.setattr(room_module, "has_room", lambda folder: left.pop(0))
    return left


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (MemoryError(), False),
    ],
)
def test_what_a_full_disk_is(error: Exception, full: bool) -> None:
    assert is_full_disk(error) is full
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = error
    assert is_full_disk(wrapped) is full


def test_both_changes_are_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    events: list[SearchEvent] = []
    answers(monkeypatch, True, False, False, True)
    room = Room(tmp_path, events.append)
    assert [room.there() for _ in range(4)] == [True, False, False, True]
    assert [type(event) for event in events] == [DiskFull, RoomAgain]


def test_a_write_is_tried_until_it_succeeds(tmp_path: Path) -> None:
    events: list[SearchEvent] = []
    tries: list[int] = []

    def write() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "written"

    assert Room(tmp_path, events.append).when_there(write, lambda: False) == "written"
    assert len(tries) == 3 and [type(event) for event in events] == [DiskFull]


def test_a_search_that_ends_anyway_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Room(tmp_path).when_there(write, lambda: True)
    answers(monkeypatch)
    assert not wait_for_room(tmp_path, lambda: True)
    answers(monkeypatch, False, True)
    assert wait_for_room(tmp_path, lambda: False)


def test_a_journal_that_could_not_be_written_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of a line; the search goes on, and in the end the journal has every trial."""
    proposals = opened(tmp_path)
    first, results = proposals.ask(), []
    assert first is not None
    number = proposals.start(first)
    append = JournalFileBackend.append_logs

    def torn(self: JournalFileBackend, logs: list[dict[str, object]]) -> None:
        with open(self._file_path, "ab") as file:
            file.write(b'{"op_code": 4, "half')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(JournalFileBackend, "append_logs", torn)
    results.append(complete(number, first.params))
    proposals.finish(results[0])
    second = proposals.ask()
    assert second is not None
    results.append(complete(proposals.start(second), second.params))
    proposals.finish(results[1])
    monkeypatch.setattr(JournalFileBackend, "append_logs", append)
    proposals.mend_journal(lambda: results)
    assert [trial.state.name for trial in on_disk(tmp_path)] == ["COMPLETE", "COMPLETE"]
    assert len(open_journal_file(tmp_path / "study.journal", directions_of(OBJECTIVES)).trials()) == 2
    assert not (tmp_path / "study.journal.damaged").exists()


class OverQuota:
    """A worker whose disk takes nothing more, whatever the disk itself says."""

    def run(self, job: TrialJob, report: Callable[[str], None]) -> TrialResult:
        report("tried")
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_a_quota_is_not_waited_for_where_the_disk_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdistill.search.trainable.POLL_S", 0.0)
    actor = TrialActor.__new__(TrialActor)  # what Ray would start
    actor._warm = WarmWorker(cloudpickle.dumps(OverQuota))
    trial = actor._run(TrialJob(0, {"family": "a"}, tmp_path / "0", None, tmp_path / ".stop"))
    with pytest.raises(StopIteration) as end:
        next(trial)
    assert (end.value.value.state, end.value.value.reason) == ("failed", DISK_FULL)
    assert (tmp_path / "0" / "log.txt").read_text().count("tried") == 3


def test_what_cannot_be_written_is_not_waited_for_beyond_the_end_of_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(FileRun):
        def write_trial(self, result: TrialResult) -> None:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    def full(*given: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    asked: list[str] = []
    stop = SimpleNamespace(reason=None, must_kill=lambda: len(asked) > 2, request=asked.append)
    proposals = opened(tmp_path)
    ledger = Ledger(Full(tmp_path), proposals, BudgetClock(parse_budget("1s")), stop, None)  # type: ignore[arg-type]
    first, second = proposals.ask(), proposals.ask()
    assert first is not None and second is not None
    started = ledger.start(first)
    assert started is not None and started[0] == 0
    asked += ["the", "end", "came"]
    ledger.finish(complete(0, first.params))
    assert isinstance(ledger.error, OSError) and "quota" in asked[-1] and ledger.finished == []
    monkeypatch.setattr("nasdistill.search.ledger.hand_over_training", full)
    assert ledger.start(second) is None
