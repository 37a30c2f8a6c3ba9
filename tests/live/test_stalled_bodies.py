"""While a request's body is read, no transaction is open and no connection of the pool is held."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.native import KIB, MIB, Native, read_response
from tests.harness.postgres import Postgres
from tests.harness.resumable import File, Resumable
from tests.harness.server import API_KEY, Server
from tests.harness.tables import Postgresql
from tests.harness.tus import CONTENT_TYPE, Tus
from tests.harness.wire import connect, wait_until
from tests.live.wire import metric

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: Of each kind; all kinds together are more than SQLAlchemy's pool has connections (15).
BODIES = 3

KEY = {"X-API-Key": API_KEY}


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, start_server: StartServer) -> Iterator[Server]:
    """A server with one worker on each kind of database."""
    if request.param == "sqlite":
        yield start_server(WORKERS=1)
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.new_database()
    server = start_server(WORKERS=1, tables=Postgresql(postgres.url(name)))
    yield server
    server.close()
    postgres.drop_database(name)


def native_parts(server: Server, data: bytes) -> Iterator[requests.Request]:
    """New ones, and such that are stored already and compared."""
    native = Native(server)
    upload = native.init(size=2 * BODIES * MIB)
    for part in range(BODIES, 2 * BODIES):
        native.put(upload, part, data)
    for part in range(2 * BODIES):
        token = {"Authorization": f"Bearer {upload.tokens[part]}"}
        url = f"{server.url}/upload/{upload.id}/part/{part}"
        yield requests.Request("PUT", url, data=data, headers=token)


def chunks(server: Server, data: bytes) -> Iterator[requests.Request]:
    """New ones as raw bodies and as forms, and such that are stored already."""
    resumable = Resumable(server)
    file = File(data * (3 * BODIES + 1), chunk_size=MIB)
    for number in range(2 * BODIES + 1, 3 * BODIES + 1):
        resumable.octet(file, number)
    for number in range(1, 3 * BODIES + 1):
        fields = file.fields(number)
        sent: dict[str, object] = {"data": data}
        if number % 2:
            sent = {"files": {"file": ("blob", data)}}
        yield requests.Request("POST", resumable.url, params=fields, headers=KEY, **sent)  # type: ignore[arg-type]


def appends(server: Server, data: bytes) -> Iterator[requests.Request]:
    """PATCHes, and creations that bring bytes along."""
    tus = Tus(server)
    usual = tus.usual | {"Content-Type": CONTENT_TYPE}
    for _ in range(BODIES):
        url = tus.create(len(data)).url
        yield requests.Request("PATCH", url, data=data, headers=usual | {"Upload-Offset": "0"})
        length = {"Upload-Length": str(len(data))}
        yield requests.Request("POST", f"{server.url}/files", data=data, headers=usual | length)


def documents(server: Server, _data: bytes) -> Iterator[requests.Request]:
    """JSON, which is read whole before anything else happens."""
    document = json.dumps({"filename": "a", "total_size": 5, "metadata": {"x": "x" * 100 * KIB}})
    for _ in range(BODIES):
        yield requests.Request("POST", f"{server.url}/upload/init", data=document, headers=KEY)


def nobody_has_a_transaction(server: Server) -> bool:
    if isinstance(server.tables, Postgresql):
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        )
        return not server.tables.rows(query)
    with closing(sqlite3.connect(server.database, isolation_level=None)) as ledger:
        # Busy while anybody reads or writes.
        busy, *_ = ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy


def test_no_transaction_is_open_while_bodies_stand_still(server: Server, content: Content) -> None:
    data = content(MIB)
    asked = [
        request.prepare()
        for requests_of in (native_parts, chunks, appends, documents)
        for request in requests_of(server, data)
    ]
    leases = len(asked) - 2 * BODIES  # neither stored native parts nor documents have one
    with ExitStack() as connections:
        begun = []
        for request in asked:
            assert isinstance(request.body, bytes | str)
            body = request.body if isinstance(request.body, bytes) else request.body.encode()
            fields = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
            head = (
                f"{request.method} {request.path_url} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n"
            )
            sock = connections.enter_context(closing(connect(server)))
            sock.sendall(head.encode() + body[: len(body) // 2])
            begun.append((sock, body[len(body) // 2 :]))
        wait_until(
            lambda: server.tables.rows("SELECT count(*) AS held FROM leases")[0]["held"] == leases,
            "all are being written",
        )
        running = "longhaul_http_requests_running"
        wait_until(lambda: metric(server, running) == len(asked) + 1, "all are being read")
        wait_until(lambda: nobody_has_a_transaction(server), "no transaction is open")
        for sock, rest in begun:
            sock.sendall(rest)
        assert {read_response(sock)[0] for sock, _ in begun} == {200, 201, 204}
