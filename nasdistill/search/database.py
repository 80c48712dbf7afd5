"""The study in a database that many runs share (`--storage URL`), through Optuna's RDBStorage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from nasdistill.errors import InputError
from nasdistill.search.journal import StudyJournal, first_line, study_in

_BACKENDS = ("postgresql", "mysql", "mariadb", "sqlite")
_ALLOWED = (
    "allowed: postgresql+psycopg://user:password@host/database, mysql+pymysql://…, sqlite:///file.db, "
    "or journal (the run folder's own file)"
)
_INSTALL = {
    "psycopg": "nasdistill's extra 'postgresql' brings it",
    "pymysql": "nasdistill's extra 'mysql' brings it",
    "MySQLdb": "nasdistill's extra 'mysql' brings pymysql: write mysql+pymysql://",
    "psycopg2": "nasdistill's extra 'postgresql' brings psycopg: write postgresql+psycopg://",
}
# Seconds. Optuna tries a failed write five times, so a dead host holds up a search for half a minute, once.
_CONNECT_TIMEOUT_S = 5
_ANSWER_TIMEOUT_S = 30
_LIBPQ = {
    "connect_timeout": _CONNECT_TIMEOUT_S,
    "keepalives_idle": _ANSWER_TIMEOUT_S,
    "tcp_user_timeout": _ANSWER_TIMEOUT_S * 1000,
}
_MYSQL = {
    "connect_timeout": _CONNECT_TIMEOUT_S,
    "read_timeout": _ANSWER_TIMEOUT_S,
    "write_timeout": _ANSWER_TIMEOUT_S,
}
_TIMEOUTS: dict[str, dict[str, int]] = {
    "psycopg": _LIBPQ,
    "psycopg2": _LIBPQ,
    "pymysql": _MYSQL,
    "mysqldb": _MYSQL,
    "pysqlite": {"timeout": _ANSWER_TIMEOUT_S},
}


def check_database(url: str) -> None:
    """Connect once, and make Optuna's tables where there are none.

    Raises:
        InputError: no such kind of database, a driver that is not installed, or a database that cannot be used.
    """
    _open_storage(url).engine.dispose()


def open_database(
    url: str, name: str, directions: Sequence[StudyDirection], warn: Callable[[str], None] | None = None
) -> StudyJournal:
    """The study `name` in the database at `url`. When the database goes away, `warn` is told and the search goes on.

    Raises InputError as `check_database`, and for a study of that name with other objectives.
    """

    def opened() -> optuna.Study:
        try:
            return study_in(_open_storage(url), name, directions)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            raise _refusal(url, first_line(error)) from error

    more: dict[str, Any] = {} if warn is None else {"warn": warn}
    return StudyJournal(opened(), opened, **more)


def without_password(url: str) -> str:
    """The URL as it may be shown and kept: no password, and no options, which may hold one.

    Raises InputError for what is no URL of a database that a study can be kept in.
    """
    return _parsed(url).set(query={}).render_as_string(hide_password=True)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # What cannot be parsed may still hold a password, so it is not shown.
        raise InputError(f"--storage: what is given is no URL of a database; {_ALLOWED}") from None
    if backend not in _BACKENDS:
        raise InputError(f"--storage {backend}://…: a study cannot be kept there; {_ALLOWED}")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError("--storage: SQLite needs a file, as in sqlite:///studies.db")
    return parsed


def _open_storage(url: str) -> RDBStorage:
    parsed = _parsed(url)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    try:
        driver = parsed.get_dialect().driver
    except NoSuchModuleError:
        raise InputError(f"--storage {parsed.drivername}://…: no such driver is known; {_ALLOWED}") from None
    except ImportError as error:
        raise _no_driver(parsed, error) from None
    given = {name: value for name, value in _TIMEOUTS.get(driver, {}).items() if name not in parsed.query}
    try:
        # Connections are tried before use, so that a database may be restarted between two writes.
        return RDBStorage(url, engine_kwargs={"connect_args": given, "pool_pre_ping": True})
    except ImportError as error:
        raise _no_driver(parsed, error.__cause__ or error) from None
    except Exception as error:
        # SQLAlchemy's, Optuna's and the driver's own; nothing but the database is asked here.
        raise _refusal(url, first_line(error)) from error


def _no_driver(parsed: URL, error: BaseException) -> InputError:
    module = getattr(error, "name", None) or parsed.get_driver_name()
    hint = _INSTALL.get(module, f"install it beside nasdistill (pip install {module})")
    return InputError(f"--storage {parsed.drivername}://…: the driver '{module}' is not installed; {hint}")


def _refusal(url: str, reason: str) -> InputError:
    password = _parsed(url).password
    if password:
        reason = reason.replace(str(password), "***")
    return InputError(f"--storage {without_password(url)}: the database cannot be used: {reason}")
