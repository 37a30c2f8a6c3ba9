"""What tests look at besides answers: raw bytes on a socket, the ledger's rows, the disk."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from tests.harness.native import TIMEOUT_SECONDS, Upload, read_response
from tests.harness.server import Server

#: Hypothesis against a real server: few examples, always the same ones, no clock.
examples = settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def connect(server: Server) -> socket.socket:
    """Open a connection; closing it is the caller's."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_SECONDS)


def exchange(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are on a connection of their own; return status, headers and body."""
    with connect(server) as sock:
        sock.sendall(request)
        return read_response(sock)


def head(method: str, path: str, **fields: object) -> bytes:
    """Return a request head; an underscore in a field's name stands for a hyphen."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def assert_problem(status: int, body: bytes, expected_status: int, code: str) -> str:
    """Assert that an answer is an error of the contract; return its message."""
    assert status == expected_status, body
    problem = json.loads(body)
    assert problem == {"error": problem["error"], "code": code, "status": expected_status}
    assert problem["error"]
    return str(problem["error"])


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Ask ``condition`` again and again until it is true; return what it returned."""
    give_up_at = time.monotonic() + seconds
    while not (outcome := condition()):
        assert time.monotonic() < give_up_at, f"waited {seconds} s in vain until {what}"
        time.sleep(0.02)  # between two looks; the loop ends by its deadline
    return outcome


def rows(server: Server, query: str, *values: object) -> list[dict[str, Any]]:
    """Return rows of a server's ledger."""
    return server.tables.rows(query, *values)


def change(server: Server, statement: str, *values: object) -> None:
    """Change a server's ledger behind its back."""
    server.tables.change(statement, *values)


def events(server: Server, upload_id: str) -> list[str]:
    """Return the kinds of an upload's events in their order."""
    found = rows(server, "SELECT kind FROM events WHERE upload_id = ? ORDER BY id", upload_id)
    return [row["kind"] for row in found]


def is_being_written(server: Server, upload: Upload, part: int) -> bool:
    """Tell whether a request holds the lease of a part."""
    query = "SELECT 1 FROM leases WHERE upload_id = ? AND key = ?"
    return bool(rows(server, query, upload.id, str(part)))


def wait_for_writer(server: Server, upload: Upload, part: int) -> None:
    """Wait until a request holds the lease of a part."""
    wait_until(lambda: is_being_written(server, upload, part), f"part {part} is being written")


def wait_for_bytes(server: Server, upload: Upload, part: int, data: bytes) -> None:
    """Wait until a part's writer has put its first bytes, ``data``, where they belong.

    Where nobody can look (they go straight into a bucket): until it is writing.
    """
    offset, _ = upload.span(part)

    def are_there() -> bool:
        (staged,) = [path for path in server.staged_files() if upload.id in path.name]
        if not isinstance(staged, Path):
            return is_being_written(server, upload, part)
        with staged.open("rb") as file:
            file.seek(offset)
            return file.read(len(data)) == data

    wait_until(are_there, f"the first bytes of part {part} are on the disk")


def wait_for_rival(server: Server, upload: Upload, part: int) -> None:
    """Wait until a second request has asked the writer of a part to let go."""
    query = "SELECT 1 FROM leases WHERE upload_id = ? AND key = ? AND contended > 0"
    wait_until(
        lambda: rows(server, query, upload.id, str(part)), f"a second request wants part {part}"
    )


def stored(server: Server) -> dict[str, Any]:
    """Return all that a request can leave behind: rows, receipts, staged and finished files."""
    (counts,) = rows(
        server,
        "SELECT (SELECT count(*) FROM uploads) AS uploads,"
        " (SELECT coalesce(sum(received), 0) FROM uploads) AS received,"
        " (SELECT count(*) FROM receipts) AS receipts,"
        " (SELECT coalesce(sum(bits), 0) FROM bitmap) AS bits,"
        " (SELECT count(*) FROM events) AS events,"
        " (SELECT count(*) FROM deliveries) AS deliveries",
    )
    return counts | {"staged": server.staged_files(), "final": server.store.files()}


@contextmanager
def nothing_stored(server: Server) -> Iterator[None]:
    """Assert that what happens inside leaves ledger and storage as they were."""
    before = stored(server)
    yield
    assert stored(server) == before
