"""Database servers of the tests' own, in a temporary folder, reached through a Unix socket: PostgreSQL and MariaDB."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

PASSWORD = "s3cret/with:odd@characters"
_FAST = "-c fsync=off -c full_page_writes=off -c listen_addresses="


class Postgres:
    """Starts and stops with the context; `stop` and `start` in between play the database that goes away."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._as = _owner(folder, "postgres")
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        self._call("initdb", "-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder}/password", "-E", "UTF8", "-N")

    def start(self) -> None:
        self._call("pg_ctl", "start", "-w", "-l", f"{self.folder}/log", "-o", f"-k {self.folder} {_FAST}")

    def stop(self) -> None:
        self._call("pg_ctl", "stop", "-w", "-m", "immediate")

    def url(self, password: str = PASSWORD) -> str:
        return f"postgresql+psycopg://tester:{quote(password, safe='')}@/postgres?host={self.folder}"

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", f"{self.folder}/data", *arguments]
        subprocess.run(
            command,
            check=True,
            user=self._as,
            cwd=self.folder,
            timeout=120,
            stdout=subprocess.DEVNULL,
            env={"LC_ALL": "C"},
        )


class MariaDB:
    """Starts and stops with the context. It speaks MySQL's protocol, and its tables are MySQL's."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.folder = folder
        self._server = server
        self._as = _owner(folder, "mysql")
        making = ("--no-defaults", f"--datadir={folder}/data", "--auth-root-authentication-method=normal")
        self._call("mariadb-install-db", *making, "--skip-test-db")

    def start(self) -> None:
        where = (f"--datadir={self.folder}/data", f"--socket={self.folder}/socket", f"--pid-file={self.folder}/pid")
        self._running = subprocess.Popen(
            [self._server, "--no-defaults", "--skip-networking", *where],
            user=self._as,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._call("mariadb-admin", *self._root, "--wait=30", "--connect-timeout=1", "ping")
        user = f"CREATE USER tester@localhost IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON studies.* TO tester@localhost"
        self._call("mariadb", *self._root, "-e", f"CREATE DATABASE studies; {user}")

    def stop(self) -> None:
        self._running.terminate()
        self._running.wait(60)

    def url(self) -> str:
        return f"mysql+pymysql://tester:{quote(PASSWORD, safe='')}@/studies?unix_socket={self.folder}/socket"

    @property
    def _root(self) -> tuple[str, ...]:
        return ("--no-defaults", f"--socket={self.folder}/socket", "-u", "root")

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [program, *arguments], check=True, user=self._as, cwd=self.folder, timeout=120, stdout=subprocess.DEVNULL
        )


def _owner(folder: Path, name: str) -> str | None:
    """Database servers refuse to run as root: then `name` gets the folder, and is who runs it."""
    if os.getuid() != 0:
        return None
    user = pwd.getpwnam(name)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return name


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    """A socket's path must be short, so not below pytest's folder."""
    folder = Path(tempfile.mkdtemp(prefix="nd-db-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mariadb() -> Iterator[MariaDB]:
    """A running server; skips the test where MariaDB is not installed."""
    found = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
    if found is None:
        pytest.skip("needs MariaDB (Debian: apt-get install mariadb-server), which is absent")
    with _short_folder() as folder:
        server = MariaDB(folder, Path(found))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server; skips the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb (Debian: apt-get install postgresql), which is absent")
    with _short_folder() as folder:
        server = Postgres(folder, programs)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
                server.stop()


def _programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve()] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None
