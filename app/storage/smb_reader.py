"""Reading a file of a share: seekable, unbuffered, from any thread or greenlet."""

from __future__ import annotations

import io
from typing import Any

from app.storage.smb_errors import translated
from app.storage.smb_files import ShareFile
from app.storage.smb_share import Lane, Share


class SmbReader(io.RawIOBase):
    """A file object of its own handle; it owns ``file`` and ``lane``.

    Reads are never short except at the end, where one that grows can be read
    on. There is no ``fileno()``. Raises StorageUnavailable.
    """

    def __init__(self, share: Share, lane: Lane, file: ShareFile, key: str) -> None:
        self._share = share
        self._lane = lane
        self._file = file
        self._key = key
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        start = 0
        if whence == io.SEEK_CUR:
            start = self._offset
        elif whence == io.SEEK_END:
            start = self._size()
        self._offset = max(0, start + offset)
        return self._offset

    def readinto(self, buffer: Any) -> int:
        self._check_open()
        return self._share.off_hub(lambda: self._read(memoryview(buffer).cast("B")))

    def readall(self) -> bytes:
        # More than there is: one that has grown meanwhile is read to its end.
        buffer, whole = bytearray(self._size() - self._offset + 1), b""
        while count := self.readinto(buffer):
            whole += buffer[:count]
            buffer = buffer if count == len(buffer) else bytearray(1)
        return whole

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._share.off_hub(self._close)

    def __del__(self) -> None:
        """Leave a handle that nobody has closed to the server: here is no place to wait for it."""

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")

    def _size(self) -> int:
        def size() -> int:
            with translated(self._key):
                return self._file.standing().size_bytes

        return self._share.off_hub(size)

    def _read(self, target: memoryview) -> int:
        filled = 0
        with translated(self._key):
            while filled < len(target):
                data = self._file.read(self._offset, len(target) - filled)
                if not data:
                    break
                target[filled : filled + len(data)] = data
                filled += len(data)
                self._offset += len(data)
        return filled

    def _close(self) -> None:
        self._file.close()
        self._share.leave_lane(self._lane)
