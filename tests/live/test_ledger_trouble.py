"""The database is locked by somebody else for longer than it is waited for: nothing is lost."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.native import MIB, Native, read_response
from tests.harness.resumable import CHUNK_BYTES, File, Resumable
from tests.harness.server import Server
from tests.harness.tus import Tus, finished_file
from tests.harness.wire import assert_problem, nothing_stored, wait_until
from tests.live.wire import lease_holder, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server(WORKERS=1, LEDGER_BUSY_TIMEOUT_SECS=0.3)


@contextlib.contextmanager
def locked(server: Server) -> Iterator[None]:
    """Hold the database's write lock, as a backup or a shell may."""
    with contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def assert_busy(response: requests.Response) -> None:
    message = assert_problem(response.status_code, response.content, 503, "ledger_busy")
    assert "try again" in message
    assert int(response.headers["Retry-After"]) > 0


def test_a_locked_database_is_503_by_every_protocol(server: Server, content: Content) -> None:
    native, resumable, tus = Native(server), Resumable(server), Tus(server)
    data = content(2 * CHUNK_BYTES)
    upload, full, appended = native.init(size=5), native.init(size=5), tus.create(5)
    native.put_all(full, b"bytes")
    file, other = File(data), File(data)
    resumable.octet(file, 1)
    with nothing_stored(server), locked(server):
        for response in (
            native.init_raw({"filename": "a", "total_size": 5}),
            native.put_raw(upload, 0, b"bytes"),
            native.complete_raw(full),
            native.cancel_raw(upload),
            resumable.octet_raw(other, 1),
            resumable.octet_raw(file, 2),
            resumable.form_raw(file, 2),
            tus.create_raw({"Upload-Length": 5}),
            tus.patch_raw(appended, 0, b"bytes"),
            tus.delete(appended),
        ):
            assert_busy(response)
        # Who only reads waits for nobody.
        assert native.pending(upload) == [0]
        assert resumable.test(file, 1)
        assert not resumable.test(file, 2)
        assert tus.offset(appended) == 0
    native.put_all(upload, b"bytes")
    for ended in (upload, full):
        assert server.file(native.complete(ended)["final_path"]).read_bytes() == b"bytes"
    assert server.file(resumable.octet(file, 2)["final_path"]).read_bytes() == data
    assert tus.patch(appended, 0, b"bytes") == 5


def test_what_cannot_be_recorded_when_it_has_come_is_asked_for_again(
    server: Server, content: Content
) -> None:
    native, tus, data = Native(server), Tus(server), content(MIB)
    upload, appended = native.init(size=MIB), tus.create(MIB)
    with (
        native.open_part(upload, 0) as part,
        tus.open_patch(appended, 0, MIB) as patch,
    ):
        for sock in (part, patch):
            sock.sendall(data[:-1])
        wait_until(lambda: lease_holder(server, upload, 0), "the part is being written")
        wait_until(lambda: lease_holder(server, appended, "append"), "it is being appended")  # type: ignore[arg-type]
        with locked(server):
            for sock in (part, patch):
                sock.sendall(data[-1:])
            for sock in (part, patch):
                status, headers, body = read_response(sock)
                assert_problem(status, body, 503, "ledger_busy")
                assert "retry-after" in headers
    assert native.pending(upload) == [0]
    # Their leases could not be given back either, and run out.
    until(lambda: native.put_raw(upload, 0, data).status_code == 200)
    assert server.file(native.complete(upload)["final_path"]).read_bytes() == data
    offset = tus.offset(appended)
    until(lambda: tus.patch_raw(appended, offset, data[offset:]).status_code == 204)
    path = until(lambda: finished_file(server, appended), what="the file is stored")
    assert path.read_bytes() == data
