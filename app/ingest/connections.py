"""The open connections of a gunicorn worker: how those end that would stay for nothing.

gunicorn's gevent worker stops once no connection is open. One that is kept alive
between two requests, or has not sent a whole head yet, counts as open for as
long as gunicorn's keepalive: longer than the graceful timeout, so that any
client with a connection pool would have the worker killed instead of ended.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

#: How long a connection may go on waiting when the worker stops. Clients that
#: send one request after the other are answered with ``Connection: close``
#: meanwhile, and connections accepted last get to send a head.
PATIENCE_SECONDS = 1.0

_LOOK_SECONDS = 0.1

_plain_socket = monkey.get_original("socket", "socket")


class Connections:
    """Knows which connections of a worker wait for a request, and since when.

    A client that takes nothing of an answer for ``send_timeout_seconds`` loses
    its connection: it would hold its greenlet and the answer for ever.
    """

    def __init__(self, send_timeout_seconds: float) -> None:
        self._send_timeout_milliseconds = int(send_timeout_seconds * 1000)
        self._waiting: dict[socket.socket, float] = {}
        self._listeners: dict[socket.socket, _Listener] = {}

    def watch(self, worker: Any) -> None:
        """Watch the connections of gunicorn's async ``worker``, which must not serve yet."""
        self._listeners = {listener: _Listener(listener) for listener in worker.sockets}
        worker.handle = self._watched(worker.handle)
        worker.handle_request = self._busy(worker.handle_request)

    def end_waiting(self) -> None:
        """Begin to end connections that wait for a request. Safe in a signal handler."""
        gevent.spawn(self._end_waiting)

    def _end_waiting(self) -> None:
        while True:  # until the worker exits
            now = time.monotonic()
            for connection, since in list(self._waiting.items()):
                if now - since >= PATIENCE_SECONDS:
                    _stop_reading(connection)
            gevent.sleep(_LOOK_SECONDS)

    def _watched(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        def watched(listener: Any, connection: socket.socket, address: Any) -> Any:
            self._waiting[connection] = time.monotonic()
            self._bound_sending(connection)
            try:
                return handle(self._listeners[listener], connection, address)
            finally:
                self._waiting.pop(connection, None)

        return watched

    def _bound_sending(self, connection: socket.socket) -> None:
        """Have the kernel end a connection whose peer is gone or keeps its window shut (tcp(7))."""
        option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it
        if option is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, option, self._send_timeout_milliseconds)

    def _busy(self, handle_request: Callable[..., Any]) -> Callable[..., Any]:
        def busy(listener: Any, request: Any, connection: socket.socket, address: Any) -> Any:
            self._waiting.pop(connection, None)
            try:
                return handle_request(listener, request, connection, address)
            except TimeoutError as error:  # the kernel has ended it; gunicorn takes that for a bug
                raise ConnectionResetError(errno.ECONNRESET, "the client takes nothing") from error
            finally:
                self._waiting[connection] = time.monotonic()

        return busy


class _Listener:
    """Tells gunicorn the address of a listening socket, after that was closed, too.

    It asks once a connection's greenlet runs. A worker that is told to stop may have
    closed the socket since it accepted, and the client would be dropped unheard.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._address = listener.getsockname()

    def getsockname(self) -> Any:
        return self._address


def _stop_reading(connection: socket.socket) -> None:
    """Let the next read that finds nothing see the connection's end; what has come is read.

    On a descriptor of its own: gevent's ``shutdown`` would raise an error in the
    greenlet that reads, which gunicorn logs as a bug.
    """
    with contextlib.suppress(OSError):  # closed meanwhile
        with contextlib.closing(_plain_socket(fileno=os.dup(connection.fileno()))) as same:
            same.shutdown(socket.SHUT_RD)
