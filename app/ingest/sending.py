"""Sending files: the pump's mirror image, disk → socket by native threads.

On gunicorn over plain TCP a file with a descriptor goes by ``sendfile``, without
a copy: the greenlet waits until the socket takes bytes (thousands of slow
readers cost nothing), then a native thread gives it what it takes. A file that
is Python code (SMB, S3) is read there piece by piece, and the greenlet sends.
Everything else - TLS inside gunicorn, another WSGI server, the test client -
gets the pieces through WSGI. Which way was taken is counted: a live test proves
by it that the fast one is in use.

A file may still grow; its ``Supply`` tells how far it can be read. What is not
sent whole must not look whole: the connection is broken off.

A client that takes nothing at all is not this module's business: the kernel
ends its connection (``ingest.connections``).
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, Protocol

import structlog

from app import metrics
from app.errors import LonghaulError, ShuttingDown
from app.ingest.body import WSGIEnvironment
from app.ingest.channel import (
    Channel,
    ClientGone,
    FileTooShort,
    has_hung_up,
    plain_socket,
    read_at,
)
from app.ingest.drain import Drain
from app.ingest.threads import send_pool

log = structlog.get_logger(__name__)

#: How often a reader that has all there is looks whether there is more.
GROWTH_LOOK_SECONDS = 0.25

#: A stopping server waits so long for a growing file that stands still: longer
#: than the time within which a running upload records what it has.
DRAIN_STALL_SECONDS = 6.0

#: Read, and handed to WSGI, at a time: a slow reader under TLS is looked after
#: once for each of the latter.
READ_BYTES = 1024 * 1024
STREAM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a file can be read now: to the byte ``until``; ``final``: it grows no more."""

    until: int
    final: bool


class Supply(Protocol):
    """A file to be sent. ``protocol`` is the upload's, for metrics; ``upload_id`` for the log."""

    file: BinaryIO
    upload_id: str
    protocol: str

    def reach(self) -> Reach:
        """Tell how far the file can be read; asked before every job and once a second.

        Raises LonghaulError if its reader is to be broken off.
        """

    def close(self) -> None:
        """Close the file."""


class FileSender:
    """The WSGI iterable of a file's bytes from ``start`` to ``end``, which closes it.

    ``end`` None: to the end of a file that may grow, without a Content-Length.
    The answer must have the status and headers that go with it.
    """

    def __init__(
        self, environ: WSGIEnvironment, supply: Supply, start: int, end: int | None, drain: Drain
    ) -> None:
        self._supply = supply
        self._position = self._start = start
        self._end = end
        self._drain = drain
        self._grew_at = self._began_at = time.monotonic()
        self._socket = environ.get("gunicorn.socket")
        version = environ.get("SERVER_PROTOCOL")
        self._chunked = end is None and version != "HTTP/1.0"
        self._ended_by_close = end is None and version == "HTTP/1.0"
        plain = plain_socket(environ)
        self._channel = None if plain is None else Channel(plain, supply.file)
        self._log = log.bind(upload_id=supply.upload_id, **structlog.contextvars.get_contextvars())
        self._outcome = "left"
        self._begun = False

    def __iter__(self) -> Iterator[bytes]:
        self._begun = True
        metrics.active_downloads.inc()
        metrics.downloads_total.labels(self._channel.way if self._channel else "wsgi").inc()
        try:
            self._reset_when_closed(self._ended_by_close)
            if self._channel is None:
                yield from self._pieces()
            else:
                yield b""  # gunicorn sends the head; what follows goes past it
                self._send(self._channel)
            self._reset_when_closed(False)
            self._outcome = "whole"
        except ClientGone:
            self._break_off("gone")
        except LonghaulError as error:
            self._break_off(error.code)
        except (FileTooShort, OSError) as error:
            self._log.error("download.unreadable", cause=str(error), at=self._position)
            self._break_off("unreadable")

    def close(self) -> None:
        """Close the file and note how it went."""
        self._supply.close()
        if not self._begun:
            return
        metrics.active_downloads.dec()
        self._log.info(
            "download",
            outcome=self._outcome,
            sent=self._position - self._start,
            milliseconds=round((time.monotonic() - self._began_at) * 1000),
        )

    def _send(self, channel: Channel) -> None:
        """Send everything through the socket, framed as gunicorn's headers have announced."""
        while (limit := self._limit()) > self._position:
            if self._chunked:  # RFC 9112 section 7.1
                self._frame(channel, b"%X\r\n" % (limit - self._position))
            while self._position < limit:
                self._look()
                self._moved(channel.send(self._position, limit - self._position))
            if self._chunked:
                self._frame(channel, b"\r\n")

    def _frame(self, channel: Channel, data: bytes) -> None:
        while data:
            self._look()
            data = data[channel.put(data) :]

    def _pieces(self) -> Iterator[bytes]:
        """Yield everything in pieces, which WSGI frames."""
        while (limit := self._limit()) > self._position:
            wanted = min(READ_BYTES, limit - self._position)
            data = send_pool.run(lambda: read_at(self._supply.file, self._position, wanted))  # noqa: B023
            if not data:
                raise FileTooShort
            for at in range(0, len(data), STREAM_BYTES):
                self._look()
                piece = data[at : at + STREAM_BYTES]
                yield piece
                self._moved(len(piece))

    def _limit(self) -> int:
        """Return up to where bytes can be sent now, waiting for some; the position at the end."""
        while True:
            reach = self._look()
            limit = reach.until if self._end is None else min(self._end, reach.until)
            if limit > self._position:
                return limit
            if self._position == self._end:
                return self._position
            if reach.final or limit < self._position:
                if self._end is None and limit == self._position:
                    return self._position
                raise FileTooShort
            self._wait_for_growth()

    def _look(self) -> Reach:
        if self._drain.downloads_must_stop:
            raise ShuttingDown
        return self._supply.reach()

    def _wait_for_growth(self) -> None:
        """Let a moment pass, unless the client has gone or nothing will come any more."""
        if has_hung_up(self._socket):
            raise ClientGone
        if self._drain.begun and time.monotonic() - self._grew_at > DRAIN_STALL_SECONDS:
            raise ShuttingDown
        time.sleep(GROWTH_LOOK_SECONDS)

    def _moved(self, count: int) -> None:
        if count:
            self._position += count
            self._grew_at = time.monotonic()
            metrics.sent_bytes_total.labels(self._supply.protocol).inc(count)

    def _reset_when_closed(self, reset: bool) -> None:
        """Where a connection's end is the file's: let it end badly, even if we are killed."""
        if self._ended_by_close and self._socket is not None:
            linger = struct.pack("ii", reset, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _break_off(self, outcome: str) -> NoReturn:
        """End the connection so that the client sees that something is missing."""
        self._outcome = outcome
        # gunicorn closes the connection at this error, without a word in the log.
        raise ConnectionResetError(errno.ECONNRESET, f"download broken off: {outcome}")
