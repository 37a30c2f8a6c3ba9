"""An HTTP server that discards bodies in the kernel: ``python -m bench.sink PORT``.

A thread a connection. ``MSG_TRUNC`` drops received bytes without copying them
(tcp(7)), so this costs less than any receiver that has to look at them.
"""

from __future__ import annotations

import socket
import sys
import threading

_DISCARD_BYTES = 4 * 1024 * 1024
_RESPONSE = b"HTTP/1.1 204 No Content\r\n\r\n"


def discard_requests(connection: socket.socket) -> None:
    """Answer every request on a keep-alive connection with 204 until the client closes it."""
    # Never filled: with MSG_TRUNC only its size counts.
    buffer = bytearray(_DISCARD_BYTES)
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            data = connection.recv(65536)
            if not data:
                return
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        left = length - len(body)
        while left > 0:
            count = connection.recv_into(buffer, min(left, _DISCARD_BYTES), socket.MSG_TRUNC)
            if not count:
                return
            left -= count
        received = b""
        connection.sendall(_RESPONSE)


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=discard_requests, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
