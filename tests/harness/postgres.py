"""A real PostgreSQL on a free port of the loopback, run as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.harness.missing import lacking
from tests.harness.ports import free_port

START_SECONDS = 30
STOP_SECONDS = 30

#: Where Debian keeps what it does not put into PATH, one directory a version.
_DEBIAN = Path("/usr/lib/postgresql")

#: Quicker than a disk that other tests keep busy.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

#: Nothing here survives the test run, so nothing has to reach the disk.
_FAST = ["fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_connections=200"]


def new_postgres() -> Postgres:
    """Return a server that is not started yet; skip where it is not installed, fail in CI."""
    programs = _find_programs()
    if programs is None:
        lacking("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return Postgres(programs)


class Postgres:
    """A server with databases of its own. It refuses to run as root, so root becomes another."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._directory = Path(tempfile.mkdtemp(prefix="longhaul-postgres-", dir=_MEMORY))
        self._port = free_port()
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: dict[str, object] = {}
        if os.geteuid() == 0:
            user = _unprivileged_user()
            os.chown(self._directory, user.pw_uid, user.pw_gid)
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def start(self) -> None:
        """Make a cluster, start the server on it and wait until it answers."""
        data = self._directory / "data"
        self._run("initdb", "-D", data, "-U", "app", "-A", "trust", "-E", "UTF8", "--no-sync")
        self._serve()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop the server as an operator would (every connection breaks), and start it again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(STOP_SECONDS)
        try:
            yield
        finally:
            self._serve()

    def _serve(self) -> None:
        data = self._directory / "data"
        options = [word for setting in _FAST for word in ("-c", setting)]
        command = ["-D", data, "-h", "127.0.0.1", "-p", self._port, "-k", "", *options]
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), *map(str, command)],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user,  # type: ignore[call-overload]
            )
        self._wait_until_ready()

    def new_database(self, template: str = "template1") -> str:
        """Make a database, a copy of ``template``; return its name."""
        self._count += 1
        name = f"test_{self._count}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected."""
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """Return a DATABASE_URL."""
        return f"postgresql+psycopg://app@127.0.0.1:{self._port}/{name}"

    def stop(self) -> None:
        """Stop the server and remove its files."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once; nobody needs the data
            self._process.wait(STOP_SECONDS)
        shutil.rmtree(self._directory)

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [str(self._programs / program), *map(str, arguments)],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=START_SECONDS,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            **self._as_user,  # type: ignore[call-overload]
        )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at and self._process.poll() is None:
            try:
                psycopg.connect(self._dsn("postgres")).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.02)  # starting; the loop ends by its deadline
        raise AssertionError((self._directory / "log").read_text())

    def _dsn(self, name: str) -> str:
        return f"host=127.0.0.1 port={self._port} user=app dbname={name}"


def _unprivileged_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _find_programs() -> Path | None:
    """Return the directory of ``initdb`` and ``postgres``, None where there is none."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path for path in _DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    return max(versions, key=lambda path: float(path.parent.name), default=None)
