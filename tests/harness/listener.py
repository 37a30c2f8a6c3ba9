"""Accepting connections, for whatever stands between a client and a server in a test."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Listener:
    """Accepts connections to a free port of the loopback, each served in a thread of its own."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """The base URL of what is behind it."""
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Accept no more; those that are being served are their server's business."""
        end(self._socket)  # which wakes accept()
        self._socket.close()

    def join(self) -> None:
        """Wait until nobody is served any more; after ``close``."""
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:  # closed
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()


def end(connection: socket.socket) -> None:
    """End a connection both ways, if it has not ended already."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
