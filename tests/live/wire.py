"""Connections written and read byte by byte, for tests of what bytes and processes do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import requests

from tests.harness.native import TIMEOUT_SECONDS, Native, Upload, cut
from tests.harness.server import API_KEY, Server
from tests.harness.stores import StoredFile

T = TypeVar("T")

#: How long anything may take that happens by itself; only a failure takes it all.
EVENT_SECONDS = 30.0

#: How often a condition that nobody announces is looked at.
_LOOK_SECONDS = 0.02


class TlsServer(Server):
    """A server that gunicorn itself protects with TLS."""

    def __init__(self, directory: Path, certificate: Path, key: Path) -> None:
        arguments = f"--certfile {certificate} --keyfile {key}"
        super().__init__(directory, GUNICORN_CMD_ARGS=arguments)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        document: dict[str, Any] = json.loads(self.body)
        return document


class Connection:
    """A TCP connection to a server. Segments go out as they are sent."""

    def __init__(
        self,
        server: Server,
        *,
        port: int | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock,
    ) -> None:
        plain = socket.create_connection(
            ("127.0.0.1", port or server.port), timeout=timeout_seconds
        )
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = wrap(plain)
        self._reader = self.sock.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *pieces: bytes) -> None:
        """Send ``pieces``, each with a call of its own."""
        for piece in pieces:
            self.sock.sendall(piece)

    def end_sending(self) -> None:
        """Send FIN, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def cut(self, how: str) -> None:
        """End the connection by ``fin`` or ``rst``."""
        self._reader.close()  # it holds the socket open
        cut(self.sock, how)

    def close(self) -> None:
        """Close the connection, if it is not yet."""
        self._reader.close()
        self.sock.close()

    def read(self, *, to_head: bool = False) -> Answer:
        """Read one answer with a Content-Length, or an interim one without a body.

        An answer ``to_head`` has the length of a body and no body.
        """
        status_line = self._reader.readline()
        if not status_line:
            raise ConnectionError("the server ended the connection instead of answering")
        headers = {}
        while (line := self._reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if to_head else int(headers.get("content-length", 0))
        return Answer(int(status_line.split()[1]), headers, self._reader.read(length))

    def wait_for_end(self) -> None:
        """Wait until the server ends the connection; fail if it sends anything more."""
        try:
            more = self._reader.read(1)
        except ConnectionResetError:
            return
        assert not more, "an answer nobody asked for"


def put_head(
    upload: Upload, part: int, *headers: str, length: int | None = None, token: str | None = None
) -> bytes:
    """Return the head of a part PUT; a framing among ``headers`` replaces the right one."""
    lines = [
        f"PUT /upload/{upload.id}/part/{part} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token or upload.tokens[part]}",
        *headers,
    ]
    if not any(header.startswith(("Transfer-Encoding:", "Content-Length:")) for header in headers):
        lines.append(f"Content-Length: {upload.span(part)[1] if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def status_head(upload: Upload, *headers: str) -> bytes:
    """Return a GET of an upload's status."""
    lines = [f"GET /upload/{upload.id}/status HTTP/1.1", "Host: 127.0.0.1", f"X-API-Key: {API_KEY}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def chunked(*pieces: bytes, end: bool = True) -> bytes:
    """Return ``pieces`` in chunked encoding, without its end if so wished."""
    encoded = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    return b"".join([*encoded, b"0\r\n\r\n" if end else b""])


def until(look: Callable[[], T | None], *, seconds: float = EVENT_SECONDS, what: str = "") -> T:
    """Look again and again until ``look`` returns something true; return that."""
    give_up_at = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > give_up_at:
            raise AssertionError(f"did not happen within {seconds} s: {what or look}")
        time.sleep(_LOOK_SECONDS)


def stored_file(native: Native, upload: Upload) -> StoredFile:
    """Complete an upload of a server and return its file; see ``final_location``."""
    return native.server.file(final_location(native, upload))


def final_location(native: Native, upload: Upload) -> str:
    """Complete an upload and wait until its file is there, however busy the machine is."""
    answer = native.complete_raw(upload)
    assert answer.status_code in (200, 202), answer.text

    def final_path() -> str | None:
        status = native.status(upload)
        assert status["status"] in ("finalizing", "complete"), status
        return status["final_path"]  # type: ignore[no-any-return]

    return until(final_path)


def metric(server: Server, sample: str) -> float:
    """Return the value of a sample, written as Prometheus does; 0 while it is not there."""
    response = requests.get(
        f"{server.url}/metrics", headers={"X-API-Key": API_KEY}, timeout=TIMEOUT_SECONDS
    )
    assert response.status_code == 200, response.text
    found = re.search(rf"^{re.escape(sample)} (\S+)$", response.text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def log_events(server: Server, event: str) -> list[dict[str, Any]]:
    """Return the server's log lines of one event."""
    lines = (line for line in server.log_lines() if f'"{event}"' in line)
    return [line for line in map(json.loads, lines) if line.get("event") == event]


def lease_holder(server: Server, upload: Upload, key: int | str) -> int | None:
    """Return the pid of the worker that holds a lease (a part's index, ``finalize``), or None."""
    rows = ask_ledger(
        server, "SELECT owner FROM leases WHERE upload_id = ? AND key = ?", upload.id, str(key)
    )
    for (owner,) in rows:
        for pid in server.worker_pids():
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                    if os.readlink(descriptor).endswith(f"/{owner}.alive"):  # its proof of life
                        return pid
    return None


def ask_ledger(server: Server, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run a SELECT on a server's SQLite file, while it runs or after."""
    with contextlib.closing(sqlite3.connect(f"file:{server.database}?mode=ro", uri=True)) as ledger:
        return ledger.execute(statement, parameters).fetchall()


def master_pid(server: Server) -> int:
    """Return the pid of gunicorn's master: the parent of its workers."""
    stat = Path(f"/proc/{server.worker_pids()[0]}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])
