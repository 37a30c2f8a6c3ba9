"""A network in front of an SMB server that holds back the one request a test names.

A frame is four bytes of length and a message (MS-SMB2 2.1), encrypted or not: what is
in it is not looked at.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Self

from tests.harness.listener import Listener, end

PATIENCE_SECONDS = 60
_LENGTH_BYTES = 4
_PIECE_BYTES = 64 * 1024


class Frames:
    """Forwards connections to a port of the loopback, frame by frame towards the server.

    While nobody listens there it ends them. ``attempts``: when each came (monotonic).
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._changed = threading.Condition()
        self._left: int | None = None  # frames that may still pass
        self._held = 0
        self._connections: set[socket.socket] = set()
        self.attempts: list[float] = []
        self._listener = Listener(self._serve)
        self.port = self._listener.port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def hold_after(self, count: int) -> None:
        """Let ``count`` more requests pass; those behind them wait until they are cut off."""
        with self._changed:
            self._left = count

    def is_held(self) -> bool:
        """Tell whether a request waits."""
        with self._changed:
            return self._held > 0

    def cut(self) -> None:
        """End all connections, with what waits there; new ones pass everything."""
        with self._changed:
            self._left = None
            for connection in self._connections:
                end(connection)
            self._connections.clear()
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: not self._held, PATIENCE_SECONDS)

    def _serve(self, client: socket.socket) -> None:
        self.attempts.append(time.monotonic())
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
        except ConnectionRefusedError:
            client.close()
            return
        with client, server:
            with self._changed:
                self._connections.update((client, server))
            answers = threading.Thread(target=self._carry_answers, args=(client, server))
            answers.start()
            self._carry_requests(client, server)
            answers.join()
            with self._changed:
                self._connections.difference_update((client, server))

    def _carry_requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a side has gone
            while head := client.recv(_LENGTH_BYTES, socket.MSG_WAITALL):
                frame = head + client.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
                if not self._may_pass(client):
                    break
                server.sendall(frame)
        end(server)

    def _carry_answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a side has gone
            while data := server.recv(_PIECE_BYTES):
                client.sendall(data)
        end(client)

    def _may_pass(self, client: socket.socket) -> bool:
        """Count a frame; if it may not pass, wait until its connection is cut, and tell so."""
        with self._changed:
            if self._left is None:
                return True
            if self._left:
                self._left -= 1
                return True
            self._held += 1
            self._changed.wait_for(lambda: client not in self._connections, PATIENCE_SECONDS)
            self._held -= 1
            self._changed.notify_all()
            return False
