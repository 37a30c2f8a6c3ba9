"""The pump: receive → hash → write, by native threads, without Python touching the bytes.

The greenlet waits until bytes are there (thousands of slow clients cost
nothing), then a native thread drains the socket for a while with the GIL
released in every call that moves bytes. Between two such jobs the greenlet
looks at the clocks and at whoever may want it to stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from gevent.lock import BoundedSemaphore

from app.errors import LonghaulError
from app.ingest.body import Body
from app.ingest.moving import (
    LARGEST_BUFFER_BYTES,
    SMALLEST_BUFFER_BYTES,
    Mover,
    buffer_bytes,
    buffers,
    fill,
)
from app.ingest.pipes import PipeMover, PipeSink, pipes
from app.ingest.threads import part_pool, receive_pool

#: A job gives its thread back after this much, so that an endless body does
#: not starve others, and offsets, stop flags and leases are looked at.
JOB_BYTES = 32 * 1024 * 1024
JOB_SECONDS = 0.25

#: A body of up to so many bytes is ended by the very job that takes its last one:
#: to hand over to a greenlet and back would take a good part of its time.
ENDED_AT_ONCE_BYTES = 16 * 1024 * 1024

#: Greenlets that write to other servers at a time, each with a buffer in its hands:
#: without a bound a thousand clients of a slow server would hold a thousand.
WRITES_AT_ONCE = 64

#: How often a waiting greenlet looks at clocks and stop flags.
TURN_SECONDS = 1.0


class Ended(Enum):
    """How a transfer ended."""

    WHOLE = auto()  #: the body is complete
    CUT = auto()  #: the connection broke, or the framing did
    STALLED = auto()  #: nothing arrived for the idle timeout
    TOO_LONG = auto()  #: more bytes than allowed; the surplus was not written
    STOPPED = auto()  #: the guard asked for it; see ``reason``


@dataclass(frozen=True, slots=True)
class Transfer:
    """``received`` bytes were written; ``reason`` is the guard's error when STOPPED."""

    received: int
    ended: Ended
    reason: LonghaulError | None = None


class Hasher(Protocol):
    """What hashlib's objects offer."""

    def update(self, data: memoryview, /) -> object: ...


class Sink(Protocol):
    """Where bytes go; a storage's PartWriter is one."""

    def write(self, buffer: memoryview) -> None: ...


#: Asked about once a second, with the seconds for which the client has sent
#: nothing, and right before each write; returns the error to stop with, or None
#: to go on. It is called in native threads too, so it only looks at memory.
Guard = Callable[[float], LonghaulError | None]


def no_guard(_idle_seconds: float) -> LonghaulError | None:
    """Never stop a transfer."""
    return None


#: Told between two jobs, and about once a second, in the calling greenlet, how
#: many bytes have been written; returns the error to stop with, or None to go on.
#: Unlike a guard's, its stop never costs bytes that have been taken already.
OnTurn = Callable[[int], LonghaulError | None]


def _no_turn(_written: int) -> LonghaulError | None:
    """Never stop a transfer, and keep no account."""
    return None


#: What follows the last byte; told how many bytes have been written. It is called
#: in a native thread unless the sink is Python code.
AtEnd = Callable[[int], None]


_writes = BoundedSemaphore(WRITES_AT_ONCE)


