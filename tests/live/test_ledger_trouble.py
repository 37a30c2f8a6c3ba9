"""The database is locked for longer than it is waited for, or away: nothing is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.native import MIB, Native, read_response
from tests.harness.postgres import Postgres
from tests.harness.resumable import CHUNK_BYTES, File, Resumable
from tests.harness.server import Server
from tests.harness.tables import Postgresql
from tests.harness.tus import Tus, finished_file
from tests.harness.wire import assert_problem, nothing_stored, wait_until
from tests.live.wire import lease_holder, master_pid, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server(WORKERS=1, LEDGER_BUSY_TIMEOUT_SECS=0.3)


@pytest.fixture
def on_postgres(
    start_server: StartServer, restartable_postgres: Postgres
) -> Iterator[tuple[Server, Postgres]]:
    """A server whose database may go away."""
    name = restartable_postgres.new_database()
    url = restartable_postgres.url(name)
    server = start_server(WORKERS=1, tables=Postgresql(url))
    yield server, restartable_postgres
    server.close()
    restartable_postgres.drop_database(name)


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


def ready(server: Server) -> int:
    return Native(server).request("GET", "/ready").status_code


class Begun:
    """Uploads of all protocols on their way, and the requests that go on with them."""

    def __init__(self, server: Server, content: Content) -> None:
        self.server = server
        self.native, self.resumable, self.tus = Native(server), Resumable(server), Tus(server)
        self.data = content(2 * CHUNK_BYTES)
        self.upload, self.full = self.native.init(size=5), self.native.init(size=5)
        self.native.put_all(self.full, b"bytes")
        self.appended = self.tus.create(5)
        self.file, self.other = File(self.data), File(self.data)
        self.resumable.octet(self.file, 1)

    def writing(self) -> Iterator[requests.Response]:
        """Ask for changes."""
        yield self.native.init_raw({"filename": "a", "total_size": 5})
        yield self.native.put_raw(self.upload, 0, b"bytes")
        yield self.native.complete_raw(self.full)
        yield self.native.cancel_raw(self.upload)
        yield self.resumable.octet_raw(self.other, 1)
        yield self.resumable.octet_raw(self.file, 2)
        yield self.resumable.form_raw(self.file, 2)
        yield self.tus.create_raw({"Upload-Length": 5})
        yield self.tus.patch_raw(self.appended, 0, b"bytes")
        yield self.tus.delete(self.appended)

    def reading(self) -> Iterator[requests.Response]:
        """Ask how things stand."""
        yield self.native.request("GET", f"/upload/{self.upload.id}/status")
        yield self.resumable.test_raw(self.file, 1)
        yield self.native.request("GET", f"/download/{self.full.id}")

    def finish(self) -> None:
        """Send what is missing; every byte must be there in the end."""
        self.native.put_all(self.upload, b"bytes")
        for ended in (self.upload, self.full):
            path = self.native.complete(ended)["final_path"]
            assert self.server.file(path).read_bytes() == b"bytes"
        path = self.resumable.octet(self.file, 2)["final_path"]
        assert self.server.file(path).read_bytes() == self.data
        assert self.tus.patch(self.appended, 0, b"bytes") == 5


def test_a_locked_database_is_503_by_every_protocol(server: Server, content: Content) -> None:
    begun = Begun(server, content)
    with nothing_stored(server), locked(server):
        for response in begun.writing():
            assert_busy(response)
        # Who only reads waits for nobody.
        assert begun.native.pending(begun.upload) == [0]
        assert begun.resumable.test(begun.file, 1)
        assert not begun.resumable.test(begun.file, 2)
        assert begun.tus.offset(begun.appended) == 0
    begun.finish()


def test_a_database_that_is_away_is_503_by_every_protocol_until_it_is_back(
    on_postgres: tuple[Server, Postgres], content: Content
) -> None:
    server, postgres = on_postgres
    begun = Begun(server, content)
    with nothing_stored(server):
        with postgres.away():
            for response in (*begun.writing(), *begun.reading()):
                assert_busy(response)
            head = begun.tus.head(begun.appended)  # has no body
            assert (head.status_code, head.headers["Retry-After"].isdigit()) == (503, True)
            wait_until(lambda: ready(server) == 503, "/ready has looked again")
        wait_until(lambda: ready(server) == 200, "it is ready again")
    begun.finish()


def test_a_reload_while_the_database_is_locked_ends_no_server(
    server: Server, content: Content
) -> None:
    """SIGHUP: its migration has to wait, and the new workers serve as the old ones did."""
    before = set(server.worker_pids())
    with locked(server):
        os.kill(master_pid(server), signal.SIGHUP)
        wait_until(
            lambda: len(after := set(server.worker_pids())) == 1 and not before & after,
            "the worker is replaced",
        )
    assert any("reload.not_migrated" in line for line in server.log_lines())
    native, data = Native(server), content(MIB)
    upload = native.init(size=MIB)
    native.put_all(upload, data)
    assert server.file(native.complete(upload)["final_path"]).read_bytes() == data


def test_a_server_starts_while_its_database_is_away_and_recovers_by_itself(
    start_server: StartServer, restartable_postgres: Postgres, content: Content
) -> None:
    """Its tables, which are not there yet, are made when it has come."""
    url = restartable_postgres.url(restartable_postgres.new_database())
    with restartable_postgres.away():
        server = start_server(WORKERS=2, tables=Postgresql(url), ready=False)
        assert any("start.not_migrated" in line for line in server.log_lines())
        assert_busy(Native(server).init_raw({"filename": "a", "total_size": 5}))
    wait_until(lambda: ready(server) == 200, "it is ready")
    native, data = Native(server), content(MIB)
    upload = native.init(size=MIB)
    native.put_all(upload, data)
    assert server.file(native.complete(upload)["final_path"]).read_bytes() == data


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
    # Their leases could not be given back either; that is done when the database is free.
    until(lambda: native.put_raw(upload, 0, data).status_code == 200)
    assert server.file(native.complete(upload)["final_path"]).read_bytes() == data
    offset = tus.offset(appended)
    until(lambda: tus.patch_raw(appended, offset, data[offset:]).status_code == 204)
    path = until(lambda: finished_file(server, appended), what="the file is stored")
    assert path.read_bytes() == data
