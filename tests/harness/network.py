"""A network between client and server that stands still or breaks where a test says."""

from __future__ import annotations

import array
import fcntl
import select
import socket
import termios
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from tests.harness.listener import Listener
from tests.harness.native import cut

#: Longer than any wait within a test, so that a hang is a failure of the test.
PATIENCE_SECONDS = 60

_PIECE_BYTES = 64 * 1024
_LOOK_MILLISECONDS = 20
_ENDED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


@dataclass
class _Plan:
    """What happens to the connection that carries the last of ``left`` bytes."""

    left: int
    cut_by: str | None = None
    refusing_then: bool = False
    silent: bool = False
    happened: threading.Event = field(default_factory=threading.Event)


class Network:
    """Forwards TCP connections to a port of the loopback.

    Something is to happen after so many bytes: those that clients send, heads and
    bodies of all connections together, from the call on.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._lock = threading.Lock()
        self._plan: _Plan | None = None
        self._refusing = False
        self._released = threading.Event()
        self._closed = threading.Event()
        self._listener = Listener(self._serve)
        self.port = self._listener.port
        self.url = self._listener.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._released.set()
        self._listener.close()
        self._listener.join()

    def hold_after(self, count: int, *, silent: bool = False) -> None:
        """Let so many bytes pass; the connection stands still then, until ``release``.

        Others go on. If its client ends it, the server is told so, unless ``silent``:
        then the client has gone as a laptop does that falls asleep.
        """
        self._arm(_Plan(count, silent=silent))

    def cut_after(self, count: int, how: str = "rst", *, refusing: bool = False) -> None:
        """Let so many bytes pass, then end the connection by ``fin`` or ``rst``.

        ``refusing``: let no new one come about either, until ``release``.
        """
        self._arm(_Plan(count, cut_by=how, refusing_then=refusing))

    def _arm(self, plan: _Plan) -> None:
        with self._lock:
            self._released.clear()
            self._plan = self._waited_for = plan

    def wait(self) -> None:
        """Wait until so many bytes have passed and what was to happen then has happened."""
        assert self._waited_for.happened.wait(PATIENCE_SECONDS), "so many bytes were never sent"

    def release(self) -> None:
        """Let everything pass again."""
        with self._lock:
            self._plan, self._refusing = None, False
        self._released.set()

    def _serve(self, client: socket.socket) -> None:
        server = None if self._refusing else self._connect()
        if server is None:
            cut(client, "rst")
            return
        for sock in (client, server):
            sock.settimeout(None)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._forward(client, server)

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", self._server_port), PATIENCE_SECONDS)
        except ConnectionRefusedError:
            return None

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        """Carry bytes both ways until a side ends the connection, or it is cut."""
        how = "fin"
        poll = select.poll()
        for sock in (client, server):
            poll.register(sock, select.POLLIN | _ENDED)
        try:
            while not self._closed.is_set():
                for descriptor, _ in poll.poll(_LOOK_MILLISECONDS):
                    if descriptor == client.fileno():
                        going_on = self._carry_to_server(client, server)
                    else:
                        going_on = _carry(server, client, _PIECE_BYTES) > 0
                    if not going_on:
                        return
        except _Cut as ordered:
            how = ordered.how
        except OSError:
            how = "rst"
        finally:
            cut(client, how)
            cut(server, how)

    def _carry_to_server(self, client: socket.socket, server: socket.socket) -> bool:
        """Carry what the client has sent as far as it may pass; False if it has ended."""
        with self._lock:
            plan = self._plan
            if plan is None or plan.left:
                count = _carry(
                    client, server, min(plan.left, _PIECE_BYTES) if plan else _PIECE_BYTES
                )
                if plan is not None:
                    plan.left -= count
                return count > 0
            self._plan, self._refusing = None, plan.refusing_then
        _wait_until_delivered(server)
        plan.happened.set()
        if plan.cut_by:
            raise _Cut(plan.cut_by)
        return self._stand_still(client, server, silent=plan.silent)

    def _stand_still(self, client: socket.socket, server: socket.socket, *, silent: bool) -> bool:
        """Wait until the network is released (True) or a side has ended (False).

        What the client sends meanwhile is kept for later: its end comes behind that.
        """
        kept = bytearray()
        poll = select.poll()
        poll.register(server, _ENDED)
        if not silent:
            poll.register(client, select.POLLIN | _ENDED)
        while not self._released.is_set():
            for descriptor, _ in poll.poll(_LOOK_MILLISECONDS):
                data = b"" if descriptor == server.fileno() else client.recv(_PIECE_BYTES)
                if not data:
                    return False
                kept += data
        server.sendall(kept)
        return True


class _Cut(Exception):
    """This connection is to be ended now."""

    def __init__(self, how: str) -> None:
        self.how = how


def _carry(source: socket.socket, target: socket.socket, limit: int) -> int:
    data = source.recv(limit)
    target.sendall(data)
    return len(data)


def _wait_until_delivered(sock: socket.socket) -> None:
    """Wait until the other side has what was sent: an RST discards the rest."""
    unsent = array.array("i", [1])
    while unsent[0]:
        fcntl.ioctl(sock, termios.TIOCOUTQ, unsent)  # SIOCOUTQ of tcp(7)
        time.sleep(_LOOK_MILLISECONDS / 1000)
