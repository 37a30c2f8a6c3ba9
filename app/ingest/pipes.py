"""Bodies that go from their socket into a file inside the kernel, through a pipe (splice(2)).

What is neither hashed nor looked at need not come into this program's memory: its
pages are handed from the socket to the pipe, and copied once, into the file
(docs/performance.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import os

# Not os.close, which gevent replaces: native threads close pipes.
from posix import close
from typing import Protocol, runtime_checkable

from app.ingest.body import LINGER_MILLISECONDS, Body

#: What a pipe takes: as much as Linux allows everybody.
PIPE_BYTES = 1024 * 1024


@runtime_checkable
class PipeSink(Protocol):
    """A sink that may take bytes from a pipe, as the local storage's PartWriter does.

    ``splices``: it does so inside the kernel; else they had better be given to ``write``.
    """

    @property
    def splices(self) -> bool: ...

    def write_from(self, pipe: int, count: int) -> None:
        """Store ``count`` bytes that wait in ``pipe`` (its reading end); else as ``write``."""


class Pipe:
    """A pipe that nobody waits for. Raises OSError where none can be had in full size."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # More of them than a user may have (pipe(7)) are refused or small.
            self.size_bytes = fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give it up, with what is in it."""
        close(self.reader)
        close(self.writer)


class Pipes:
    """Reused pipes, as many as jobs run at once. Single operations of lists need no lock."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []

    def take(self) -> Pipe | None:
        """Return an empty pipe that nobody else uses, None if the system has no more."""
        with contextlib.suppress(IndexError):
            return self._free.pop()
        try:
            return Pipe()
        except OSError:
            return None

    def give_back(self, pipe: Pipe) -> None:
        """Let others use a pipe that is empty."""
        self._free.append(pipe)


pipes = Pipes()


class PipeMover:
    """Moves a body into a sink through a pipe; a context manager. See ``moving.Mover``."""

    def __init__(self, pipe: Pipe, sink: PipeSink) -> None:
        self._pipe = pipe
        self._sink = sink
        self._filled = 0

    def fill(self, body: Body) -> int:
        """Take what is here, up to what the pipe holds; return how many bytes.

        One call takes all there is. A pipe may be full of few bytes, of many small packets.
        """
        while not body.ended and not body.cut and body.splices:
            self._filled = body.splice(self._pipe.writer, self._pipe.size_bytes)
            if self._filled or not body.more_within(LINGER_MILLISECONDS):
                break
        return self._filled

    def move(self, count: int) -> None:
        """Write the first ``count`` bytes of what ``fill`` took. Raises as writing does."""
        self._sink.write_from(self._pipe.reader, count)
        self._filled -= count

    def is_pause(self, _filled: int) -> bool:
        """Tell whether nothing is to be expected after a fill of so many bytes."""
        return False

    def __enter__(self) -> PipeMover:
        return self

    def __exit__(self, *_: object) -> None:
        if self._filled:  # the next body must not begin with them
            self._pipe.close()
        else:
            pipes.give_back(self._pipe)
