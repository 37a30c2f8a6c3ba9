"""Bodies that go from their socket into a file inside the kernel, through a pipe (splice(2)).

What is neither hashed nor looked at need not come into this program's memory: its
pages are handed from the socket to the pipe, and copied once, into the file. That is
faster up to some MiB; then larger pieces than a pipe holds are (docs/performance.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import os

# Not os.close, which gevent replaces: native threads close pipes.
from posix import close
from typing import Protocol, runtime_checkable

from app.ingest.body import LINGER_MILLISECONDS, Body

#: What a pipe takes: as much as Linux allows everybody. With a quarter of it a body took
#: half as long again (docs/performance.md).
PIPE_BYTES = 1024 * 1024

#: Pipes of a process. A user may have 64 of this size, in all processes (pipe(7)); behind
#: that, pipes of the user's other programs become small.
MOST_PIPES = 4


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
    """Reused pipes for the first ``limit`` jobs that run at once, none for the others.

    Single operations of lists need no lock: jobs run in many threads.
    """

    def __init__(self, limit: int) -> None:
        self._places: list[Pipe | None] = [None] * limit  # those nobody uses now

    def take(self) -> Pipe | None:
        """Return an empty pipe that nobody else uses, None if there is none to be had."""
        try:
            pipe = self._places.pop()
        except IndexError:
            return None
        if pipe is not None:
            return pipe
        with contextlib.suppress(OSError):
            return Pipe()
        return None  # nor is its place given back: the system has no more for this process

    def give_back(self, pipe: Pipe, *, is_empty: bool) -> None:
        """Let others use a pipe; one that is not empty is closed, and they get another."""
        if not is_empty:
            pipe.close()
        self._places.append(pipe if is_empty else None)


pipes = Pipes(MOST_PIPES)


class PipeMover:
    """Moves a body into a sink through a pipe; a context manager. See ``moving.Mover``."""

    def __init__(self, pipe: Pipe, sink: PipeSink) -> None:
        self._pipe = pipe
        self._sink = sink
        self._filled = 0

    def fill(self, body: Body) -> int:
        """Take what is here, up to what the pipe holds; return how many bytes.

        A pipe may be full of few bytes, of many small packets.
        """
        if body.ended or not body.splices:
            return 0
        self._filled = self._splice(body)
        if not self._filled and not body.cut and body.more_within(LINGER_MILLISECONDS):
            self._filled = self._splice(body)
            # What cannot be spliced though it is here (urgent data) is left to ``take``.
            body.splices = body.splices and (self._filled > 0 or body.cut)
        return self._filled

    def _splice(self, body: Body) -> int:
        return body.splice(self._pipe.writer, self._pipe.size_bytes)

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
        pipes.give_back(self._pipe, is_empty=not self._filled)
