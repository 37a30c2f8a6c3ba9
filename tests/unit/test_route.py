"""The clock and the stream of outgoing requests, without a receiver."""

from __future__ import annotations

import socket

import httpcore
import pytest

from app.jobs.route import BoundedStream, Clock, DeadlinePassed


def test_a_wait_is_as_long_as_the_smaller_limit() -> None:
    with Clock(deadline_seconds=60, io_timeout_seconds=5).waiting() as seconds:
        assert seconds == 5
    with Clock(deadline_seconds=5, io_timeout_seconds=60).waiting() as seconds:
        assert 4 < seconds <= 5


def test_no_wait_begins_after_the_deadline() -> None:
    with pytest.raises(DeadlinePassed), Clock(0, 5).waiting():
        pytest.fail("the block must not run")


def test_a_timeout_is_the_deadline_only_if_the_deadline_was_nearer() -> None:
    with pytest.raises(DeadlinePassed), Clock(5, 60).waiting():
        raise TimeoutError
    with pytest.raises(TimeoutError) as timed_out, Clock(60, 5).waiting():
        raise TimeoutError
    assert not isinstance(timed_out.value, DeadlinePassed)


def test_what_a_receiver_said_before_it_left_can_be_read_after_a_failed_write() -> None:
    ours, theirs = socket.socketpair()
    stream = BoundedStream(ours, Clock(5, 5))
    theirs.sendall(b"too large")
    theirs.close()
    # httpcore goes on to read the answer after this error and no other.
    with pytest.raises(httpcore.WriteError):
        stream.write(b"x")
    assert stream.read(100) == b"too large"
    assert stream.read(100) == b""
    stream.close()
