"""How bytes of an outgoing request travel: to vetted addresses, on a clock.

Owns every socket operation of ``outbound.py`` and plugs into httpcore as its
network backend. ``VettedRoute`` connects to addresses that were judged before,
never to a name: TLS and the Host field still see the name, but DNS has no second
say. ``BoundedStream`` lets every wait end at one deadline. TLS runs over memory
buffers, because under gevent the timeouts of TLS sockets begin anew with each
byte, and a receiver that drips would be waited for without end.

Knows no URLs, no HTTP and nothing of who is called.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import httpcore

#: All that is read from a receiver: a certificate chain, the longest head that
#: httpcore accepts (100 KiB) and an excerpt of the body. Ends floods of 1xx.
MAX_RECEIVED_BYTES = 256 * 1024

#: One read from the socket, so that little more than an excerpt is taken in.
_READ_BYTES = 4096

_Result = TypeVar("_Result")


class DeadlinePassed(TimeoutError):
    """The request as a whole has taken too long."""


class Clock:
    """How long one request may go on, and how long it may wait at a time (seconds)."""

    def __init__(self, deadline_seconds: float, io_timeout_seconds: float) -> None:
        self._started_seconds = time.monotonic()
        self._deadline_seconds = deadline_seconds
        self._io_timeout_seconds = io_timeout_seconds

    def elapsed_seconds(self) -> float:
        """Return the time since this clock was made."""
        return time.monotonic() - self._started_seconds

    @contextmanager
    def waiting(self) -> Iterator[float]:
        """Give the block the longest it may wait, always above 0 seconds.

        A TimeoutError in the block becomes DeadlinePassed if it was the
        deadline that cut the wait short; so does a wait begun too late.
        """
        left_seconds = self._deadline_seconds - self.elapsed_seconds()
        if left_seconds <= 0:
            raise DeadlinePassed
        try:
            yield min(left_seconds, self._io_timeout_seconds)
        except TimeoutError as error:
            if left_seconds <= self._io_timeout_seconds:
                raise DeadlinePassed from error
            raise


class VettedRoute(httpcore.NetworkBackend):
    """Connects to the addresses it was given, in their order, whatever name it is asked for."""

    def __init__(self, addresses: Sequence[str], clock: Clock) -> None:
        self._addresses = addresses
        self._clock = clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a stream to the first address that accepts; raises the last one's OSError."""
        failure = OSError("no address to connect to")
        for address in self._addresses:
            try:
                with self._clock.waiting() as seconds:
                    connected = socket.create_connection((address, port), timeout=seconds)
            except DeadlinePassed:
                raise
            except OSError as error:
                failure = error
                continue
            # Head and body are two small writes: Nagle would hold the second back.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return BoundedStream(connected, self._clock)
        raise failure


class BoundedStream(httpcore.NetworkStream):
    """A TCP connection, with TLS once asked for, bounded in time and in bytes received.

    The clock replaces httpcore's timeouts. Errors are OSErrors (TimeoutError,
    ssl.SSLError among them), except that a write which fails is
    httpcore.WriteError: httpcore then looks for an early answer, such as 413.
    """

    def __init__(self, connected: socket.socket, clock: Clock) -> None:
        self._socket = connected
        self._clock = clock
        self._received_bytes = 0
        self._tls: ssl.SSLObject | None = None
        self._arrived = ssl.MemoryBIO()
        self._departing = ssl.MemoryBIO()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has arrived, b"" once the peer has finished."""
        if self._tls is None:
            return self._receive(max_bytes)
        return self._over_tls(partial(self._tls.read, max_bytes))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of ``buffer``."""
        try:
            if self._tls is None:
                self._send(buffer)
            else:
                self._write_tls(self._tls, memoryview(buffer))
        except TimeoutError:
            raise
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Shake hands and have the certificate checked against ``server_hostname``."""
        try:
            self._tls = ssl_context.wrap_bio(
                self._arrived, self._departing, server_hostname=server_hostname
            )
            self._over_tls(self._tls.do_handshake)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Close the connection without waiting for anything."""
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        """Return the TLS object, where httpcore looks up the protocol agreed on."""
        return self._tls if info == "ssl_object" else None

    def _over_tls(self, operation: Callable[[], _Result]) -> _Result:
        """Repeat ``operation`` until it has had the bytes it wants; send what it produces."""
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._send(self._departing.read())
                data = self._receive(_READ_BYTES)
                if data:
                    self._arrived.write(data)
                else:
                    self._arrived.write_eof()
            else:
                self._send(self._departing.read())
                return result

    def _write_tls(self, tls: ssl.SSLObject, rest: memoryview) -> None:
        while rest:
            written = self._over_tls(partial(tls.write, rest))
            rest = rest[written:]

    def _receive(self, max_bytes: int) -> bytes:
        with self._clock.waiting() as seconds:
            self._socket.settimeout(seconds)
            data = self._socket.recv(min(max_bytes, _READ_BYTES))
        self._received_bytes += len(data)
        if self._received_bytes > MAX_RECEIVED_BYTES:
            raise OSError("the answer's head is too long")
        return data

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            with self._clock.waiting() as seconds:
                self._socket.settimeout(seconds)
                rest = rest[self._socket.send(rest) :]
