"""A proxy on the loopback that damages what goes through it."""

from __future__ import annotations

import contextlib
import socket
import threading


class DamagingProxy:
    """Passes connections on to a port; what clients send is damaged where it holds ``marker``.

    ``damaged`` counts how often that was.
    """

    def __init__(self, port: int, marker: bytes) -> None:
        self._target = port
        self._marker = marker
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self.damaged = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """The server behind the proxy, by way of it."""
        return f"http://127.0.0.1:{self.port}"

    def heal(self) -> None:
        """Damage nothing any more."""
        self._marker = b""

    def close(self) -> None:
        """End all connections."""
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for pass_on in (
                    lambda c=client, s=server: self._damage(c, s),
                    lambda c=client, s=server: self._pass(s, c),
                ):
                    threading.Thread(target=pass_on, daemon=True).start()

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
