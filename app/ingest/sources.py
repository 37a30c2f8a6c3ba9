"""The two sources of body bytes: the socket itself, and ``wsgi.input``."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import gevent
import gevent.socket
from gevent import monkey
from gevent.event import Event
from gevent.queue import Queue
from gunicorn.http.errors import ParseException

from app.ingest.body import Body, WSGIEnvironment

#: The greenlet is woken when this many bytes wait in the kernel (or all that
#: remain): each wake-up costs a hand-over to a thread, so few large ones.
LOW_WATER_BYTES = 256 * 1024

#: Of libev and libuv: watch for bytes to read.
_READABLE = 1

#: What one read of ``wsgi.input`` asks for.
STREAM_READ_BYTES = 256 * 1024

#: Offset of tcpi_last_data_recv (milliseconds) in Linux's struct tcp_info:
#: eight bytes of flags, then the twelfth 32-bit counter (linux/tcp.h).
_TCPI_LAST_DATA_RECV_OFFSET = 8 + 4 * 11

# The native thread must not meet gevent's poll, which needs the hub.
_poll = monkey.get_original("select", "poll")


class SocketBody(Body):
    """A body of known length, read from the plain TCP socket under gunicorn's parser."""

    def __init__(self, sock: gevent.socket.socket, wsgi_input: Any, length: int) -> None:
        super().__init__(length)
        self._socket = sock
        self._fd = sock.fileno()
        self._input = wsgi_input
        self._length_reader = wsgi_input.reader
        unreader = self._length_reader.unreader
        ahead = unreader.take_buffered()
        if len(ahead) > length:  # a pipelined request follows the body
            unreader.unread(ahead[length:])
        self._ahead = memoryview(ahead[:length])
        self._low_water = 1
        self._slow = False
        self._readable = gevent.get_hub().loop.io(self._fd, _READABLE)
        self._stirred = Event()
        self._last_byte_at = time.monotonic()

    @property
    def ended(self) -> bool:
        return self.received == self.length

    @property
    def _remaining(self) -> int:
        assert self.length is not None
        return self.length - self.received

    def wait(self, timeout_seconds: float) -> None:
        if self._ahead:
            return
        self._set_low_water(min(LOW_WATER_BYTES, self._remaining))
        self._stirred.clear()
        self._readable.start(self._stirred.set)
        try:
            # Without a stir, fewer bytes than the mark may still have come: they are taken.
            self._slow = not self._stirred.wait(timeout_seconds)
        finally:
            self._readable.stop()

    def wake(self) -> None:
        self._stirred.set()

    def take(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), self._remaining)
        if self._ahead:
            count = min(wanted, len(self._ahead))
            buffer[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
        else:
            try:
                count = os.readv(self._fd, [buffer[:wanted]])
            except BlockingIOError:
                return 0
            except OSError:  # reset by the peer
                count = 0
            if count == 0:
                self.cut = True
                return 0
        self.received += count
        self._last_byte_at = time.monotonic()
        return count

    def more_within(self, milliseconds: int) -> bool:
        if self._slow:
            return False  # a thousand slow clients a second would keep all threads waiting
        # The mark holds for poll too: near its end a body would never reach it.
        self._set_low_water(min(LOW_WATER_BYTES, self._remaining))
        poll = _poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(milliseconds))

    def idle_seconds(self) -> float:
        return time.monotonic() - self._last_byte_at

    def close(self) -> None:
        self._readable.close()
        # Tells gunicorn's length reader what is left; it must never wait for
        # bytes of this body that we have taken behind its back.
        self._length_reader.length = self._remaining
        if not self.ended:
            self._input.failed = True
        if not self.cut:
            self._set_low_water(1)

    def _set_low_water(self, low_water_bytes: int) -> None:
        if low_water_bytes != self._low_water:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, low_water_bytes)
            except OSError:
                self.cut = True
            self._low_water = low_water_bytes


class StreamBody(Body):
    """A body read through ``wsgi.input`` by a greenlet of its own, one piece ahead.

    The extra greenlet is what lets the pump look at clocks and stop flags while
    a read blocks.
    """

    def __init__(self, environ: WSGIEnvironment, length: int | None) -> None:
        super().__init__(length)
        self._input = environ["wsgi.input"]
        self._socket = environ.get("gunicorn.socket")
        self._pieces: Queue[bytes] = Queue(maxsize=1)
        self._stirred = Event()
        self._piece = memoryview(b"")
        self._finished = False
        self._reader: gevent.Greenlet[[], None] | None = None
        self._last_piece_at = time.monotonic()

    @property
    def ended(self) -> bool:
        return self._finished and not self._piece and not self.cut

    def wait(self, timeout_seconds: float) -> None:
        if self._piece or self._finished:
            return
        if self._reader is None:
            self._reader = gevent.spawn(self._read_ahead)
        if self._pieces.empty():
            self._stirred.clear()
            self._stirred.wait(timeout_seconds)
        if self._pieces.empty():
            return
        piece = self._pieces.get()
        if piece:
            self._piece = memoryview(piece)
            self._last_piece_at = time.monotonic()
        else:
            self._finished = True
            short = self.length is not None and self.received < self.length
            self.cut = self.cut or short

    def wake(self) -> None:
        self._stirred.set()

    @property
    def trailers(self) -> Mapping[str, str]:
        """See Body. gunicorn parses trailers and keeps them with its own request."""
        request = getattr(getattr(self._input, "reader", None), "req", None)
        return {name.lower(): value for name, value in getattr(request, "trailers", ())}

    def take(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self.received += count
        return count

    def more_within(self, milliseconds: int) -> bool:
        return bool(self._piece)

    def idle_seconds(self) -> float:
        since_piece = time.monotonic() - self._last_piece_at
        return min(since_piece, _socket_idle_seconds(self._socket, since_piece))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.kill()
        if not self.ended and hasattr(self._input, "failed"):
            self._input.failed = True

    def _read_ahead(self) -> None:
        left = self.length
        piece = b"?"
        while piece:
            wanted = STREAM_READ_BYTES if left is None else min(STREAM_READ_BYTES, left)
            try:
                piece = self._input.read(wanted) if wanted else b""
            except (ParseException, OSError):  # the framing is broken, or the connection
                self.cut, piece = True, b""
            if left is not None:
                left -= len(piece)
            self._pieces.put(piece)
            self._stirred.set()


def _socket_idle_seconds(sock: Any, otherwise: float) -> float:
    """Ask the kernel when the last byte came; ``otherwise`` where it cannot tell (not Linux)."""
    tcp_info = getattr(socket, "TCP_INFO", None)
    if sock is None or tcp_info is None:
        return otherwise
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, tcp_info, _TCPI_LAST_DATA_RECV_OFFSET + 4)
    except OSError:
        return otherwise
    (milliseconds,) = struct.unpack_from("=I", raw, _TCPI_LAST_DATA_RECV_OFFSET)
    return float(milliseconds) / 1000
