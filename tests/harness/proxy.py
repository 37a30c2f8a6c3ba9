"""A proxy on the loopback that damages what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.harness.listener import Listener, end


class DamagingProxy:
    """Passes connections on to a port; what clients send is damaged where it holds ``marker``.

    ``damaged`` counts how often that was.
    """

    def __init__(self, port: int, marker: bytes) -> None:
        self._target = port
        self._marker = marker
        self._open: list[socket.socket] = []
        self.damaged = 0
        self._listener = Listener(self._serve)
        self.port = self._listener.port
        self.url = self._listener.url  # the server behind the proxy, by way of it

    def heal(self) -> None:
        """Damage nothing any more."""
        self._marker = b""

    def close(self) -> None:
        """End all connections."""
        self._listener.close()
        for sock in self._open:
            end(sock)
            sock.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:  # it is down
            client.close()
            return
        self._open += [client, server]
        threading.Thread(target=self._damage, args=(client, server), daemon=True).start()
        self._pass(server, client)

    def _damage(self, source: socket.socket, target: socket.socket) -> None:
        """Pass bytes on, holding back what may be the beginning of the marker."""
        held = b""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                data = held + data
                if self._marker and self._marker in data:
                    self.damaged += 1
                    data = data.replace(self._marker, bytes(len(self._marker)))
                kept = self._begun(data)
                held = data[len(data) - kept :]
                target.sendall(data[: len(data) - kept])
            target.sendall(held)
            target.shutdown(socket.SHUT_WR)

    def _begun(self, data: bytes) -> int:
        longest = min(len(self._marker) - 1, len(data))
        lengths = range(longest, 0, -1)
        return next((n for n in lengths if data.endswith(self._marker[:n])), 0)

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
