"""Frames read from a connection: as few calls as possible, and nothing lost at a timeout."""

from __future__ import annotations

import socket

#: MS-SMB2 2.1: a zero byte and three of length.
_LENGTH_BYTES = 4

#: Answers to writes have some hundred bytes; many come with one call.
_BUFFER_BYTES = 64 * 1024

#: More than any answer to what is asked for here, so that a stranger cannot take all memory.
_MAX_FRAME_BYTES = 9 * 1024 * 1024


class Inbox:
    """Reads frames, for one thread at a time. A call that timed out may be repeated."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._start = self._end = 0
        self._frame: memoryview | None = None
        self._filled = 0

    def next(self) -> memoryview:
        """Return the content of the next frame, in memory of its own.

        Raises BlockingIOError when the socket's timeout is over, and
        ConnectionResetError where the server has ended the connection.
        """
        if self._frame is None:
            self._frame = self._begin()
        while self._filled < len(self._frame):
            self._filled += self._receive(self._frame[self._filled :], socket.MSG_WAITALL)
        frame, self._frame = self._frame, None
        return frame

    def _begin(self) -> memoryview:
        """Read a length; return memory for so much, with what has come already."""
        while self._end - self._start < _LENGTH_BYTES:
            if self._start:  # bytes of a length that came in two pieces
                rest = bytes(self._buffer[self._start : self._end])
                self._buffer[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            self._end += self._receive(self._buffer[self._end :])
        body = self._start + _LENGTH_BYTES
        length = int.from_bytes(self._buffer[self._start : body], "big")
        if length > _MAX_FRAME_BYTES:
            raise ConnectionResetError("what the server sends is no SMB 2")
        here = min(length, self._end - body)
        frame = memoryview(bytearray(length))
        frame[:here] = self._buffer[body : body + here]
        self._start, self._filled = body + here, here
        return frame

    def _receive(self, buffer: memoryview, flags: int = 0) -> int:
        count = self._sock.recv_into(buffer, 0, flags)
        if not count:
            raise ConnectionResetError("the server ended the connection")
        return count
