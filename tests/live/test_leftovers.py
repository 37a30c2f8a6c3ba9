"""Bodies nobody wants, and bytes that are left over: never taken for anything else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.native import KIB, MIB, Native
from tests.harness.server import API_KEY, Server
from tests.live.wire import Connection, chunked, put_head, status_head, stored_file

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: What the server reads of a body that it has refused.
DISCARDED_BYTES = 128 * MIB


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with Connection(server) as opened:
        yield opened


def test_a_put_without_a_body_is_answered_and_the_connection_kept(
    native: Native, connection: Connection
) -> None:
    upload = native.init(size=MIB)
    connection.send(put_head(upload, 0, length=0) + status_head(upload))
    assert connection.read().status == 400
    assert connection.read().json["uploaded_parts"] == 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_body_of_a_request_that_needs_none_is_not_taken_for_the_next_request(
    native: Native, connection: Connection, method: str
) -> None:
    upload = native.init(size=MIB)
    hidden = f"DELETE /upload/{upload.id} HTTP/1.1\r\nX-API-Key: {API_KEY}\r\n\r\n".encode() * 100
    head = status_head(upload, f"Content-Length: {len(hidden)}")
    if method == "HEAD":
        head = head.replace(b"GET", b"HEAD", 1).replace(b"/upload/", b"/health?", 1)
    connection.send(head + hidden)
    assert connection.read(to_head=method == "HEAD").status == 200
    connection.send(status_head(upload))
    assert connection.read().json["status"] == "pending"


def test_a_refused_body_is_read_and_the_connection_kept(
    native: Native, connection: Connection, content: Content
) -> None:
    upload = native.init(size=MIB)
    connection.send(put_head(upload, 0, token="wrong"), content(MIB), status_head(upload))
    assert connection.read().status == 401
    assert connection.read().status == 200


def test_a_refused_body_over_the_bound_ends_its_connection(
    native: Native, connection: Connection
) -> None:
    """Bytes of a body that are left over must never be taken for a request."""
    upload = native.init(size=MIB)
    hidden = status_head(upload) * 1000
    connection.send(put_head(upload, 0, token="wrong", length=10 * DISCARDED_BYTES))
    assert connection.read().status == 401
    sent = 0
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        while sent < 5 * DISCARDED_BYTES:
            connection.send(hidden)
            sent += len(hidden)
    assert sent > DISCARDED_BYTES / 2
    with pytest.raises(ConnectionError):
        connection.read()


@pytest.mark.parametrize(
    "framing",
    [
        ("Transfer-Encoding: chunked", "Content-Length: 100"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Content-Length: 100", "Content-Length: 101"),
        ("Content-Length: -1",),
        ("Content-Length: 1_00",),
        ("Content-Length: ²",),
        ("Content-Length: " + "9" * 5000,),
    ],
)
def test_a_framing_that_can_be_read_in_two_ways_is_refused_and_the_connection_ended(
    native: Native, connection: Connection, framing: tuple[str, ...]
) -> None:
    upload = native.init(size=100)
    connection.send(put_head(upload, 0, *framing) + chunked(bytes(100)) + status_head(upload))
    assert connection.read().status in (400, 501)
    connection.wait_for_end()
    assert native.pending(upload) == [0]


def test_a_body_is_not_read_past_its_declared_length(
    native: Native, connection: Connection, content: Content
) -> None:
    data = content(100)
    upload = native.init(size=len(data))
    connection.send(put_head(upload, 0) + data + b"surplus that is no request\r\n\r\n")
    assert connection.read().status == 200
    assert connection.read().status == 400
    connection.wait_for_end()
    assert stored_file(native, upload).read_bytes() == data


def a_request(native: Native, content: Content) -> tuple[bytes, int]:
    """Return some request, with whatever body, and the status it must be answered with."""
    length = random.choice([1, 500, 8191, 8192, 8193, 70_000, 256 * KIB, 300_000])
    data = content(length)
    upload = native.init(size=length)
    extra = f"Content-Length: {length}"
    return random.choice(
        [
            (put_head(upload, 0) + data, 200),
            (put_head(upload, 0, "Transfer-Encoding: chunked") + chunked(data[:99], data[99:]), 200)
            if length > 99
            else (put_head(upload, 0) + data, 200),
            (put_head(upload, 0, token="wrong") + data, 401),
            (put_head(upload, 0, length=length + 7) + data + b"GET / x", 400),
            (put_head(upload, 0, length=0), 400),
            (status_head(upload), 200),
            (status_head(upload, extra) + data, 200),
            (status_head(upload, extra).replace(b"/status", b"/nothing") + data, 404),
            (status_head(upload, extra).replace(b"GET", b"POST") + data, 405),
        ]
    )


def test_any_requests_in_any_segments_are_answered_in_order(
    server: Server, native: Native, content: Content
) -> None:
    """A byte too many or too few taken for any body would derail all that follows."""
    for _ in range(5):
        requests = [a_request(native, content) for _ in range(30)]
        stream = b"".join(sent for sent, _ in requests)
        marks = sorted(random.sample(range(1, len(stream)), 60))
        segments = [stream[a:b] for a, b in itertools.pairwise([0, *marks, len(stream)])]
        with Connection(server) as connection, ThreadPoolExecutor(1) as pool:
            sending = pool.submit(connection.send, *segments)
            answers = [connection.read().status for _ in requests]
            sending.result()
        assert answers == [status for _, status in requests]
