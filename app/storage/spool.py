"""Bytes that cannot be put where they belong yet: kept on a local disk for one request."""

from __future__ import annotations

import os
import tempfile
from typing import Self

from app.storage.local_files import storage_error


class Spool:
    """A nameless file: whatever happens, nothing of it is left.

    ``directory`` is made if it is not there. Raises StorageFull and
    StorageUnavailable.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - ours to close
        except OSError as error:
            raise storage_error(error) from error
        self.length = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, buffer: memoryview) -> None:
        """Keep all of ``buffer`` behind what was kept before."""
        try:
            while buffer:
                written = os.pwrite(self._file.fileno(), buffer, self.length)
                self.length += written
                buffer = buffer[written:]
        except OSError as error:
            raise storage_error(error) from error

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` with what was kept at ``offset``; return how many bytes, 0 at the end."""
        try:
            return os.preadv(self._file.fileno(), [buffer], offset)
        except OSError as error:
            raise storage_error(error) from error
