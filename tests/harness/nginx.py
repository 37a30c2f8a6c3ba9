"""A real nginx on a free port of the loopback, as a proxy in front of other servers."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.harness.missing import lacking
from tests.harness.ports import free_port

START_SECONDS = 30
STOP_SECONDS = 30

#: What a test's nginx needs around a configuration, whoever runs it.
_MAIN = """\
{user}
daemon off;
pid {directory}/nginx.pid;
"""
_HTTP = """
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
"""


def find_nginx() -> str | None:
    """Return the program; Debian keeps it in sbin, which not every PATH names."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def require_nginx() -> str:
    """Return the program; where it is not installed: skip here, fail in CI."""
    return find_nginx() or lacking("nginx is not installed (Debian: apt-get install nginx-light)")


def for_anybody(configuration: str, directory: Path) -> str:
    """Return a whole configuration file so that any user can run it, with its files there."""
    # As root, its workers would become another user, who may not write there.
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    http = f"http {{{_HTTP.format(directory=directory)}"
    main = _MAIN.format(user=user, directory=directory)
    return main + configuration.replace("http {", http, 1)


class Nginx:
    """Runs with the text of an ``http`` block; ``listen`` this object's ``port`` there."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, http: str) -> None:
        """Start with an ``http`` block of these directives, and wait until it listens."""
        self.start_with(f"events {{ worker_connections 1024; }}\nhttp {{\n{http}\n}}\n")

    def start_with(self, configuration: str) -> None:
        """Start with a whole configuration file, and wait until it listens."""
        config = self._directory / "nginx.conf"
        config.write_text(for_anybody(configuration, self._directory))
        errors = self._directory / "error.log"
        self._process = subprocess.Popen(
            [self._program, "-p", str(self._directory), "-c", str(config), "-e", str(errors)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up_at = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < give_up_at:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)  # starting; the loop ends by its deadline
        raise AssertionError(errors.read_text())

    def stop(self) -> None:
        """Stop it at once."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(STOP_SECONDS)
