"""Bodies that are read whole into memory, and bodies nobody wants."""

from __future__ import annotations

import time

from app.errors import BodyStalled, LonghaulError, MalformedRequest, ShuttingDown
from app.ingest.body import Body
from app.ingest.pump import Ended, pump

#: What is read of an unwanted body so that the client sees our answer instead
#: of a reset connection: a part of the largest usual size and some more.
DISCARD_BYTES = 128 * 1024 * 1024
DISCARD_SECONDS = 30.0
DISCARD_IDLE_SECONDS = 5.0


class _Collector:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, buffer: memoryview) -> None:
        self.data += buffer


class _Nowhere:
    def write(self, buffer: memoryview) -> None:
        """Forget the bytes."""


def read_whole(body: Body, *, limit_bytes: int, idle_timeout_seconds: float) -> bytes | None:
    """Return the whole body, None if it is longer than ``limit_bytes``.

    Raises MalformedRequest if the connection was cut, BodyStalled if nothing
    arrived for the idle timeout.
    """
    if body.length is not None and body.length > limit_bytes:
        return None
    collector = _Collector()
    transfer = pump(
        body, collector, limit_bytes=limit_bytes, idle_timeout_seconds=idle_timeout_seconds
    )
    if transfer.ended is Ended.TOO_LONG:
        return None
    if transfer.ended is Ended.STALLED:
        raise BodyStalled(idle_timeout_seconds)
    if transfer.ended is Ended.CUT:
        raise MalformedRequest("The request body ended early; send it again")
    return bytes(collector.data)


def discard_rest(body: Body) -> None:
    """Read and forget what is left of a body, within bounds, then close it.

    To be called after the answer has been sent: a client that is still sending
    would otherwise get a connection reset and never see the answer. A body
    that is longer or slower than the bounds has its connection closed.
    """
    give_up_at = time.monotonic() + DISCARD_SECONDS

    def guard(_idle_seconds: float) -> LonghaulError | None:
        return ShuttingDown() if time.monotonic() > give_up_at else None

    pump(
        body,
        _Nowhere(),
        limit_bytes=DISCARD_BYTES,
        idle_timeout_seconds=DISCARD_IDLE_SECONDS,
        guard=guard,
    )
    body.close()
