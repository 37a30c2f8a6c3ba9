"""The pump: what follows the last byte, in which thread, and when it does not follow."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import gevent
import gevent.event
import pytest
from gevent import monkey
from gevent.lock import BoundedSemaphore

from app.errors import ShuttingDown, StorageFull
from app.ingest import pump as pump_module
from app.ingest.body import Body
from app.ingest.moving import Buffers
from app.ingest.pump import (
    ENDED_AT_ONCE_BYTES,
    WRITES_AT_ONCE,
    Ended,
    Transfer,
    pump,
)

_thread = monkey.get_original("_thread", "get_ident")


class PiecewiseBody(Body):
    """A body that arrives in pieces, one a turn; after the last it is whole, or cut."""

    def __init__(self, *pieces: bytes, cut: bool = False) -> None:
        super().__init__(sum(map(len, pieces)))
        self._pieces = list(pieces)
        self._here = b""
        self._breaks = cut

    @property
    def ended(self) -> bool:
        return not self._pieces and not self._here and not self._breaks

    def wait(self, timeout_seconds: float) -> None:
        if not self._here and self._pieces:
            self._here = self._pieces.pop(0)

    def wake(self) -> None:
        """Nobody waits."""

    def take(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._here))
        buffer[:count] = self._here[:count]
        self._here = self._here[count:]
        self.received += count
        self.cut = self._breaks and not self._pieces and not self._here
        return count

    def more_within(self, milliseconds: int) -> bool:
        return bool(self._here)

    def idle_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Target:
    """A sink and what follows it: what was written, in which threads, and how it ended."""

    data: bytearray = field(default_factory=bytearray)
    writers: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    ended_by: int | None = None

    def write(self, buffer: memoryview) -> None:
        self.data += buffer
        self.writers.append(_thread())

    def at_end(self, written: int) -> None:
        assert written == len(self.data)
        self.ends.append(written)
        self.ended_by = _thread()


def move(body: Body, target: Target, limit_bytes: int, *, native_writes: bool = True) -> Transfer:
    return pump(
        body,
        target,
        limit_bytes=limit_bytes,
        idle_timeout_seconds=30,
        native_writes=native_writes,
        at_end=target.at_end,
    )


def test_the_job_that_takes_a_small_bodys_last_byte_ends_it() -> None:
    target = Target()
    transfer = move(PiecewiseBody(b"ab", b"c"), target, 3)
    assert transfer == Transfer(3, Ended.WHOLE)
    assert bytes(target.data) == b"abc"
    assert target.ends == [3]
    assert target.ended_by == target.writers[-1]
    assert target.ended_by != threading.main_thread().ident


def test_a_large_body_is_ended_in_a_native_thread() -> None:
    target = Target()
    length = ENDED_AT_ONCE_BYTES + 1
    assert move(PiecewiseBody(bytes(length)), target, length) == Transfer(length, Ended.WHOLE)
    assert target.ends == [length]
    assert target.ended_by != threading.main_thread().ident


@pytest.mark.parametrize("native_writes", [True, False])
def test_a_body_without_bytes_ends_too(native_writes: bool) -> None:
    target = Target()
    transfer = move(PiecewiseBody(), target, 0, native_writes=native_writes)
    assert transfer == Transfer(0, Ended.WHOLE)
    assert target.ends == [0]


def test_where_the_sink_is_python_code_so_is_the_end() -> None:
    target = Target()
    move(PiecewiseBody(b"ab", b"c"), target, 3, native_writes=False)
    assert target.ends == [3]
    assert {*target.writers, target.ended_by} == {_thread()}


@pytest.mark.parametrize("limit_bytes", [4, 2 * ENDED_AT_ONCE_BYTES])
def test_a_cut_body_does_not_end(limit_bytes: int) -> None:
    target = Target()
    transfer = move(PiecewiseBody(b"ab", b"cd", cut=True), target, limit_bytes)
    assert transfer == Transfer(4, Ended.CUT)
    assert target.ends == []


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"abc", b"d"]])
def test_a_body_that_is_too_long_does_not_end(pieces: list[bytes]) -> None:
    target = Target()
    assert move(PiecewiseBody(*pieces), target, 3) == Transfer(3, Ended.TOO_LONG)
    assert bytes(target.data) == b"abc"
    assert target.ends == []


def test_a_body_that_is_stopped_at_its_last_piece_does_not_end() -> None:
    target = Target()
    body = PiecewiseBody(b"ab", b"c")
    transfer = pump(
        body,
        target,
        limit_bytes=3,
        idle_timeout_seconds=30,
        guard=lambda _idle: ShuttingDown() if body.received == 3 else None,
        at_end=target.at_end,
    )
    assert transfer.ended is Ended.STOPPED
    assert bytes(target.data) == b"ab"
    assert target.ends == []


@pytest.mark.parametrize("length", [3, ENDED_AT_ONCE_BYTES + 1])
def test_an_error_at_the_end_is_raised(length: int) -> None:
    def full(_written: int) -> None:
        raise StorageFull

    with pytest.raises(StorageFull):
        pump(
            PiecewiseBody(bytes(length)),
            Target(),
            limit_bytes=length,
            idle_timeout_seconds=30,
            at_end=full,
        )


def test_greenlets_that_write_hold_so_many_buffers_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many clients send to a server that takes nothing at the moment."""
    held: list[int] = []
    peak: list[int] = []
    let_go = gevent.event.Event()

    class Counting(Buffers):
        def take(self, size_bytes: int) -> memoryview:
            held.append(1)
            peak[:] = [max([*peak, len(held)])]
            return super().take(size_bytes)

        def give_back(self, buffer: memoryview) -> None:
            held.pop()
            super().give_back(buffer)

    class Stalled:
        def write(self, buffer: memoryview) -> None:
            let_go.wait()

    monkeypatch.setattr(pump_module, "buffers", Counting())
    monkeypatch.setattr(pump_module, "_writes", BoundedSemaphore(WRITES_AT_ONCE))

    def send() -> Transfer:
        return pump(
            PiecewiseBody(b"abc", b"def"),
            Stalled(),
            limit_bytes=6,
            idle_timeout_seconds=60,
            native_writes=False,
        )

    senders = [gevent.spawn(send) for _ in range(2 * WRITES_AT_ONCE)]
    gevent.sleep(0)  # each has run until it first waits
    assert len(held) == WRITES_AT_ONCE
    let_go.set()
    assert {sender.get() for sender in senders} == {Transfer(6, Ended.WHOLE)}
    assert (len(held), peak) == (0, [WRITES_AT_ONCE])
