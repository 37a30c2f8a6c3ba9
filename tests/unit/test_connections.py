"""Connections of a worker that was told to stop."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from app.ingest.connections import Connections


def test_a_connection_accepted_before_the_listener_closed_is_served() -> None:
    addresses: list[Any] = []

    def handle(listener: Any, connection: socket.socket, address: Any) -> None:
        addresses.append(listener.getsockname())  # as gunicorn does once the greenlet runs

    listener = socket.create_server(("127.0.0.1", 0))
    listening_at = listener.getsockname()
    worker = SimpleNamespace(handle=handle, handle_request=None, sockets=[listener])
    Connections(1.0).watch(worker)
    with socket.create_connection(listening_at):
        accepted, address = listener.accept()
        listener.close()
        with accepted:
            worker.handle(listener, accepted, address)
    assert addresses == [listening_at]
