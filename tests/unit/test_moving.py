"""Hashing beside receiving and writing: in another thread, in order, and never too late."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from app.ingest import companions as companions_module
from app.ingest import moving
from app.ingest.companions import Companion, Companions
from app.ingest.moving import MIB, Mover, buffer_bytes
from tests.harness.bodies import PieceBody

#: Longer than anything here takes.
PATIENCE_SECONDS = 30.0

#: Of a body that may have a companion.
LONG_BYTES = 5 * MIB


@pytest.fixture(autouse=True)
def companions(monkeypatch: pytest.MonkeyPatch) -> Companions:
    """Companions for one job at a time."""
    companions = Companions(1)
    monkeypatch.setattr(moving, "companions", companions)
    return companions


@dataclass
class Meeting:
    """Hashes a buffer only once it has been written, and writes the next only once it is hashed."""

    hashed: bytearray = field(default_factory=bytearray)
    written: bytearray = field(default_factory=bytearray)
    threads: set[int] = field(default_factory=set)
    _is_written: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def update(self, data: memoryview) -> None:
        assert self._is_written.acquire(timeout=PATIENCE_SECONDS)
        self.hashed += data
        self.threads.add(threading.get_ident())

    def write(self, data: memoryview) -> None:
        self.written += data
        self._is_written.release()


def put(mover: Mover, data: bytes) -> None:
    """Move ``data`` as a job does."""
    assert mover.fill(PieceBody([data])) == len(data)
    mover.move(len(data))


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield os.urandom(buffer_bytes(LONG_BYTES))


@pytest.mark.parametrize(
    ("length", "moved"),
    [
        (1, MIB),
        (MIB, MIB),
        (MIB + 1, 2 * MIB),
        (16 * MIB - 1, 2 * MIB),
        (16 * MIB, 4 * MIB),
        (None, 4 * MIB),
    ],
)
def test_long_bodies_are_moved_in_large_pieces(length: int | None, moved: int) -> None:
    assert buffer_bytes(length) == moved
    with Mover(bytearray().extend, None, length) as mover:
        assert mover.fill(PieceBody([bytes(5 * MIB)])) == moved


def test_a_buffer_is_hashed_while_it_is_written_and_never_overwritten_before() -> None:
    meeting, sent = Meeting(), list(pieces(5))
    with Mover(meeting.write, meeting.update, LONG_BYTES) as mover:
        for piece in sent:
            put(mover, piece)
    assert meeting.hashed == meeting.written == b"".join(sent)
    assert threading.get_ident() not in meeting.threads


@pytest.mark.parametrize("is_long", [False, True])
def test_a_job_without_a_companion_hashes_by_itself(companions: Companions, is_long: bool) -> None:
    other = companions.enter(wanted=True) if is_long else None
    calls: list[bytes] = []
    with Mover(calls.append, calls.append, LONG_BYTES if is_long else 1) as mover:  # type: ignore[arg-type]
        put(mover, b"ab")
        assert calls == [b"ab", b"ab"]
    if is_long:
        companions.leave(other)


def test_what_is_not_hashed_needs_no_companion(companions: Companions) -> None:
    written = bytearray()
    with Mover(written.extend, None, LONG_BYTES) as mover:
        put(mover, b"ab")
    assert written == b"ab"
    assert companions._idle == []


def test_an_error_of_writing_is_raised_once_nothing_is_hashed_any_more() -> None:
    let_go, ends = threading.Event(), []

    def update(_data: memoryview) -> None:
        assert let_go.wait(PATIENCE_SECONDS)
        ends.append("hashed")

    def write(_data: memoryview) -> None:
        let_go.set()
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        with Mover(write, update, LONG_BYTES) as mover:
            put(mover, b"ab")
    assert ends == ["hashed"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_hashing_is_raised(count: int) -> None:
    def update(_data: memoryview) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        with Mover(lambda _data: None, update, LONG_BYTES) as mover:
            for _ in range(count):
                put(mover, b"ab")


def test_buffers_and_companions_are_used_again(
    companions: Companions, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    class Counting(moving.Buffers):
        def take(self, size_bytes: int) -> memoryview:
            buffer = super().take(size_bytes)
            taken.append(id(buffer.obj))
            return buffer

    monkeypatch.setattr(moving, "buffers", Counting())
    used: list[Companion] = []
    for _ in range(3):
        with Mover(lambda _data: None, lambda _data: None, LONG_BYTES) as mover:
            put(mover, b"ab")
        used += companions._idle
    assert len(taken) == 9
    assert len(set(taken)) == 3
    assert len(set(used)) == 1


def test_as_many_jobs_as_the_limit_have_companions_at_once() -> None:
    companions = Companions(2)
    first, second, third = (companions.enter(wanted=True) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is None
    companions.leave(first)
    companions.leave(third)
    assert companions.enter(wanted=True) is first


def test_where_there_are_no_more_threads_a_job_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(companions_module, "_start_thread", no_thread)
    companions = Companions(1)
    for _ in range(2):
        companion = companions.enter(wanted=True)
        assert companion is None
        companions.leave(companion)
    monkeypatch.undo()
    assert companions.enter(wanted=True) is not None


def test_a_forked_process_has_companions_of_its_own() -> None:
    companions = Companions(1)
    companions.leave(companions.enter(wanted=True))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(int(PATIENCE_SECONDS))
        companion = companions.enter(wanted=True)
        assert companion is not None
        companion.start(lambda: os.write(writer, b"done"))
        companion.wait()
        os._exit(0)
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(reader, 10) == b"done"
    os.close(reader)
