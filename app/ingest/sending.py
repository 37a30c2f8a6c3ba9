"""Sending a file: the pump's mirror image."""

from __future__ import annotations

import errno
from typing import BinaryIO

PIECE_BYTES = 1024 * 1024


class FileSender:
    """The WSGI iterable of bytes ``start`` to ``end`` of a file, which it closes."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._left = end - start
        file.seek(start)

    def __iter__(self) -> FileSender:
        return self

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        piece = self._file.read(min(PIECE_BYTES, self._left))
        if not piece:
            # gunicorn closes the connection at this error, without a word in the log.
            raise ConnectionResetError(errno.ECONNRESET, "the file is shorter than it was")
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()
