"""Bytes that come again: compared with the stored ones as they arrive, never byte by byte."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import BinaryIO, Self

from app.errors import StorageUnavailable


class OtherBytes(Exception):
    """What arrives is not what is stored. Never leaves this package."""


class Comparison:
    """A sink that compares what is written to it with what ``stored`` has from ``offset`` on.

    ``write`` raises OtherBytes at the first buffer that differs; ``same`` is how
    many bytes were equal before it, ``other`` is that buffer: it has been taken
    from the network, so nobody else has it any more. Closes ``stored``.
    """

    def __init__(self, stored: BinaryIO, offset: int) -> None:
        self._stored = stored
        self._buffer = bytearray()
        self.same = 0
        self.other = b""
        stored.seek(offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._stored.close()

    def write(self, buffer: memoryview) -> None:
        """Compare ``buffer`` with the stored bytes behind those compared before."""
        if len(self._buffer) != len(buffer):
            self._buffer = bytearray(len(buffer))
        try:
            filled = self._fill()
        except OSError as error:
            raise StorageUnavailable from error
        # bytearray compares as memory is compared; memoryviews would item by item.
        if filled < len(buffer) or self._buffer != buffer:
            self.other = bytes(buffer)
            raise OtherBytes
        self.same += filled

    def _fill(self) -> int:
        filled = 0
        while filled < len(self._buffer):
            count = self._stored.readinto(memoryview(self._buffer)[filled:])  # type: ignore[attr-defined]  # raw or buffered
            if not count:
                break
            filled += count
        return filled
