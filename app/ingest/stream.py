"""Bodies that are read through ``wsgi.input``: chunked ones, TLS inside gunicorn, other servers.

What has arrived is handed out at once, though gunicorn's own ``read`` would wait
until it has as much as was asked for: an append keeps what came before a cut.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent
from gevent.event import Event
from gunicorn.http.body import Body as GunicornBody
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import ParseException

from app.ingest.body import Body, WSGIEnvironment

#: Read ahead while a native thread is busy with what came before.
AHEAD_BYTES = 256 * 1024

#: Offset of tcpi_last_data_recv (milliseconds) in Linux's struct tcp_info:
#: eight bytes of flags, then the twelfth 32-bit counter (linux/tcp.h).
_TCPI_LAST_DATA_RECV_OFFSET = 8 + 4 * 11


class StreamBody(Body):
    """A body read by a greenlet of its own, a little ahead of who takes it.

    The extra greenlet is what lets the pump look at clocks and stop flags while
    a read blocks.
    """

    def __init__(self, environ: WSGIEnvironment, length: int | None) -> None:
        super().__init__(length)
        self._input = environ["wsgi.input"]
        self._socket = environ.get("gunicorn.socket")
        self._ahead: list[bytes] = []
        self._ahead_bytes = 0
        self._all_read = False
        self._broken = False
        self._stirred = Event()
        self._has_room = Event()
        self._taken = memoryview(b"")
        self._finished = False
        self._reader: gevent.Greenlet[[], None] | None = None
        self._last_arrival_at = time.monotonic()

    @property
    def ended(self) -> bool:
        return self._finished and not self._taken and not self.cut

    @property
    def trailers(self) -> Mapping[str, str]:
        """See Body. gunicorn parses trailers and keeps them with its own request."""
        request = getattr(getattr(self._input, "reader", None), "req", None)
        return {name.lower(): value for name, value in getattr(request, "trailers", ())}

    def wait(self, timeout_seconds: float) -> None:
        if self._taken or self._finished:
            return
        if self._reader is None:
            self._reader = gevent.spawn(self._read_ahead)
        if not (self._ahead or self._all_read):
            self._stirred.clear()
            self._stirred.wait(timeout_seconds)
        if self._ahead:
            self._taken = memoryview(b"".join(self._ahead))
            self._ahead.clear()
            self._ahead_bytes = 0
            self._has_room.set()
        elif self._all_read:
            self._finished = True
            short = self.length is not None and self.received < self.length
            self.cut = self._broken or short

    def wake(self) -> None:
        self._stirred.set()

    def take(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._taken))
        buffer[:count] = self._taken[:count]
        self._taken = self._taken[count:]
        self.received += count
        return count

    def more_within(self, milliseconds: int) -> bool:
        return bool(self._taken)

    def idle_seconds(self) -> float:
        since_arrival = time.monotonic() - self._last_arrival_at
        return min(since_arrival, _socket_idle_seconds(self._socket, since_arrival))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.kill()
        if not self.ended and hasattr(self._input, "failed"):
            self._input.failed = True

    def _read_ahead(self) -> None:
        read_some = _reading(self._input, self.length)
        try:
            while piece := read_some():
                self._ahead.append(piece)
                self._ahead_bytes += len(piece)
                self._last_arrival_at = time.monotonic()
                self._stirred.set()
                while self._ahead_bytes >= AHEAD_BYTES:
                    self._has_room.clear()
                    self._has_room.wait()
        except (ParseException, OSError):  # the framing is broken, or the connection
            self._broken = True
        self._all_read = True
        self._stirred.set()


def _reading(wsgi_input: Any, length: int | None) -> Callable[[], bytes]:
    """Return what reads the next bytes that arrive; it returns none at the body's end.

    It raises ParseException or OSError where the body breaks off.
    """
    reader = wsgi_input.reader if type(wsgi_input) is GunicornBody else None
    if type(reader) is ChunkedReader and reader.parser is not None:
        return lambda: next(reader.parser, b"")  # type: ignore[arg-type]
    if type(reader) is LengthReader:
        return lambda: _read_length(reader)
    return _read_stream(wsgi_input, length)


def _read_length(reader: Any) -> bytes:
    """Read what has arrived of a body of known length; the next request stays where it is."""
    if not reader.length:
        return b""
    data: bytes = reader.unreader.read(None, read_ahead=min(reader.length, AHEAD_BYTES))
    own, following = data[: reader.length], data[reader.length :]
    if following:
        reader.unreader.unread(following)
    reader.length -= len(own)
    return own


def _read_stream(wsgi_input: Any, length: int | None) -> Callable[[], bytes]:
    left = length

    def read_some() -> bytes:
        nonlocal left
        wanted = AHEAD_BYTES if left is None else min(AHEAD_BYTES, left)
        piece: bytes = wsgi_input.read(wanted) if wanted else b""
        if left is not None:
            left -= len(piece)
        return piece

    return read_some


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
