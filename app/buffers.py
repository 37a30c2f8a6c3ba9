"""Memory that bytes are received into."""

from __future__ import annotations

import mmap


def page_aligned(size_bytes: int) -> memoryview:
    """Return zeroed memory that begins on a page; freed with the last view of it.

    A bytearray of this size begins 16 bytes behind one. Some processors copy to there
    three times as slowly from where sent files lie, at a page's start (docs/performance.md).
    """
    # Private: workers that are forked later must not share it.
    return memoryview(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
