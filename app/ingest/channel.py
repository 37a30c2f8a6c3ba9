"""A plain TCP socket that a file is sent into, past gunicorn, by native threads."""

from __future__ import annotations

import errno
import os
import select
import time
from typing import Any, BinaryIO

import gevent.socket
from gevent import monkey
from gunicorn.http.body import Body as GunicornBody

from app.ingest.body import WSGIEnvironment
from app.ingest.threads import send_pool

#: Sent by one call of sendfile, which returns when the socket is full.
CALL_BYTES = 8 * 1024 * 1024

#: A job gives its thread back after this much, so that a few fast readers of
#: large files do not starve the others.
JOB_BYTES = 32 * 1024 * 1024
JOB_SECONDS = 0.25

#: How long a job waits for a fast reader to take more before it gives the thread back.
LINGER_MILLISECONDS = 2

#: Read at a time of a file without a descriptor: what the client takes in about
#: PIECE_SECONDS, within these bounds. So a thousand slow readers hold little
#: memory, and a fast one makes few round trips to the other server.
SMALLEST_PIECE_BYTES = 256 * 1024
LARGEST_PIECE_BYTES = 4 * 1024 * 1024
PIECE_SECONDS = 0.5

#: How long a greenlet waits for the socket before clocks and stop flags are looked at.
TURN_SECONDS = 1.0

#: What sendfile says where the file's side fails; any other error is the connection's.
_FILE_ERRORS = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOMEM})

#: What sendfile says of files it cannot send, on some network and FUSE file systems.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})

_POLLRDHUP = getattr(select, "POLLRDHUP", 0)

# Native threads must not meet gevent's poll, which needs the hub.
_poll = monkey.get_original("select", "poll")


class ClientGone(Exception):
    """The connection has broken, or its client has left."""


class FileTooShort(Exception):
    """The file ends before it should."""

    def __init__(self) -> None:
        super().__init__("the file is shorter than the ledger says")


def plain_socket(environ: WSGIEnvironment) -> gevent.socket.socket | None:
    """Return the TCP socket of a request, None where bytes must not go past the WSGI server.

    Exact types: a TLS socket is a subclass, and HTTP/2 has bodies of its own.
    """
    sock, wsgi_input = environ.get("gunicorn.socket"), environ.get("wsgi.input")
    if type(sock) is gevent.socket.socket and type(wsgi_input) is GunicornBody:
        return sock
    return None


def read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    """Return up to ``count`` bytes at ``offset``, none at the end; to be called in a native thread.

    Never through a buffer: it would read ahead of what is recorded of a growing
    file, and bytes there may still change.
    """
    descriptor = _descriptor(file)
    if descriptor is not None:
        return os.pread(descriptor, count, offset)
    raw: BinaryIO = getattr(file, "raw", file)
    raw.seek(offset)
    return raw.read(count)


def has_hung_up(sock: Any) -> bool:
    """Tell whether a client has ended its side of a connection, or broken it.

    Only to be asked while there is nothing to send: a client may end its side
    and go on reading, but one that does so while nothing comes has nearly
    always left, and nothing else would tell.
    """
    if sock is None:
        return False
    poll = _poll()
    poll.register(sock.fileno(), _POLLRDHUP)  # errors and hang-ups are reported in any case
    return bool(poll.poll(0))


