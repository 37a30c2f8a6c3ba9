"""Bodies that are read from the socket itself, past gunicorn's parser."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
from gevent import monkey
from gevent.event import Event

from app.ingest.body import Body

#: The greenlet is woken when this many bytes wait in the kernel (or all that
#: remain): each wake-up costs a hand-over to a thread, so few large ones.
LOW_WATER_BYTES = 256 * 1024

#: Of libev and libuv: watch for bytes to read.
_READABLE = 1

#: Linux, and Pythons that were built for it.
_splice: Callable[..., int] | None = getattr(os, "splice", None)

#: How systems say that they cannot splice, though their Python thinks so: sandboxes, mostly.
_NO_SPLICE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})

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
        # Most of a small body may have come with its head, into memory.
        self.splices = _splice is not None and length >= LOW_WATER_BYTES
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
        if not self._ahead:
            return self._taken(lambda: os.readv(self._fd, [buffer[:wanted]]))
        count = min(wanted, len(self._ahead))
        buffer[:count] = self._ahead[:count]
        return self._count(self._from_ahead(count))

    def splice(self, pipe: int, count: int) -> int:
        wanted = min(count, self._remaining)
        if self._ahead:
            return self._count(self._from_ahead(os.write(pipe, self._ahead[:wanted])))
        return self._taken(lambda: self._splice(pipe, wanted))

    def _splice(self, pipe: int, count: int) -> int:
        assert _splice is not None
        try:
            return _splice(self._fd, pipe, count, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno not in _NO_SPLICE:
                raise
            self.splices = False
            raise BlockingIOError from error  # nothing comes this way

    def _taken(self, take: Callable[[], int]) -> int:
        """Take bytes from the socket; return how many."""
        try:
            count = take()
        except BlockingIOError:
            return 0
        except OSError:  # reset by the peer
            count = 0
        if count == 0:
            self.cut = True
            return 0
        return self._count(count)

    def _from_ahead(self, count: int) -> int:
        self._ahead = self._ahead[count:]
        return count

    def _count(self, count: int) -> int:
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
