"""Bodies that go through a pipe: in order, within bounds, and nothing of one gets into another."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
from collections.abc import Callable, Iterable

import pytest

from app.errors import LonghaulError, ShuttingDown, StorageFull
from app.ingest import pipes as pipes_module
from app.ingest import pump as pump_module
from app.ingest.counted import Counted
from app.ingest.pipes import PIPE_BYTES, Pipe, Pipes
from app.ingest.pump import Ended, Hasher, Transfer, no_guard, pump
from tests.harness.bodies import PieceBody

pytestmark = pytest.mark.skipif(not hasattr(os, "splice"), reason="Linux only: splice(2)")

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(autouse=True)
def pipes(monkeypatch: pytest.MonkeyPatch) -> Pipes:
    """Pipes of this test alone."""
    pipes = Pipes(1)
    for module in (pipes_module, pump_module):
        monkeypatch.setattr(module, "pipes", pipes)
    return pipes


class SplicingBody(PieceBody):
    """Pieces that can be put into a pipe, as a socket's bytes can."""

    splices = True

    def splice(self, pipe: int, count: int) -> int:
        buffer = memoryview(bytearray(count))
        return os.write(pipe, buffer[:taken]) if (taken := self.take(buffer)) else 0


class Target:
    """A sink that takes bytes from pipes, and keeps them."""

    splices = True

    def __init__(self, *, full_at: int | None = None) -> None:
        self.data = bytearray()
        self.calls: list[str] = []
        self._full_at = full_at

    def write(self, buffer: memoryview) -> None:
        self.calls.append("write")
        self.data += buffer

    def write_from(self, pipe: int, count: int) -> None:
        self.calls.append("write_from")
        if self._full_at is not None and len(self.data) + count > self._full_at:
            raise StorageFull
        while count:
            data = os.read(pipe, count)
            self.data += data
            count -= len(data)


def move(
    pieces: Iterable[bytes],
    target: Target,
    limit_bytes: int = 10 * MIB,
    *,
    cut: int = 0,
    hasher: Hasher | None = None,
    guard: Callable[[float], LonghaulError | None] = no_guard,
) -> Transfer:
    body = SplicingBody(pieces, cut=cut)
    return pump(
        body, target, limit_bytes=limit_bytes, idle_timeout_seconds=30, hasher=hasher, guard=guard
    )


def test_a_body_arrives_whole_through_one_pipe_that_is_used_again(pipes: Pipes) -> None:
    used = set()
    for _ in range(3):
        target, data = Target(), random.randbytes(3 * PIPE_BYTES + 7)
        assert move([data], target) == Transfer(len(data), Ended.WHOLE)
        assert target.data == data
        assert set(target.calls) == {"write_from"}
        used.update(pipes._places)
    assert len(used) == 1
    assert isinstance(used.pop(), Pipe)


def test_a_cut_body_leaves_what_has_come() -> None:
    target = Target()
    assert move([b"ab", b"cd"], target, cut=3) == Transfer(4, Ended.CUT)
    assert target.data == b"abcd"


@pytest.mark.parametrize("pieces", [[b"abcd"], [b"abc", b"d"]])
def test_nothing_of_what_is_too_much_gets_into_the_next_body(pieces: list[bytes]) -> None:
    for _ in range(2):
        target = Target()
        assert move(pieces, target, limit_bytes=3) == Transfer(3, Ended.TOO_LONG)
        assert target.data == b"abc"


def test_nothing_of_what_may_not_be_written_gets_into_the_next_body(pipes: Pipes) -> None:
    target, stop = Target(), ShuttingDown()
    # Asked once before the greenlet waits, and then before the bytes are written.
    answers = iter([None, stop])
    transfer = move([b"secret"], target, guard=lambda _idle: next(answers))
    assert transfer == Transfer(0, Ended.STOPPED, stop)
    assert pipes._places == [None]
    assert move([b"public"], target) == Transfer(6, Ended.WHOLE)
    assert target.data == b"public"


def test_nothing_of_what_a_full_disk_left_gets_into_the_next_body() -> None:
    counted = Counted(Target(full_at=4))
    with pytest.raises(StorageFull):
        move([b"abc", b"de"], counted)  # type: ignore[arg-type]
    assert counted.written == 3
    target = Target()
    assert move([b"xy"], target) == Transfer(2, Ended.WHOLE)
    assert target.data == b"xy"


def test_what_is_hashed_comes_into_memory() -> None:
    target, hasher = Target(), hashlib.sha256()
    move([b"abc"], target, hasher=hasher)
    assert target.calls == ["write"]
    assert hasher.digest() == hashlib.sha256(b"abc").digest()


def test_a_large_body_comes_into_memory_in_larger_pieces_than_a_pipe_holds() -> None:
    target, data = Target(), random.randbytes(16 * MIB)
    assert move([data], target, limit_bytes=len(data)) == Transfer(len(data), Ended.WHOLE)
    assert target.calls == ["write"] * 4
    assert target.data == data


@pytest.mark.parametrize("counted", [False, True])
def test_a_sink_that_cannot_take_it_from_a_pipe_is_not_asked_to(counted: bool) -> None:
    target = Target()
    target.splices = False
    move([b"abc"], Counted(target) if counted else target)  # type: ignore[arg-type]
    assert target.calls == ["write"]


def test_what_cannot_be_spliced_from_its_socket_comes_into_memory() -> None:
    class Refused(SplicingBody):
        """As a socket's body in a sandbox that forbids splice(2)."""

        def splice(self, pipe: int, count: int) -> int:
            self.splices = False
            return 0

    target = Target()
    body = Refused([b"abc", b"de"])
    assert pump(body, target, limit_bytes=5, idle_timeout_seconds=30) == Transfer(5, Ended.WHOLE)
    assert target.data == b"abcde"
    assert set(target.calls) == {"write"}


def test_where_the_system_has_no_more_pipes_bytes_come_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = fcntl.fcntl

    def refusing(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return int(real(descriptor, command, argument))

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    before = len(os.listdir("/proc/self/fd"))
    target = Target()
    assert move([b"abc"], target) == Transfer(3, Ended.WHOLE)
    assert target.calls == ["write"]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pipe_holds_a_mebibyte_and_never_blocks() -> None:
    pipe = Pipe()
    try:
        assert os.write(pipe.writer, bytes(2 * PIPE_BYTES)) == pipe.size_bytes == PIPE_BYTES
        with pytest.raises(BlockingIOError):
            os.write(pipe.writer, b"x")
        assert len(os.read(pipe.reader, 2 * PIPE_BYTES)) == PIPE_BYTES
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 1)
    finally:
        pipe.close()


def test_a_process_has_so_many_pipes_and_no_more() -> None:
    pipes = Pipes(2)
    first, second = pipes.take(), pipes.take()
    assert first is not None
    assert second is not None
    assert pipes.take() is None
    pipes.give_back(first, is_empty=True)
    assert pipes.take() is first
    pipes.give_back(second, is_empty=False)
    third = pipes.take()
    assert third is not None
    for pipe in (first, third):
        pipe.close()
