"""The socket under a connection: the system's own, also where gevent has replaced it."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence

from gevent import monkey

from app.errors import StorageUnavailable

#: A connection on which nothing happens is tried after this long (seconds), and
#: given up after as many tries: a router may have forgotten it.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}

_plain_socket = monkey.get_original("socket", "socket")
_plain_getaddrinfo = monkey.get_original("socket", "getaddrinfo")


def connect(host: str, port: int, timeout_seconds: float) -> socket.socket:
    """Return a socket that is connected. Raises StorageUnavailable."""
    problem: Exception | None = None
    try:
        addresses = _plain_getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StorageUnavailable("The name in SMB_HOST cannot be resolved") from error
    for family, kind, protocol, _, address in addresses:
        sock: socket.socket = _plain_socket(family, kind, protocol)
        sock.settimeout(timeout_seconds)
        try:
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # macOS lacks the first
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return sock
    raise StorageUnavailable(
        "The SMB server cannot be reached: does it run, and are SMB_HOST and SMB_PORT right?"
    ) from problem


def bound_calls(sock: socket.socket, timeout_seconds: float) -> None:
    """Let calls that block raise BlockingIOError after so long.

    By the kernel: a timeout of Python's costs a poll with each call.
    """
    sock.settimeout(None)
    limit = struct.pack("ll", int(timeout_seconds), int(timeout_seconds % 1 * 1_000_000))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)


def send_all(sock: socket.socket, pieces: Sequence[memoryview]) -> None:
    """Send all pieces, one after the other. Raises BlockingIOError when the timeout is over."""
    left = list(pieces)
    while left:
        sent = sock.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def is_quiet(sock: socket.socket) -> bool:
    """Tell whether there is nothing to read, not even the connection's end."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def reset(sock: socket.socket) -> None:
    """Close a socket; what has not been sent yet is dropped, and the peer told by a reset."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
