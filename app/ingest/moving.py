"""A job's buffers: filled by it, hashed and written, by itself or with a companion's help."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType

from app.buffers import page_aligned
from app.ingest.companions import companions

#: Bytes moved at a time; larger gains nothing (measured), smaller costs the GIL.
BUFFER_BYTES = 1024 * 1024

#: Takes the next bytes, in the order in which they come.
Take = Callable[[memoryview], object]


class Buffers:
    """Reused buffers: as many as jobs and writes run at once, however many connections."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """Return a buffer that nobody else uses."""
        try:
            return self._free.pop()
        except IndexError:
            return page_aligned(BUFFER_BYTES)

    def give_back(self, buffer: memoryview) -> None:
        """Let others use a buffer."""
        self._free.append(buffer)


buffers = Buffers()


class Mover:
    """Hashes and writes what its caller puts into ``buffer``, which is another one each time.

    A context manager; what was moved is hashed whole once it has been left. With a
    companion, the caller fills the next buffer while the last one is being hashed.
    """

    def __init__(self, write: Take, update: Take | None, *, is_long: bool) -> None:
        self._write = write
        self._update = update
        self._companion = companions.enter(wanted=is_long and update is not None)
        self.buffer = buffers.take()
        self._other = None if self._companion is None else buffers.take()

    def move(self, count: int) -> None:
        """Hash and write the first ``count`` bytes of ``buffer``. Raises as writing does."""
        data = self.buffer[:count]
        if self._other is None:
            if self._update is not None:
                self._update(data)
            self._write(data)
            return
        assert self._companion is not None and self._update is not None
        self._companion.wait()
        self._companion.start(partial(self._update, data))
        self._write(data)
        self.buffer, self._other = self._other, self.buffer

    def __enter__(self) -> Mover:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._companion is not None:
                self._companion.wait()
        finally:
            companions.leave(self._companion)
            for buffer in filter(None, (self.buffer, self._other)):
                buffers.give_back(buffer)
