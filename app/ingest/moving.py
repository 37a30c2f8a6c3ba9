"""A job's buffers: filled by it, hashed and written, by itself or with a companion's help.

Small bodies that are not hashed take a shorter way where there is one; see ``pipes.py``.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial

from app.buffers import page_aligned
from app.ingest.body import LINGER_MILLISECONDS, Body
from app.ingest.companions import companions

MIB = 1024 * 1024

#: Bytes moved at a time, by the length that a body has at least: the larger the fewer
#: calls and turns of threads, but what is hashed while more is received needs several
#: to a body (docs/performance.md).
LARGEST_BUFFER_BYTES = 4 * MIB
_BUFFER_BYTES = ((16 * MIB, LARGEST_BUFFER_BYTES), (MIB + 1, 2 * MIB))
SMALLEST_BUFFER_BYTES = MIB

#: Buffers of a job with a companion: one is filled and written, the others wait to be
#: hashed. With one less the companion would sleep after each, and cores of virtual
#: machines take 0.1 ms to wake up.
_BUFFERS_WITH_COMPANION = 3

#: Takes the next bytes, in the order in which they come.
Take = Callable[[memoryview], object]


def buffer_bytes(length: int | None) -> int:
    """Return how much of a body of ``length`` bytes (None: nobody knows) is moved at a time."""
    if length is None:
        return LARGEST_BUFFER_BYTES
    fitting = (size for least, size in _BUFFER_BYTES if length >= least)
    return next(fitting, SMALLEST_BUFFER_BYTES)


class Buffers:
    """Reused buffers: as many as jobs and writes run at once, however many connections."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[memoryview]] = defaultdict(list)

    def take(self, size_bytes: int) -> memoryview:
        """Return a buffer that nobody else uses."""
        try:
            return self._free[size_bytes].pop()
        except IndexError:
            return page_aligned(size_bytes)

    def give_back(self, buffer: memoryview) -> None:
        """Let others use a buffer."""
        self._free[len(buffer)].append(buffer)


buffers = Buffers()


class Mover:
    """Fills a buffer, another one each time, and hashes and writes what is in it.

    A context manager; what was moved is hashed whole once it has been left. With a
    companion, the caller fills the next buffer while those before it are hashed.
    ``length`` is the whole body's, None where it is not known.
    """

    def __init__(self, write: Take, update: Take | None, length: int | None) -> None:
        self._write = write
        self._update = update
        self._size_bytes = buffer_bytes(length)
        is_long = length is None or length > self._size_bytes
        self._companion = companions.enter(wanted=is_long and update is not None)
        count = 1 if self._companion is None else _BUFFERS_WITH_COMPANION
        self._ring = deque(buffers.take(self._size_bytes) for _ in range(count))

    def fill(self, body: Body) -> int:
        """Fill the next buffer; see ``fill``."""
        return fill(body, self._ring[0])

    def move(self, count: int) -> None:
        """Hash and write the first ``count`` bytes of what was filled. Raises as writing does."""
        data = self._ring[0][:count]
        if self._companion is None:
            if self._update is not None:
                self._update(data)
            self._write(data)
            return
        assert self._update is not None
        self._companion.start(partial(self._update, data))
        self._write(data)
        self._ring.rotate(-1)
        self._companion.wait(at_most=len(self._ring) - 1)

    def is_pause(self, filled: int) -> bool:
        """Tell whether nothing is to be expected after a fill of so many bytes."""
        return filled < self._size_bytes

    def __enter__(self) -> Mover:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._companion is not None:
                self._companion.wait()
        finally:
            companions.leave(self._companion)
            for buffer in self._ring:
                buffers.give_back(buffer)


def fill(body: Body, buffer: memoryview) -> int:
    """Fill ``buffer`` until it is full, the body pauses, ends or is cut; return the bytes."""
    filled = 0
    while filled < len(buffer) and not body.ended:
        count = body.take(buffer[filled:])
        if count:
            filled += count
        elif body.cut or not body.more_within(LINGER_MILLISECONDS):
            break
    return filled
