"""SIGTERM: what runs may end, nothing new begins, and nobody idle holds the server up."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import StartServer
from tests.harness.native import KIB, MIB, Native, Upload
from tests.harness.server import Server
from tests.live.wire import (
    Connection,
    ask_ledger,
    lease_holder,
    master_pid,
    put_head,
    status_head,
    stored_file,
    until,
)

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: Parts have to stop 5 s before the kill, so with 7 s they have 2 s.
GRACEFUL_SECONDS = 7
PARTS_SECONDS = 2

#: Where nothing should take that long, however busy the machine is.
LONG_SECONDS = 30


@pytest.fixture
def ending(start_server: StartServer) -> Server:
    return start_server(GRACEFUL_TIMEOUT_SECS=GRACEFUL_SECONDS)


def begin_part(server: Server, upload: Upload, part: int, data: bytes) -> Connection:
    """Send the head and the beginning of a part; return when it is being received."""
    connection = Connection(server)
    connection.send(put_head(upload, part), data)
    until(lambda: lease_holder(server, upload, part))
    return connection


def seconds_to_stop(server: Server, begun_at: float) -> float:
    """Wait until a server that was told to stop has ended well; return how long it took."""
    assert server.wait() == 0
    return time.monotonic() - begun_at


def test_running_parts_finish_and_are_stored(start_server: StartServer, content: Content) -> None:
    server = start_server(GRACEFUL_TIMEOUT_SECS=LONG_SECONDS)
    native = Native(server)
    data = content(4 * MIB)
    upload = native.init(size=len(data))
    parts = [data[at : at + MIB] for at in range(0, len(data), MIB)]
    connections = [
        begin_part(server, upload, part, piece[: 100 * KIB]) for part, piece in enumerate(parts)
    ]
    begun_at = time.monotonic()
    server.terminate()
    until_refused(server)
    for connection, piece in zip(connections, parts, strict=True):
        connection.send(piece[100 * KIB :])
    for connection in connections:
        with connection:
            assert connection.read().status == 200
            connection.wait_for_end()
    assert seconds_to_stop(server, begun_at) < LONG_SECONDS / 2
    server.start()
    assert stored_file(native, upload).read_bytes() == data


def test_a_part_that_is_too_slow_is_answered_503_before_the_kill(
    ending: Server, content: Content
) -> None:
    native = Native(ending)
    data = content(MIB)
    upload = native.init(size=MIB)
    stopped = threading.Event()
    with begin_part(ending, upload, 0, data[:1000]) as connection:
        begun_at = time.monotonic()
        ending.terminate()

        def drip() -> None:
            at = 1000
            while not stopped.wait(0.1):  # the client's pace
                connection.send(data[at : at + 100])
                at += 100

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            answer = connection.read()
        finally:
            stopped.set()
            dripping.join()
        answered_after = time.monotonic() - begun_at
        assert (answer.status, answer.json["code"]) == (503, "shutting_down")
        assert "retry-after" in answer.headers
        assert PARTS_SECONDS <= answered_after < GRACEFUL_SECONDS - 2
    assert seconds_to_stop(ending, begun_at) < GRACEFUL_SECONDS + 2
    ending.start()
    native.put(upload, 0, data)
    assert stored_file(native, upload).read_bytes() == data


def until_refused(server: Server) -> None:
    """Wait until a server that was told to stop accepts no connection any more."""

    def refused() -> bool:
        try:
            Connection(server).close()
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        return False

    until(refused)


def test_nothing_new_begins_on_connections_that_are_open(
    start_server: StartServer, content: Content
) -> None:
    server = start_server()
    native = Native(server)
    data = content(2 * MIB)
    upload = native.init(size=len(data))
    with begin_part(server, upload, 0, data[:1000]) as connection:
        server.terminate()
        until_refused(server)
        connection.send(data[1000:MIB], put_head(upload, 1), data[MIB:])
        assert connection.read().status == 200
        # Pipelined, so it may be served once more; then the connection is ended.
        try:
            assert connection.read().status in (200, 503)
            connection.wait_for_end()
        except ConnectionError:
            pass  # or not at all
    assert server.wait() == 0


def test_idle_connections_do_not_hold_the_server_up(
    start_server: StartServer, content: Content
) -> None:
    """Kept alive after a request, just opened, or in the middle of a head."""
    server = start_server(GRACEFUL_TIMEOUT_SECS=LONG_SECONDS)
    native = Native(server)
    upload = native.init(size=MIB)
    connections = [Connection(server) for _ in range(12)]
    for connection in connections[:6]:
        connection.send(status_head(upload))
        assert connection.read().status == 200
    for connection in connections[6:9]:
        connection.send(status_head(upload)[:20])
    started_at = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started_at < LONG_SECONDS / 2
    for connection in connections:
        with connection:
            connection.wait_for_end()


def test_a_connection_that_becomes_idle_while_the_server_stops_does_not_hold_it_up(
    start_server: StartServer, content: Content
) -> None:
    server = start_server(GRACEFUL_TIMEOUT_SECS=LONG_SECONDS)
    native = Native(server)
    data = content(MIB)
    upload = native.init(size=MIB)
    with begin_part(server, upload, 0, data[:1000]) as connection:
        started_at = time.monotonic()
        server.terminate()
        until_refused(server)
        connection.send(data[1000:])
        assert connection.read().status == 200
        connection.wait_for_end()
        assert server.wait() == 0
    assert time.monotonic() - started_at < LONG_SECONDS / 2


def test_jobs_claim_nothing_more(ending: Server, content: Content) -> None:
    native = Native(ending)
    data = content(MIB)
    upload, slow = native.init(size=MIB), native.init(size=MIB)
    native.put(upload, 0, data)
    with begin_part(ending, slow, 0, data[:1000]) as connection:
        ending.terminate()
        until_refused(ending)
        # As another node of the same ledger would queue it; due at once.
        with sqlite3.connect(ending.database) as ledger:
            ledger.execute(
                "UPDATE uploads SET state = 'finalizing', due_at_ms = 0 WHERE id = ?", (upload.id,)
            )
        ledger.close()
        # Jobs look every second, and the slow part keeps the server for longer.
        assert connection.read().status == 503
    ending.wait()
    state = ask_ledger(ending, "SELECT state FROM uploads WHERE id = ?", upload.id)
    assert state == [("finalizing",)]
    ending.start()
    assert stored_file(native, upload).read_bytes() == data


def test_replacing_the_workers_under_load_fails_no_request(
    start_server: StartServer, content: Content
) -> None:
    """SIGHUP: connections kept alive are told to close in an answer, not dropped between two."""
    server = start_server(WORKERS=2)
    before = set(server.worker_pids())
    replaced = threading.Event()
    uploaded = []

    def upload_files() -> None:
        native = Native(server)
        while not replaced.is_set():
            data = content(MIB + 1)
            upload = native.init(size=len(data))
            native.put_all(upload, data)
            assert stored_file(native, upload).read_bytes() == data
            uploaded.append(upload)

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(upload_files) for _ in range(4)]

        def eight_more() -> None:
            wanted = len(uploaded) + 8
            until(lambda: len(uploaded) >= wanted or any(client.done() for client in clients))

        try:
            eight_more()
            os.kill(master_pid(server), signal.SIGHUP)
            until(lambda: len(after := set(server.worker_pids())) == 2 and not before & after)
            eight_more()
        finally:
            replaced.set()
    for client in clients:
        client.result()
