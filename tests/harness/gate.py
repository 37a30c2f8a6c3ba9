"""A network between a client and a server that a test has in its hands.

It forwards connections, and lets clients send only as many bytes of bodies as the
test allows: so a test stops an upload in its middle without a clock. Requests
without a body, or with a small one, always pass.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.listener import Listener, end

#: Small, so that it stops close to where it is told to.
_READ_BYTES = 64 * 1024

#: What is shorter is taken for a request without a large body.
_BODY_BYTES = 16 * 1024

#: For the slowest machine; whoever waits longer waits in vain.
PATIENCE_SECONDS = 60


class Gate:
    """Forwards ``url`` to a server's port."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._changed = threading.Condition()
        self._allowed: int | None = None
        self._connections: set[socket.socket] = set()
        self._held = 0
        self._cuts = 0
        self._listener = Listener(self._serve)
        self.port = self._listener.port
        self.url = self._listener.url  # as clients behind the gate have it

    def allow(self, count: int | None) -> None:
        """Let clients send ``count`` more bytes and then hold them; None: all they want."""
        with self._changed:
            self._allowed = count
            self._changed.notify_all()

    def wait_until_held(self) -> None:
        """Wait until a client has bytes to send and may not."""
        with self._changed:
            held = self._changed.wait_for(lambda: self._held > 0, PATIENCE_SECONDS)
        assert held, "nobody had more to send than it was allowed"

    def cut(self) -> None:
        """End all connections, as a router that forgets them does."""
        with self._changed:
            self._cuts += 1
            self._changed.notify_all()
            for connection in self._connections:
                # Closed with a reset: a browser that still sends does not look for less.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end(connection)

    def close(self) -> None:
        """End it all."""
        self._listener.close()
        self.cut()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, timeout=PATIENCE_SECONDS)
        except OSError:  # it is down
            client.close()
            return
        server.settimeout(None)
        with self._known(client, server):
            answers = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            answers.start()
            self._pump(client, server, metered=True)
            answers.join()

    @contextmanager
    def _known(self, *connections: socket.socket) -> Iterator[None]:
        with self._changed:
            self._connections.update(connections)
        try:
            yield
        finally:
            with self._changed:
                self._connections.difference_update(connections)
            for connection in connections:
                connection.close()

    def _pump(self, source: socket.socket, sink: socket.socket, metered: bool = False) -> None:
        try:
            while data := source.recv(_READ_BYTES):
                if metered and len(data) >= _BODY_BYTES:
                    self._take(len(data))
                sink.sendall(data)
        except OSError:  # either side has gone
            pass
        # Whoever sends no more has gone: browsers do not close half a connection.
        end(source)
        end(sink)

    def _may_pass(self, count: int) -> bool:
        return self._allowed is None or self._allowed >= count

    def _take(self, count: int) -> None:
        with self._changed:
            if not self._may_pass(count):
                cuts = self._cuts
                self._held += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._cuts > cuts or self._may_pass(count))
                self._held -= 1
                if self._cuts > cuts:
                    raise ConnectionError("cut")
            if self._allowed is not None:
                self._allowed -= count