class Channel:
    """Sends stretches of ``file``, opened by its caller, into ``sock``.

    ``way`` is ``sendfile``, or ``pieces`` for files without a descriptor.
    """

    def __init__(self, sock: gevent.socket.socket, file: BinaryIO) -> None:
        self._fd = sock.fileno()
        self._file = file
        self._file_fd = _descriptor(file)
        self._piece = memoryview(b"")
        self._piece_bytes = SMALLEST_PIECE_BYTES
        self._piece_began_at = 0.0
        self._full = False
        self._lingers = True

    @property
    def way(self) -> str:
        """How files are sent, for metrics."""
        return "pieces" if self._file_fd is None else "sendfile"

    def send(self, offset: int, count: int) -> int:
        """Send some of ``count`` bytes at ``offset``, one job's worth at most; return how many.

        0 if the client takes nothing at the moment; then about TURN_SECONDS
        have passed. Raises ClientGone, FileTooShort, and OSError or
        StorageUnavailable where the file cannot be read.
        """
        if self._full and not self._wait():
            return 0
        if self._file_fd is None:
            return self._send_piece(offset, count)
        return self._sendfile(self._file_fd, offset, count)

    def put(self, data: bytes | memoryview) -> int:
        """Send some of ``data``; return how many bytes. Waits and raises as ``send`` does."""
        if self._full and not self._wait():
            return 0
        return self._put(data)

    def _put(self, data: bytes | memoryview) -> int:
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise ClientGone from error
        self._full = sent < len(data)
        return sent

    def _wait(self) -> bool:
        """Wait until the socket takes bytes; False if it does not within TURN_SECONDS."""
        began_at = time.monotonic()
        try:
            gevent.socket.wait_write(self._fd, TURN_SECONDS, TimeoutError())
        except TimeoutError:
            return False
        # A job that waits for a slow client would keep a thread from the others.
        self._lingers = (time.monotonic() - began_at) * 1000 <= LINGER_MILLISECONDS
        return True

    def _sendfile(self, file_fd: int, offset: int, count: int) -> int:
        moved, error = send_pool.run(
            lambda: _sendfile_job(self._fd, file_fd, offset, count, self._lingers)
        )
        self._full = False
        if isinstance(error, BlockingIOError):
            self._full = True
        elif error is not None and not moved:
            if error.errno in _UNSUPPORTED:
                self._file_fd = None
                return self._send_piece(offset, count)
            if error.errno in _FILE_ERRORS:
                raise error
            raise ClientGone from error
        elif error is None and not moved:
            raise FileTooShort
        return moved

    def _send_piece(self, offset: int, count: int) -> int:
        """Send some of a file that is read by Python code; what is left of a piece waits here."""
        if not self._piece:
            wanted = min(self._piece_bytes, count)
            self._piece = memoryview(send_pool.run(lambda: read_at(self._file, offset, wanted)))
            if not self._piece:
                raise FileTooShort
            self._piece_began_at = time.monotonic()
        sent = self._put(self._piece)
        self._piece = self._piece[sent:]
        if not self._piece:
            fast = time.monotonic() - self._piece_began_at <= PIECE_SECONDS
            fitting = self._piece_bytes * 2 if fast else self._piece_bytes // 2
            self._piece_bytes = min(max(fitting, SMALLEST_PIECE_BYTES), LARGEST_PIECE_BYTES)
        return sent


def _descriptor(file: BinaryIO) -> int | None:
    try:
        return file.fileno()
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return None


def _sendfile_job(
    socket_fd: int, file_fd: int, offset: int, count: int, lingers: bool
) -> tuple[int, OSError | None]:
    """Send up to one job's worth in a native thread; return the bytes and what ended it.

    BlockingIOError: the socket is full; None: the job's time or bytes are over,
    or, with 0 bytes, the file is.
    """
    began_at, moved = time.monotonic(), 0
    count = min(count, JOB_BYTES)
    while moved < count and time.monotonic() - began_at < JOB_SECONDS:
        try:
            sent = os.sendfile(socket_fd, file_fd, offset + moved, min(CALL_BYTES, count - moved))
        except BlockingIOError as error:
            if not (lingers and _is_writable(socket_fd, LINGER_MILLISECONDS)):
                return moved, error
            continue
        except OSError as error:
            return moved, error
        if not sent:
            break
        moved += sent
    return moved, None


def _is_writable(socket_fd: int, milliseconds: int) -> bool:
    poll = _poll()
    poll.register(socket_fd, select.POLLOUT)
    return bool(poll.poll(milliseconds))
