"""A real Longhaul under gunicorn, on a free port of the loopback, in a directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import requests

from tests.harness.commands import Commands
from tests.harness.ports import free_port
from tests.harness.stores import Disk, StagedFile, Store, StoredFile
from tests.harness.tables import Sqlite, Tables

ROOT = Path(__file__).resolve().parents[2]

API_KEY = "key-of-the-tests-0123456789abcdef"
JWT_SECRET = "secret-of-the-tests-0123456789abcdef0123456789"

#: A machine that is busy with other tests has been seen to take 31 s; only a failure takes it all.
START_SECONDS = 90
STOP_SECONDS = 60

#: What must never stand in a server's log: bugs, and warnings of the interpreter.
_SUSPICIOUS = ("request.bug", "job.bug", "finalize.bug", "Traceback (most recent call last)")


class Server:
    """A server that can be started, stopped, killed and started again on its data.

    That is on the disk and in SQLite, in its directory, unless it is told otherwise.
    ``application``: what gunicorn is to run.
    """

    def __init__(
        self,
        directory: Path,
        *,
        store: Store | None = None,
        tables: Tables | None = None,
        application: str = "wsgi:app",
        **settings: object,
    ) -> None:
        self.directory = directory
        self._application = application
        self.port = free_port()
        self.database = directory / "uploads.db"
        self.store = store or Disk(directory / "uploads")
        self.tables = tables or Sqlite(self.database)
        self.log_path = directory / "server.log"
        self.expect_bugs = False
        self._process: subprocess.Popen[bytes] | None = None
        usual = {
            "API_KEY": API_KEY,
            "JWT_SECRET": JWT_SECRET,
            "BIND_ADDR": f"127.0.0.1:{self.port}",
            "CHUNK_SIZE_MB": "1",
            "WORKERS": "2",
            "LOG_FORMAT": "json",
            "MIN_FREE_DISK_BYTES": "0",
            "ALLOW_PRIVATE_TARGETS": "true",
        }
        told = self.store.settings | self.tables.settings | settings
        self.settings = usual | {name.upper(): str(value) for name, value in told.items()}

    @property
    def url(self) -> str:
        """The server's base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def uploads(self) -> Path:
        """The folder of the files, where they are on a disk that is at hand."""
        assert isinstance(self.store, Disk)
        return self.store.root

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server's processes; nothing of ours leaks into it."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return kept | {"PYTHONPATH": str(ROOT)} | self.settings

    def start(self, *, ready: bool = True) -> Self:
        """Start the server and wait until it is ready, or (``ready=False``) says it is not."""
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "gunicorn",
                    "-c",
                    f"{ROOT}/deploy/gunicorn.conf.py",
                    self._application,
                ],
                cwd=self.directory,  # a developer's .env is not ours
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_answering(200 if ready else 503)
        return self

    def stop(self) -> int:
        """Stop the server as an operator would (SIGTERM); return its exit status."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        status = process.wait(STOP_SECONDS)
        self._process = None
        return status

    def kill(self) -> None:
        """End the server's processes all at once, as a crash would (SIGKILL)."""
        process = self._running()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS)
        self._process = None

    @property
    def runs(self) -> bool:
        """Whether it was started, and not ended since."""
        return self._process is not None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let all its processes stand still for a while."""
        group = self._running().pid
        os.killpg(group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(group, signal.SIGCONT)

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self._running().send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait until the server has ended by itself; return its exit status."""
        status = self._running().wait(STOP_SECONDS)
        self._process = None
        return status

    def close(self) -> None:
        """End the server if it runs, and fail if its log tells of a bug."""
        if self._process is not None:
            self.kill()
        if not self.expect_bugs:
            suspicious = [line for line in self.log_lines() if any(s in line for s in _SUSPICIOUS)]
            assert not suspicious, "\n".join(suspicious[:5])

    def flask(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a ``flask`` command with this server's settings."""
        done = _commands().run(arguments, self.directory, self.environment)
        if check:
            done.check_returncode()
        return done

    def worker_pids(self) -> list[int]:
        """Return the pids of the workers (children of the master)."""
        master = self._running().pid
        children = Path(f"/proc/{master}/task/{master}/children").read_text()
        return [int(pid) for pid in children.split()]

    def peak_rss_bytes(self) -> int:
        """Return the largest peak resident set of any worker so far."""
        return max(_peak_rss_bytes(pid) for pid in self.worker_pids())

    def log_lines(self) -> list[str]:
        """Return what the server has logged so far."""
        if not self.log_path.exists():
            return []
        return self.log_path.read_text(errors="replace").splitlines()

    def file(self, location: str) -> StoredFile:
        """Return the file that an answer says is at a location (``final_path``)."""
        return self.store.file(location)

    def staged_files(self) -> list[StagedFile]:
        """Return what there is of unfinished uploads."""
        return self.store.staged()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server does not run"
        return self._process

    def _wait_until_answering(self, status: int) -> None:
        give_up_at = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up_at:
            if self._running().poll() is not None:
                break
            try:
                if requests.get(f"{self.url}/ready", timeout=5).status_code == status:
                    return
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.02)  # not listening yet; the loop ends by its deadline
        raise AssertionError("server did not start:\n" + "\n".join(self.log_lines()[-20:]))


@cache
def _commands() -> Commands:
    return Commands()


def _peak_rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no VmHWM of {pid}")
