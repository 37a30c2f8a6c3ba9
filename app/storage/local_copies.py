"""Copying between files of the local storage: inside the kernel where it can."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from app.errors import PartsLost
from app.storage import files

#: Copied between two looks at whether to go on, and at a time through memory.
_COPY_BYTES = 64 * 1024 * 1024
_MEMORY_BYTES = 1024 * 1024

#: How kernels and file systems say that they cannot copy by themselves.
_NO_COPY_FILE_RANGE = files.UNSUPPORTED | {errno.EXDEV}


def copy_range(source: int, target: int, offset: int, length: int) -> Iterator[int]:
    """Copy the first ``length`` bytes of a file to ``offset`` of another one.

    Yields how many are there after each step. Linux copies inside the kernel,
    and shares the blocks where the file system can (copy_file_range(2)).
    Raises PartsLost where the source is shorter.
    """
    copy, done = _COPY, 0
    while done < length:
        step = min(_COPY_BYTES, length - done)
        try:
            moved = copy(source, target, step, done, offset + done)
        except OSError as error:
            if copy is _copy_through_memory or error.errno not in _NO_COPY_FILE_RANGE:
                raise
            copy = _copy_through_memory
            continue
        if not moved and copy is not _copy_through_memory:
            copy = _copy_through_memory  # which can tell whether the source is at its end
            continue
        if not moved:
            raise PartsLost()
        done += moved
        yield done


def _copy_through_memory(source: int, target: int, count: int, at: int, to: int) -> int:
    buffer = memoryview(os.pread(source, min(count, _MEMORY_BYTES), at))
    files.write_all(target, buffer, to)
    return len(buffer)


#: macOS and old kernels have none.
_COPY: Callable[[int, int, int, int, int], int] = getattr(
    os, "copy_file_range", _copy_through_memory
)
