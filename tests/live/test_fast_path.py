"""Bodies come from the socket itself, and gunicorn's connection survives it."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.native import KIB, MIB, Native, Upload
from tests.harness.server import Server
from tests.live.wire import (
    Connection,
    TlsServer,
    chunked,
    metric,
    put_head,
    status_head,
    stored_file,
)

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

FROM_SOCKET = 'longhaul_bodies_total{source="socket"}'
FROM_STREAM = 'longhaul_bodies_total{source="stream"}'


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with Connection(server) as opened:
        yield opened


def bodies(server: Server) -> tuple[float, float]:
    """Return how many bodies came from the socket and from the stream so far."""
    return metric(server, FROM_SOCKET), metric(server, FROM_STREAM)


def assert_stored(native: Native, upload: Upload, content: bytes) -> None:
    """Complete an upload and compare the stored file."""
    assert stored_file(native, upload).read_bytes() == content


def test_a_body_of_known_length_comes_from_the_socket(
    server: Server, native: Native, content: Content
) -> None:
    upload = native.init(size=MIB)
    from_socket, from_stream = bodies(server)
    native.put(upload, 0, content(MIB))
    assert bodies(server) == (from_socket + 1, from_stream)


def test_a_chunked_body_comes_from_the_stream(
    server: Server, native: Native, content: Content
) -> None:
    data = content(MIB)
    upload = native.init(size=MIB)
    from_socket, from_stream = bodies(server)
    pieces = (data[at : at + 100 * KIB] for at in range(0, MIB, 100 * KIB))
    assert native.put_raw(upload, 0, pieces).status_code == 200
    assert bodies(server) == (from_socket, from_stream + 1)
    assert_stored(native, upload, data)


def test_a_connection_is_kept_after_a_body_from_the_socket(
    native: Native, connection: Connection, content: Content
) -> None:
    data = content(2 * MIB)
    upload = native.init(size=len(data))
    for part in (0, 1):
        connection.send(put_head(upload, part), data[part * MIB : (part + 1) * MIB])
        assert connection.read().status == 200
    # A mark of many bytes left on the socket would let this one wait for ever.
    connection.send(status_head(upload))
    assert connection.read().json["uploaded_parts"] == 2
    assert_stored(native, upload, data)


def test_a_connection_is_kept_after_a_chunked_body(
    native: Native, connection: Connection, content: Content
) -> None:
    data = content(MIB)
    upload = native.init(size=MIB)
    head = put_head(upload, 0, "Transfer-Encoding: chunked")
    # The next request's head follows the last chunk in the same segment.
    connection.send(head, chunked(data[:1000], data[1000:]) + status_head(upload))
    assert connection.read().status == 200
    assert connection.read().json["uploaded_parts"] == 1


@pytest.mark.parametrize("length", [1, 100, 64 * KIB, MIB])
def test_pipelined_requests_written_in_one_send_are_all_answered_in_order(
    native: Native, connection: Connection, content: Content, length: int
) -> None:
    data = content(2 * length)
    # Parts of a server have one length, so two files of one part each.
    first, second = native.init(size=length), native.init(size=length)
    connection.send(
        put_head(first, 0)
        + data[:length]
        + put_head(second, 0)
        + data[length:]
        + status_head(second)
    )
    answers = [connection.read() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.json.get("upload_id") for answer in answers] == [first.id, second.id, None]
    assert answers[2].json["uploaded_parts"] == 1
    assert_stored(native, first, data[:length])
    assert_stored(native, second, data[length:])


def test_a_body_may_begin_in_the_segment_of_its_head(
    native: Native, connection: Connection, content: Content
) -> None:
    data = content(MIB)
    upload = native.init(size=MIB)
    connection.send(put_head(upload, 0) + data[:3000], data[3000:])
    assert connection.read().status == 200
    assert_stored(native, upload, data)


def test_a_head_may_come_in_pieces(
    native: Native, connection: Connection, content: Content
) -> None:
    data = content(64 * KIB)
    upload = native.init(size=len(data))
    head = put_head(upload, 0)
    connection.send(head[:30], head[30:-3], head[-3:-1], head[-1:] + data[:1], data[1:])
    assert connection.read().status == 200
    assert_stored(native, upload, data)


@pytest.mark.parametrize(("length", "step"), [(700, 1), (MIB, 777)])
def test_a_body_in_many_tiny_segments_arrives_whole(
    native: Native, connection: Connection, content: Content, length: int, step: int
) -> None:
    data = content(length)
    upload = native.init(size=length)
    connection.send(put_head(upload, 0))
    connection.send(*(data[at : at + step] for at in range(0, length, step)))
    assert connection.read().status == 200
    assert_stored(native, upload, data)


@pytest.mark.parametrize("length", [256 * KIB - 1, 256 * KIB, 256 * KIB + 1, 512 * KIB, MIB])
def test_bodies_around_the_low_water_mark_do_not_wait_for_a_turn_of_the_clock(
    native: Native, connection: Connection, content: Content, length: int
) -> None:
    """The greenlet sleeps up to 1 s below the mark; the end of a body must wake it at once."""
    data = content(length)
    seconds = []
    for _ in range(5):  # the best of some, because the machine may be busy
        upload = native.init(size=length)
        connection.send(put_head(upload, 0), data[: length // 2])
        time.sleep(0.05)  # lets the server drain the first half and wait for the rest
        connection.send(data[length // 2 : -1])
        started_at = time.monotonic()
        connection.send(data[-1:])
        assert connection.read().status == 200
        seconds.append(time.monotonic() - started_at)
    assert min(seconds) < 0.5, seconds


def test_a_client_that_expects_100_continue_gets_it_before_the_body(
    native: Native, connection: Connection, content: Content
) -> None:
    data = content(MIB)
    upload = native.init(size=MIB)
    connection.send(put_head(upload, 0, "Expect: 100-continue"))
    assert connection.read().status == 100
    connection.send(data)
    assert connection.read().status == 200
    assert_stored(native, upload, data)


def test_tls_in_gunicorn_works_through_the_stream(
    tls_server: TlsServer, certificate: tuple[Path, Path], content: Content
) -> None:
    native = Native(tls_server)
    data = content(2 * MIB + 5)
    upload = native.init(size=len(data))
    from_socket, from_stream = bodies(tls_server)
    trust = ssl.create_default_context(cafile=str(certificate[0]))

    def wrap(sock: socket.socket) -> socket.socket:
        return trust.wrap_socket(sock, server_hostname="localhost")

    parts = [0, 1, 2]
    random.shuffle(parts)
    with Connection(tls_server, wrap=wrap) as connection:
        for part in parts:
            offset, length = upload.span(part)
            connection.send(put_head(upload, part), data[offset : offset + length])
            assert connection.read().status == 200
    assert bodies(tls_server) == (from_socket, from_stream + 3)
    assert_stored(native, upload, data)


def test_a_connection_cut_under_tls_leaves_the_part_pending(
    tls_server: TlsServer, certificate: tuple[Path, Path], content: Content
) -> None:
    native = Native(tls_server)
    upload = native.init(size=MIB)
    trust = ssl.create_default_context(cafile=str(certificate[0]))

    def wrap(sock: socket.socket) -> socket.socket:
        return trust.wrap_socket(sock, server_hostname="localhost")

    data = content(MIB)
    with Connection(tls_server, wrap=wrap) as connection:
        connection.send(put_head(upload, 0), data[: 700 * KIB])
        connection.cut("fin")
    native.put(upload, 0, data)
    assert_stored(native, upload, data)
