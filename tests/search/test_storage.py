"""The study of a run in a journal file, in SQLite, PostgreSQL and MariaDB: the same in all, and never the only copy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from databases import PASSWORD, MariaDB, Postgres, mariadb, postgres
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from search_workers import SmallSpace
from test_proposals import complete, ended

from nasdistill.errors import InputError
from nasdistill.pareto.objectives import LATENCY_MS, MAP50_95
from nasdistill.search.database import check_database, open_database, without_password
from nasdistill.search.distributions import key_of
from nasdistill.search.journal import STUDY_NAME, StudyJournal
from nasdistill.search.journal_file import open_journal_file
from nasdistill.search.proposals import Draft, Proposals
from nasdistill.search.reconcile import directions_of
from nasdistill.search.samplers import SamplerTask, make_sampler
from nasdistill.session.storage import check_storage, open_journal
from nasdistill.store.run_folder import RunFolder

OBJECTIVES = (MAP50_95, LATENCY_MS)
DIRECTIONS = directions_of(OBJECTIVES)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


@pytest.fixture(scope="module")
def mysql() -> Iterator[MariaDB]:
    with mariadb() as running:
        yield running


class Place:
    """Where a study is: `open` as a run does, `read` as any other Optuna program does."""

    def __init__(self, open_it: Callable[[], StudyJournal], storage: object, name: str) -> None:
        self.open = open_it
        self._storage, self._name = storage, name

    def read(self) -> list[FrozenTrial]:
        return optuna.load_study(study_name=self._name, storage=self._storage()).trials  # type: ignore[operator]

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.read()]


@pytest.fixture(params=["journal", "sqlite", "postgresql", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "journal":
        file = tmp_path / "study.journal"
        storage = lambda: JournalStorage(JournalFileBackend(str(file)))  # noqa: E731
        return Place(lambda: open_journal_file(file, DIRECTIONS), storage, STUDY_NAME)
    url = f"sqlite:///{tmp_path}/studies.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("server").url()
    if request.param == "mysql":
        url = request.getfixturevalue("mysql").url()
    # All tests share the one server, as runs share a database.
    name = f"{request.node.name}-{tmp_path.name}"
    return Place(lambda: open_database(url, name, DIRECTIONS), lambda: url, name)


def proposals_on(journal: StudyJournal, results: list[object] | None = None) -> Proposals:
    sampler = make_sampler("random", SamplerTask(SmallSpace(), seed=0), len(results or []))
    return Proposals(SmallSpace(), sampler, journal, OBJECTIVES, results or [], 0)  # type: ignore[arg-type]


def asked(proposals: Proposals) -> Draft:
    draft = proposals.ask()
    assert draft is not None
    return draft


def test_what_begins_and_ends_is_read_by_other_programs(place: Place) -> None:
    proposals = proposals_on(place.open())
    drafts = [asked(proposals) for _ in range(3)]
    for draft in drafts:
        proposals.start(draft)
    assert place.states() == ["RUNNING"] * 3
    proposals.finish(complete(0, drafts[0].params, 0.123456789012345))
    proposals.finish(ended(1, "failed", drafts[1].params, "out of memory"))
    proposals.abandon(2)
    trials = place.read()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert trials[0].values == [0.123456789012345, 1.0]
    assert [trial.user_attrs.get("reason") for trial in trials] == [None, "failed: out of memory", "interrupted"]
    assert [trial.user_attrs["trial"] for trial in trials] == [0, 1, 2]
    assert [key_of(trial.params) for trial in trials] == [key_of(draft.params) for draft in drafts]
    assert [trial.distributions["family"] for trial in trials] == [trials[0].distributions["family"]] * 3


def test_a_killed_run_leaves_no_running_trial_once_it_is_resumed(place: Place) -> None:
    proposals = proposals_on(place.open())
    drafts = [asked(proposals) for _ in range(4)]
    for draft in drafts:
        proposals.start(draft)
    points = [draft.params for draft in drafts]
    # Told; on disk but not told; a failure that was not told; without a result.
    results = [complete(0, points[0]), complete(1, points[1]), ended(2, "failed", points[2], "died")]
    proposals.finish(results[0])
    resumed = proposals_on(place.open(), results)
    assert place.states() == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert [trial.user_attrs.get("reason") for trial in place.read()] == [None, None, "failed: died", "interrupted"]
    assert resumed.next_trial == 4
    again = asked(resumed)
    assert (again.origin, key_of(again.params)) == ("interrupted", key_of(points[3]))


def test_an_empty_study_is_filled_from_the_results(place: Place, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = proposals_on(open_journal_file(tmp_path / "first" / "study.journal", DIRECTIONS))
    points = [asked(first).params for _ in range(3)]
    results = [complete(0, points[0]), ended(1, "stopped", points[1], "interrupted"), complete(2, points[2])]
    for _ in range(2):  # the second time there is nothing to do
        proposals_on(place.open(), results)
        assert place.states() == ["COMPLETE", "FAIL", "COMPLETE"]
        assert [trial.user_attrs["trial"] for trial in place.read()] == [0, 1, 2]


def test_a_number_given_anew_while_the_study_was_out_of_reach_keeps_the_two_points_apart(place: Place) -> None:
    first = proposals_on(place.open())
    number = first.start(asked(first))
    # The run goes on without this study, knows no result of trial 0, and numbers another point 0.
    other = next(point for point in SmallSpace().anchors() if key_of(point) != key_of(first.running[number]))
    proposals_on(place.open(), [complete(0, dict(other), 0.7)])
    trials = place.read()
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert (key_of(trials[1].params), trials[1].values) == (key_of(other), [0.7, 1.0])


def test_a_database_that_goes_away_costs_no_trial_and_is_brought_up_to_date(server: Postgres, tmp_path: Path) -> None:
    warned: list[str] = []
    journal = open_database(server.url(), tmp_path.name, DIRECTIONS, warned.append)
    proposals = proposals_on(journal)
    results = []

    def one_trial(accuracy: float) -> None:
        draft = asked(proposals)
        results.append(complete(proposals.start(draft), draft.params, accuracy))
        proposals.finish(results[-1])

    one_trial(0.1)
    server.stop()
    server.start()
    one_trial(0.2)  # a restart between two writes is not noticed
    assert warned == [] and not journal.lost
    begun = asked(proposals)
    proposals.start(begun)
    server.stop()
    try:
        proposals.finish(complete(2, begun.params, 0.3))
        results.append(complete(2, begun.params, 0.3))
        one_trial(0.4)
        assert journal.lost and len(warned) == 1
        assert "the search goes on" in warned[0] and PASSWORD not in warned[0] and "\n" not in warned[0]
        proposals.mend_journal(lambda: results)
        assert journal.lost
        # Resumed while it is away, a run learns from its results.
        assert (
            len([t for t in proposals_on(journal, results)._memory.study.trials if t.state == TrialState.COMPLETE]) == 4
        )
        with pytest.raises(InputError):
            check_database(server.url())
    finally:
        server.start()
    proposals.mend_journal(lambda: results)
    assert not journal.lost
    trials = optuna.load_study(study_name=tmp_path.name, storage=server.url()).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert [trial.values[0] for trial in trials] == [0.1, 0.2, 0.3, 0.4]


def test_a_study_that_someone_deletes_does_not_end_the_search(tmp_path: Path) -> None:
    url, warned = f"sqlite:///{tmp_path}/studies.db", []
    proposals = proposals_on(open_database(url, "mine", DIRECTIONS, warned.append))
    proposals.start(asked(proposals))
    optuna.delete_study(study_name="mine", storage=url)
    draft = asked(proposals)
    result = complete(proposals.start(draft), draft.params)
    proposals.finish(result)
    assert len(warned) == 1
    proposals.mend_journal(lambda: [result])
    assert [trial.state.name for trial in optuna.load_study(study_name="mine", storage=url).trials] == ["COMPLETE"]


def test_a_study_of_other_objectives_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    optuna.create_study(study_name="mine", storage=url, directions=["minimize"])
    with pytest.raises(InputError, match="'mine' has other objectives"):
        open_database(url, "mine", DIRECTIONS)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("studies.db", "no URL of a database"),
        ("postgresql://me:s3cret@host:port/db", "no URL of a database"),
        ("oracle://me:s3cret@host/db", "oracle://…: a study cannot be kept there"),
        ("postgresql+foo://me:s3cret@host/db", "no such driver is known"),
        ("mysql+mysqldb://me:s3cret@host/db", "the driver 'MySQLdb' is not installed; nasdistill's extra 'mysql'"),
        ("sqlite://", "SQLite needs a file"),
        ("sqlite:////nowhere/studies.db", "unable to open database file"),
        ("postgresql+psycopg://me:s3cret@127.0.0.1:1/db", r"me:\*\*\*@127.0.0.1:1/db: .*Connection refused"),
    ],
)
def test_what_cannot_be_used_is_one_line_without_the_password(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        check_database(url)
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)
    assert str(caught.value).startswith("--storage")


def test_a_wrong_password_is_refused_and_not_shown(server: Postgres) -> None:
    with pytest.raises(InputError, match="password authentication failed") as caught:
        check_database(server.url("s3cret/wrong"))
    assert "s3cret" not in str(caught.value) and "\n" not in str(caught.value)


def test_runs_share_a_database_and_find_their_studies_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    runs = [RunFolder.create(tmp_path / side / "run") for side in ("a", "b")]
    for run in runs:
        open_journal(run, url, OBJECTIVES, print)
        study = run.read_run()["study"]
        assert study["storage"] == url and study["name"].startswith("run-")
        # Nothing secret in it, so it need not be given again.
        assert check_storage(None, run.read_run()) == url
        open_journal(run, url, OBJECTIVES, print)
        assert run.read_run()["study"] == study
    assert len(optuna.get_all_study_names(storage=url)) == 2
    assert check_storage("journal", runs[0].read_run()) is None
    open_journal(runs[0], None, OBJECTIVES, print)
    assert (runs[0].path / "study.journal").exists() and check_storage(None, runs[0].read_run()) is None
    open_journal(runs[0], url, OBJECTIVES, print)  # and back to the study that it had
    assert len(optuna.get_all_study_names(storage=url)) == 2


def test_the_environment_does_not_move_the_study_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (f"sqlite:///{tmp_path}/{name}.db" for name in ("here", "there"))
    run = RunFolder.create(tmp_path / "run")
    monkeypatch.setenv("NASDISTILL_STORAGE", there)
    assert check_storage(None, {}) == there and check_storage(here, {}) == here
    open_journal(run, None, OBJECTIVES, print)
    assert check_storage(None, run.read_run()) is None and check_storage(there, run.read_run()) == there
    open_journal(run, here, OBJECTIVES, print)
    assert check_storage(None, run.read_run()) == here and check_storage("journal", run.read_run()) is None
    for of_another_program in ("postgres", here):
        monkeypatch.setenv("NASDISTILL_STORAGE", of_another_program)
        assert check_storage(None, run.read_run()) == here and check_storage(there, run.read_run()) == there


def test_the_password_is_not_kept_and_has_to_be_given_again(server: Postgres, tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    open_journal(run, server.url(), OBJECTIVES, print)
    text = (run.path / "run.json").read_text()
    assert "s3cret" not in text
    assert json.loads(text)["study"]["storage"] == "postgresql+psycopg://tester:***@/postgres"
    with pytest.raises(InputError, match="whose password is not kept: .*NASDISTILL_STORAGE.*--storage journal"):
        check_storage(None, run.read_run())
    assert check_storage(server.url(), run.read_run()) == server.url()
    assert without_password(server.url()) == "postgresql+psycopg://tester:***@/postgres"


def test_a_file_system_without_symbolic_links_holds_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.symlink", refused)
    open_journal_file(tmp_path / "study.journal", DIRECTIONS)
    assert (tmp_path / "study.journal").read_text() and not (tmp_path / "study.journal.damaged").exists()


def test_optuna_does_not_report_into_the_searches_own_lines(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    open_journal_file(tmp_path / "study.journal", directions_of([MAP50_95, LATENCY_MS]))
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
