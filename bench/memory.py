"""Memory that is really there: keeps the host of a virtual machine out of the measurement.

A guest with a balloon hands free memory back to its host after about two
seconds (free page reporting). The first write to such a page then faults in the
host and costs ten times what copying into it costs (measured: 2.5 CPU seconds a
GiB instead of 0.25, charged to whoever stores the bytes), so that one and the
same receiver runs at 400 or at 2,700 MB/s, by chance.

The reserve holds pages that are backed. While a cell runs it gives them back to
the kernel as fast as they are used up, never so many at once that they could be
reported meanwhile, and takes them again when the cell's files are deleted. On
real hardware it changes nothing.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.loads import GIB, KIB, MIB

#: Given back at once. A multiple of a huge page, so that giving back costs microseconds.
_CHUNK_BYTES = 16 * MIB
#: Free pages kept ahead of the receiver: 20 ms at 3 GB/s, five looks of the feeder.
_AHEAD_BYTES = 64 * MIB
_LOOK_SECONDS = 0.004
_PAGE_BYTES = 4 * KIB
#: For whatever else the cell needs: the servers' own memory, directories, journals.
EXTRA_BYTES = GIB // 2


def parse_meminfo_bytes(text: str, field: str) -> int:
    """Return a field of /proc/meminfo in bytes (proc(5)). Raises KeyError if it is not there."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * KIB
    raise KeyError(field)


class Reserve:
    """Backed memory, of ``size_bytes`` when full. No reserve at all if memory is short."""

    def __init__(self, size_bytes: int) -> None:
        meminfo = Path("/proc/meminfo").read_text()
        short = 3 * size_bytes > parse_meminfo_bytes(meminfo, "MemAvailable")
        self._chunk_count = 0 if short else -(-size_bytes // _CHUNK_BYTES)
        self._chunks: list[mmap.mmap] = []

    @property
    def held_bytes(self) -> int:
        return len(self._chunks) * _CHUNK_BYTES

    def fill(self) -> None:
        """Take pages until the reserve is full, and touch them."""
        while len(self._chunks) < self._chunk_count:
            chunk = mmap.mmap(-1, _CHUNK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            chunk.madvise(mmap.MADV_HUGEPAGE)
            chunk[::_PAGE_BYTES] = bytes(_CHUNK_BYTES // _PAGE_BYTES)
            self._chunks.append(chunk)

    def release(self) -> None:
        """Give everything back."""
        while self._chunks:
            self._chunks.pop().close()

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """Give back, within the block, what the machine uses up, as it is used up."""
        stopped = threading.Event()
        feeder = threading.Thread(target=self._feed, args=(stopped,))
        feeder.start()
        try:
            yield
        finally:
            stopped.set()
            feeder.join()

    def _feed(self, stopped: threading.Event) -> None:
        meminfo = os.open("/proc/meminfo", os.O_RDONLY)
        try:
            free_at_start = _free_bytes(meminfo)
            given_back = 0
            while self._chunks:
                used_up = free_at_start + given_back - _free_bytes(meminfo)
                while self._chunks and given_back - used_up < _AHEAD_BYTES:
                    self._chunks.pop().close()
                    given_back += _CHUNK_BYTES
                if stopped.wait(_LOOK_SECONDS):
                    return
        finally:
            os.close(meminfo)


def _free_bytes(meminfo: int) -> int:
    return parse_meminfo_bytes(os.pread(meminfo, 4 * KIB, 0).decode(), "MemFree")