def pump(
    body: Body,
    sink: Sink,
    *,
    limit_bytes: int,
    idle_timeout_seconds: float,
    hasher: Hasher | None = None,
    guard: Guard = no_guard,
    native_writes: bool = True,
    on_turn: OnTurn = _no_turn,
    at_end: AtEnd | None = None,
) -> Transfer:
    """Move a request's body into ``sink`` until it ends, one way or another.

    At most ``limit_bytes`` are written. With ``native_writes`` the sink is
    called in a native thread, else in the calling greenlet. ``at_end`` is called
    if the body has come whole, before this returns; of a body that is known to be
    small, by the very job that takes its last byte. Errors of the sink and of
    ``at_end`` are raised as they are; everything the client does is told by ``Ended``.
    """
    written, idle_seconds = 0, 0.0
    end = _End(at_end)
    most_bytes = limit_bytes if body.length is None else min(limit_bytes, body.length)
    at_once = at_end is not None and most_bytes <= ENDED_AT_ONCE_BYTES
    while not body.ended:
        reason = guard(idle_seconds) or on_turn(written)
        if reason is not None:
            return Transfer(written, Ended.STOPPED, reason)
        if body.cut:
            return Transfer(written, Ended.CUT)
        if idle_seconds >= idle_timeout_seconds:
            return Transfer(written, Ended.STALLED)
        body.wait(min(TURN_SECONDS, idle_timeout_seconds))
        room = limit_bytes - written
        if native_writes:
            pool = part_pool if at_once else receive_pool
            end_here = end.after(written) if at_once else None
            moved, reason = pool.run(lambda: _drain(body, sink, hasher, room, guard, end_here))  # noqa: B023
        else:
            moved, reason = _drain_then_write(body, sink, hasher, room, guard)
        written += min(moved, room)
        if reason is not None:
            return Transfer(written, Ended.STOPPED, reason)
        if moved > room:
            return Transfer(written, Ended.TOO_LONG)
        # Only a look that found nothing tells of the client: before it this
        # server may have waited for a lease, or for its own disk.
        idle_seconds = 0.0 if moved else body.idle_seconds()
    if not end.is_reached:
        run = part_pool.run if native_writes else _run_here
        run(lambda: end.reach(written))
    return Transfer(written, Ended.WHOLE)


class _End:
    """The end of a body, reached once at most."""

    def __init__(self, at_end: AtEnd | None) -> None:
        self._at_end = at_end
        self.is_reached = at_end is None

    def reach(self, written: int) -> None:
        """Do what follows the last byte of ``written``."""
        self.is_reached = True
        if self._at_end is not None:
            self._at_end(written)

    def after(self, written: int) -> AtEnd:
        """Return what a job calls that adds its bytes to ``written`` ones."""
        return lambda moved: self.reach(written + moved)


def _run_here(work: Callable[[], None]) -> None:
    work()


#: Bytes taken, more than there was room for if the body is too long, and the
#: guard's error if it forbade to write those that came after them.
_Moved = tuple[int, LonghaulError | None]


def _drain(
    body: Body,
    sink: Sink,
    hasher: Hasher | None,
    room: int,
    guard: Guard,
    at_end: AtEnd | None = None,
) -> _Moved:
    """Move what is there, for one job's worth; end a body that has come whole."""
    started_at, moved = time.monotonic(), 0
    with _mover(body, sink, hasher) as mover:
        while moved < JOB_BYTES and time.monotonic() - started_at < JOB_SECONDS:
            filled = mover.fill(body)
            if not filled:
                break
            # The process may have been frozen since the last look, for so long
            # that the lease has run out and somebody else has written the part.
            reason = guard(0.0)
            if reason is not None:
                return moved, reason
            wanted = min(filled, room - moved)
            moved += filled
            mover.move(wanted)
            if wanted < filled or mover.is_pause(filled):
                break
    if at_end is not None and body.ended and moved <= room:
        at_end(moved)
    return moved, None


def _mover(body: Body, sink: Sink, hasher: Hasher | None) -> Mover | PipeMover:
    if hasher is None and body.splices and isinstance(sink, PipeSink) and sink.splices:
        # A pipe holds a MiB: to copy four at a time costs less than to splice them.
        is_large = buffer_bytes(body.length) == LARGEST_BUFFER_BYTES
        pipe = None if is_large else pipes.take()
        if pipe is not None:
            return PipeMover(pipe, sink)
    return Mover(sink.write, None if hasher is None else hasher.update, body.length)


def _drain_then_write(
    body: Body, sink: Sink, hasher: Hasher | None, room: int, guard: Guard
) -> _Moved:
    """Like ``_drain`` for sinks that are Python code with sockets: the greenlet writes."""
    with _writes:
        buffer = buffers.take(SMALLEST_BUFFER_BYTES)
        try:
            filled = receive_pool.run(lambda: _fill_and_hash(body, buffer, hasher))
            reason = guard(0.0) if filled else None
            if reason is not None:
                return 0, reason
            if filled and room:
                sink.write(buffer[: min(filled, room)])
        finally:
            buffers.give_back(buffer)
    return filled, None


def _fill_and_hash(body: Body, buffer: memoryview, hasher: Hasher | None) -> int:
    filled = fill(body, buffer)
    if hasher is not None and filled:
        hasher.update(buffer[:filled])
    return filled
