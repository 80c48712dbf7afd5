"""A PostgreSQL server of the tests' own, in a temporary folder, reached through a Unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "s3cret/with:odd@characters"
_FAST = "-c fsync=off -c full_page_writes=off -c listen_addresses="


class Postgres:
    """Starts and stops with the context; `stop` and `start` in between play the database that goes away."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self._programs = programs
        # PostgreSQL refuses to run as root.
        self._as = "postgres" if os.getuid() == 0 else None
        if self._as is not None:
            user = pwd.getpwnam(self._as)
            os.chown(folder, user.pw_uid, user.pw_gid)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        self._call("initdb", "-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder}/password", "-E", "UTF8", "-N")

    def start(self) -> None:
        self._call("pg_ctl", "start", "-w", "-l", f"{self.folder}/log", "-o", f"-k {self.folder} {_FAST}")

    def stop(self) -> None:
        self._call("pg_ctl", "stop", "-w", "-m", "immediate")

    def url(self, password: str = PASSWORD) -> str:
        quoted = password.replace("/", "%2F").replace(":", "%3A").replace("@", "%40")
        return f"postgresql+psycopg://tester:{quoted}@/postgres?host={self.folder}"

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


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A running server; skips the test where PostgreSQL is not installed."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's initdb (Debian: apt-get install postgresql), which is absent")
    # Its socket's path must be short, so not below pytest's folder.
    folder = Path(tempfile.mkdtemp(prefix="nd-pg-", dir="/tmp"))
    try:
        server = Postgres(folder, programs)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # a test may have stopped it
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve()] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None
