"""tus PATCHes that break, stall or crawl: what has arrived is kept, and HEAD tells it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests.harness.native import KIB, MIB
from tests.harness.server import Server
from tests.harness.tus import (
    CONTENT_TYPE,
    Tus,
    TusUpload,
    checksum,
    finished_file,
    wait_until_arrived,
)
from tests.harness.wire import change, rows
from tests.live.wire import Connection, chunked, lease_holder, log_events, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: Any fault of these tests must end long before the default idle timeout of 60 s.
IDLE_SECONDS = 1


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that gives up a body after IDLE_SECONDS without a byte."""
    server = Server(tmp_path_factory.mktemp("impatient"), BODY_IDLE_TIMEOUT_SECS=IDLE_SECONDS)
    with contextlib.closing(server):
        yield server.start()


def answers(server: Server, upload: TusUpload, method: str = "PATCH") -> list[int]:
    """Return the statuses that requests for an upload ended with, heard by anybody or not."""
    lines = log_events(server, "request")
    return [
        line["status"] for line in lines if (line["path"], line["method"]) == (upload.path, method)
    ]


def send_the_rest(tus: Tus, upload: TusUpload, data: bytes) -> None:
    """Append what HEAD says is missing, and compare the stored file."""
    offset = tus.offset(upload)
    assert tus.patch(upload, offset, data[offset:]) == len(data)
    path = until(lambda: finished_file(tus.server, upload), what="the file is stored")
    assert path.read_bytes() == data


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_connection_cut_anywhere_keeps_every_byte_that_arrived(
    server: Server, tus: Tus, content: Content, how: str
) -> None:
    data = content(6 * MIB + 12345)
    upload, offset = tus.create(len(data)), 0
    for sent in [0, 1, 2, 4095, *(random.randrange(MIB) for _ in range(6))]:
        seen = len(answers(server, upload))
        piece = data[offset : offset + sent]
        tus.patch_then_cut(upload, offset, len(data) - offset, piece, how)
        assert until(lambda seen=seen: answers(server, upload)[seen:]) == [503]
        offset += sent
        assert tus.offset(upload) == offset
    send_the_rest(tus, upload, data)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("where", ["in a size", "in a chunk", "between chunks", "before the end"])
def test_a_chunked_body_cut_anywhere_keeps_every_byte_that_arrived(
    server: Server, tus: Tus, content: Content, how: str, where: str
) -> None:
    data = content(300_000)
    upload = tus.create(len(data) + 1)
    body, arrived = {
        "in a size": (chunked(data[:1000], end=False) + b"1f", 1000),
        "in a chunk": (chunked(data, end=False)[:-50_000], len(data) + 2 - 50_000),
        "between chunks": (chunked(data[:7], data[7:9000], end=False), 9000),
        "before the end": (chunked(data, end=False), len(data)),
    }[where]
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 0, None) + body)
        wait_until_arrived(connection.sock)
        connection.cut(how)
    until(lambda: answers(server, upload))
    assert tus.offset(upload) == arrived


def test_a_half_closed_client_reads_that_it_has_to_go_on(
    server: Server, tus: Tus, content: Content
) -> None:
    data = content(1000)
    upload = tus.create(len(data))
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 0, len(data)), data[:300])
        connection.end_sending()
        answer = connection.read()
        assert (answer.status, answer.json["code"]) == (503, "body_cut")
        connection.wait_for_end()
    assert tus.offset(upload) == 300
    send_the_rest(tus, upload, data)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_creation_cut_in_its_body_leaves_an_upload_that_expires(
    server: Server, tus: Tus, content: Content, how: str
) -> None:
    before = {row["id"] for row in rows(server, "SELECT id FROM uploads")}
    head = (
        f"POST /files HTTP/1.1\r\nHost: x\r\nX-API-Key: {tus.key}\r\nTus-Resumable: 1.0.0\r\n"
        f"Upload-Length: 1000\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: 1000\r\n\r\n"
    )
    with Connection(server) as connection:
        connection.send(head.encode(), content(400))
        until(lambda: {row["id"] for row in rows(server, "SELECT id FROM uploads")} - before)
        connection.cut(how)
    (upload_id,) = {row["id"] for row in rows(server, "SELECT id FROM uploads")} - before
    upload = TusUpload(f"{server.url}/files/{upload_id}")
    until(lambda: tus.offset(upload) == 400)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("sent", [0, 100, 300 * KIB])
