"""Which worker takes a new connection; two servers on one listening socket stand for two."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket as gevent_socket

from app.ingest.accepting import FewestFirst, share_connections

WAIT_SECONDS = 30

#: Makes a worker with so many connections already.
MakeWorker = Callable[..., "Worker"]


class Worker:
    """What gunicorn's worker does with a listening socket, as far as it matters here."""

    def __init__(self, listener: socket.socket, size: int) -> None:
        self.cfg = SimpleNamespace(workers=2)
        self.open: list[Any] = []
        self.server_class: Any = None
        share_connections(self)
        shared = gevent_socket(listener.family, listener.type, fileno=listener.dup().detach())
        self.server: FewestFirst = self.server_class(
            shared, application=None, spawn=Pool(size), log=None, handler_class=None, environ={}
        )

    def handle(self, _listener: Any, connection: Any, _address: Any) -> None:
        self.open.append(connection)
        connection.sendall(b"!")
        while connection.recv(100):
            pass
        self.open.remove(connection)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
def worker(listener: socket.socket) -> Iterator[MakeWorker]:
    workers: list[Worker] = []

    def made(size: int = 2000) -> Worker:
        workers.append(Worker(listener, size))
        workers[-1].server.start()
        return workers[-1]

    with gevent.Timeout(WAIT_SECONDS):
        yield made
        for worker in workers:
            worker.server.stop(timeout=0)


@pytest.fixture
def connect(listener: socket.socket) -> Iterator[Callable[[], Any]]:
    """Connects, and waits until a worker has greeted."""
    clients = []

    def connected() -> Any:
        clients.append(client := gevent_socket())
        client.connect(listener.getsockname())
        assert client.recv(1) == b"!"
        return client

    yield connected
    for client in clients:
        client.close()


def test_a_connection_goes_to_the_worker_that_has_none(connect, worker) -> None:
    busy = worker()
    for _ in range(3):
        connect()
    assert len(busy.open) == 3
    idle = worker()
    connect()
    assert (len(busy.open), len(idle.open)) == (3, 1)


def test_connections_are_spread_over_workers_until_they_have_equally_many(connect, worker) -> None:
    first = worker()
    for _ in range(6):
        connect()
    second = worker()
    for _ in range(4):
        connect()
        gevent.sleep(0.01)  # longer than any patience: nobody is still waiting
    assert (len(first.open), len(second.open)) == (6, 4)


def test_a_worker_that_is_alone_takes_all(connect, worker) -> None:
    only = worker()
    clients = gevent.joinall([gevent.spawn(connect) for _ in range(300)])
    assert all(client.value for client in clients)
    assert len(only.open) == 300


def test_a_full_worker_takes_no_more_until_a_connection_ends(connect, worker) -> None:
    full = worker(size=2)
    first = connect()
    connect()
    third = gevent.spawn(connect)
    third.join(0.05)  # longer than any patience
    assert not third.ready()
    first.close()
    third.join()
    assert third.value
    assert len(full.open) == 2


def test_who_leaves_a_connection_to_others_and_is_stopped_meanwhile_takes_it_no_more(
    connect, listener, worker, monkeypatch
) -> None:
    stopped = worker()
    connect()
    left = []
    really_read = stopped.server.do_read
    monkeypatch.setattr(stopped.server, "do_read", lambda: left.append(really_read()))
    with gevent_socket() as client:
        client.connect(listener.getsockname())
        while not left:
            gevent.sleep(0)
        assert left == [None]
        stopped.server.close()
        gevent.sleep(0.02)  # longer than any patience
        assert len(stopped.open) == 1


def test_where_accepting_fails_it_is_tried_less_and_less_often(
    connect, listener, worker, monkeypatch
) -> None:
    """As without descriptors: who looks again at once would burn a core."""
    worker()
    connect()
    failures = []

    def fail(server: Any) -> None:
        failures.append(server.delay)
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(StreamServer, "do_read", fail)
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *_: None)  # prints them
    with gevent_socket() as client:
        client.connect(listener.getsockname())
        while len(failures) < 5:
            gevent.sleep(0.001)
    assert failures == sorted(failures)
    assert failures[-1] == 16 * failures[0]


def test_one_worker_alone_is_left_as_gunicorn_has_it() -> None:
    worker = SimpleNamespace(cfg=SimpleNamespace(workers=1), server_class=None)
    share_connections(worker)
    assert worker.server_class is None
    share_connections(several := SimpleNamespace(cfg=SimpleNamespace(workers=2)))
    assert isinstance(several.server_class, partial)