def test_a_stalled_body_is_given_up_and_its_bytes_are_kept(
    impatient: Server, content: Content, framing: str, sent: int
) -> None:
    tus, data = Tus(impatient), content(MIB)
    upload = tus.create(MIB)
    with Connection(impatient) as connection:
        if framing == "length":
            connection.send(tus.patch_head(upload, 0, MIB), data[:sent])
        else:
            begun = chunked(data[:sent], end=False) if sent else b""
            connection.send(tus.patch_head(upload, 0, None), begun)
        answer = connection.read()
        assert (answer.status, answer.json["code"]) == (503, "body_stalled")
        # The upload is free at once, though the connection is open still.
        assert tus.offset(upload) == sent
        send_the_rest(tus, upload, data)


def test_a_client_that_crawls_is_not_taken_for_a_stalled_one(
    impatient: Server, content: Content
) -> None:
    tus, data = Tus(impatient), content(40)
    upload = tus.create(len(data))
    with Connection(impatient) as connection:
        connection.send(tus.patch_head(upload, 0, len(data)))
        for byte in range(len(data)):
            connection.send(data[byte : byte + 1])
            time.sleep(IDLE_SECONDS / 10)  # the client's pace
        assert connection.read().status == 204
    assert tus.offset(upload) == len(data)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_nothing_is_kept_of_a_cut_request_with_a_checksum(
    server: Server, tus: Tus, content: Content, how: str
) -> None:
    data = content(MIB)
    upload = tus.create(MIB)
    tus.patch(upload, 0, data[:1000])
    with tus.open_patch(upload, 1000, MIB - 1000, Upload_Checksum=checksum(data[1000:])) as sock:
        seen = len(answers(server, upload))
        sock.sendall(data[1000 : 500 * KIB])
        until(lambda: lease_holder(server, upload, "append"))
    until(lambda: answers(server, upload)[seen:])
    assert tus.offset(upload) == 1000
    assert tus.patch(upload, 1000, data[1000:], Upload_Checksum=checksum(data[1000:])) == MIB
    path = until(lambda: finished_file(server, upload))
    assert path.read_bytes() == data


def test_a_long_body_is_saved_while_it_goes_on(server: Server, tus: Tus, content: Content) -> None:
    """At least every 32 MiB, and within seconds where a client is slow."""
    data = content(40 * MIB)
    upload = tus.create(len(data))
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 0, len(data)), data[: 33 * MIB])
        until(lambda: tus.offset(upload) >= 32 * MIB, what="32 MiB are recorded")
        until(lambda: tus.offset(upload) == 33 * MIB, what="the rest is recorded after 5 s")
        connection.send(data[33 * MIB :])
        assert connection.read().status == 204
    path = until(lambda: finished_file(server, upload))
    assert path.read_bytes() == data


def test_a_client_that_is_slow_to_begin_gets_its_turn(
    server: Server, tus: Tus, content: Content
) -> None:
    """HEAD and GET take no lease and end nobody's request."""
    data = content(1000)
    upload = tus.create(len(data))
    with tus.open_patch(upload, 0, len(data)) as sock:
        until(lambda: lease_holder(server, upload, "append"))
        for _ in range(3):
            assert tus.offset(upload) == 0
            with Connection(server) as reader:
                reader.send(f"GET {upload.path} HTTP/1.1\r\nHost: x\r\n".encode())
                reader.send(f"X-API-Key: {tus.key}\r\n\r\n".encode())
                assert reader.read().status == 200  # and no end yet
        sock.sendall(data)
        until(lambda: answers(server, upload))
    assert answers(server, upload) == [204]


def test_what_lies_beyond_the_recorded_offset_is_overwritten(
    server: Server, tus: Tus, content: Content
) -> None:
    """As after a crash: the bytes were written and never recorded."""
    data, other = content(MIB), content(MIB)
    upload = tus.create(MIB)
    tus.patch(upload, 0, other[: 500 * KIB])
    change(server, "UPDATE uploads SET offset = 1000 WHERE id = ?", upload.id)
    tus.patch(upload, 1000, data[1000:])
    path = until(lambda: finished_file(server, upload))
    assert path.read_bytes() == other[:1000] + data[1000:]
