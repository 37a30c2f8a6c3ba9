"""Connections that break, stall or crawl: parts are whole or pending, never anything else."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.native import KIB, MIB, Native, Upload
from tests.harness.server import Server
from tests.live.wire import (
    Connection,
    chunked,
    lease_holder,
    log_events,
    put_head,
    status_head,
    stored_file,
    until,
)

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: Any fault of these tests must end long before the default idle timeout of 60 s.
IDLE_SECONDS = 1


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that gives up a body after IDLE_SECONDS without a byte."""
    server = Server(tmp_path_factory.mktemp("impatient"), BODY_IDLE_TIMEOUT_SECS=IDLE_SECONDS)
    with contextlib.closing(server):  # also when it does not start
        yield server.start()


def answered(server: Server, upload: Upload, part: int) -> list[int]:
    """Return the statuses that requests for a part ended with, heard by anybody or not."""
    path = f"/upload/{upload.id}/part/{part}"
    return [line["status"] for line in log_events(server, "request") if line["path"] == path]


def send_the_rest(native: Native, upload: Upload, data: bytes) -> None:
    """Put all pending parts, complete, and compare the stored file."""
    for part in native.pending(upload):
        offset, length = upload.span(part)
        native.put(upload, part, data[offset : offset + length])
    assert stored_file(native, upload).read_bytes() == data


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_part_cut_anywhere_stays_pending_and_goes_through_later(
    server: Server, native: Native, content: Content, how: str
) -> None:
    data = content(2 * MIB + 12345)
    upload = native.init(size=len(data))
    cuts = [(0, 0), (0, 1), (1, MIB - 1), (2, 12344)]
    cuts += [(part, random.randrange(upload.span(part)[1])) for part in (0, 1, 2) * 4]
    for part, sent_bytes in cuts:
        seen = len(answered(server, upload, part))
        offset, _ = upload.span(part)
        native.send_then_cut(upload, part, data[offset : offset + sent_bytes], how=how)
        statuses = until(lambda part=part, seen=seen: answered(server, upload, part)[seen:])
        assert statuses == [400], (part, sent_bytes)
        assert native.pending(upload) == [0, 1, 2], (part, sent_bytes)
    send_the_rest(native, upload, data)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_retry_right_behind_a_cut_is_stored(native: Native, content: Content, how: str) -> None:
    """The client does not wait until the server has noticed; the first writer lets go in time."""
    for _ in range(10):
        data = content(MIB)
        upload = native.init(size=MIB)
        native.send_then_cut(upload, 0, data[: random.randrange(MIB)], how=how)
        send_the_rest(native, upload, data)


def test_a_head_cut_in_the_middle_does_nothing(
    server: Server, native: Native, content: Content
) -> None:
    data = content(100)
    upload = native.init(size=len(data))
    head = put_head(upload, 0)
    for length in (1, 20, len(head) - 1):
        with Connection(server) as connection:
            connection.send(head[:length])
            connection.end_sending()
            connection.wait_for_end()
    send_the_rest(native, upload, data)
    assert answered(server, upload, 0) == [200]


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("where", ["in a size", "in a chunk", "between chunks", "before the end"])
def test_a_chunked_body_cut_anywhere_stays_pending(
    server: Server, native: Native, content: Content, how: str, where: str
) -> None:
    data = content(100_000)
    upload = native.init(size=len(data))
    body = {
        "in a size": chunked(data[:1000], end=False) + b"1f",
        "in a chunk": chunked(data, end=False)[:-50_000],
        "between chunks": chunked(data[:60_000], end=False),
        # All bytes are here, but the client has not said that these are all.
        "before the end": chunked(data, end=False),
    }[where]
    with Connection(server) as connection:
        connection.send(put_head(upload, 0, "Transfer-Encoding: chunked") + body)
        connection.cut(how)
    assert until(lambda: answered(server, upload, 0)) == [400]
    assert native.pending(upload) == [0]
    send_the_rest(native, upload, data)


@pytest.mark.parametrize(
    "broken",
    [
        b"zz\r\n",
        b"5\r\nabcdefgh\r\n",
        b"\r\n",
        b"-1\r\n",
        b"0;" + b"x" * 10_000,
        b"0\r\na trailer without a colon\r\n\r\n",
        b"0\r\n" + b"X-Trailer: and so on\r\n" * 50_000,
    ],
    ids=["size", "length", "empty", "negative", "extension", "trailer", "trailers"],
)
def test_a_broken_chunked_encoding_is_refused_and_its_connection_ended(
    server: Server, native: Native, content: Content, broken: bytes
) -> None:
    data = content(100_000)
    upload = native.init(size=len(data))
    with Connection(server) as connection:
        connection.send(put_head(upload, 0, "Transfer-Encoding: chunked"))
        connection.send(chunked(data, end=False) + broken + status_head(upload))
        assert connection.read().status == 400
        connection.wait_for_end()
    send_the_rest(native, upload, data)


def test_a_half_closed_client_that_has_sent_all_reads_its_receipt(
    server: Server, native: Native, content: Content
) -> None:
    data = content(MIB)
    upload = native.init(size=MIB)
    with Connection(server) as connection:
        connection.send(put_head(upload, 0), data)
        connection.end_sending()
        assert connection.read().status == 200
        connection.wait_for_end()
    send_the_rest(native, upload, data)


@pytest.mark.parametrize("sent_bytes", [0, 1, 300 * KIB, MIB - 1])
def test_a_half_closed_client_that_has_sent_too_little_reads_why_it_failed(
    server: Server, native: Native, content: Content, sent_bytes: int
) -> None:
    data = content(MIB)
    upload = native.init(size=MIB)
    with Connection(server) as connection:
        connection.send(put_head(upload, 0), data[:sent_bytes])
        connection.end_sending()
        answer = connection.read()
        assert answer.status == 400
        assert f"expected {MIB}, got {sent_bytes}" in answer.json["error"]
        connection.wait_for_end()
    send_the_rest(native, upload, data)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("sent_bytes", [0, 100, 300 * KIB])
def test_a_stalled_body_is_given_up_with_408(
    impatient: Server, content: Content, framing: str, sent_bytes: int
) -> None:
    native = Native(impatient)
    data = content(MIB)
    upload = native.init(size=MIB)
    with Connection(impatient) as connection:
        started_at = time.monotonic()
        if framing == "length":
            connection.send(put_head(upload, 0), data[:sent_bytes])
        else:
            begun = chunked(data[:sent_bytes], end=False) if sent_bytes else b""
            connection.send(put_head(upload, 0, "Transfer-Encoding: chunked"), begun)
        answer = connection.read()
        assert answer.status == 408
        assert answer.json["code"] == "body_stalled"
        assert "retry-after" in answer.headers
        assert time.monotonic() - started_at >= IDLE_SECONDS
        # The part is free at once, though the connection is open still.
        native.put(upload, 0, data)
    send_the_rest(native, upload, data)


def test_a_stalled_connection_is_ended_after_the_answer(
    impatient: Server, content: Content
) -> None:
    native = Native(impatient)
    upload = native.init(size=MIB)
    with Connection(impatient) as connection:
        connection.send(put_head(upload, 0), content(100))
        assert connection.read().status == 408
        connection.wait_for_end()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_of_a_few_kilobytes_a_second_is_not_given_up(
    impatient: Server, content: Content, framing: str
) -> None:
    """It never fills a buffer or reaches the low-water mark, yet bytes keep coming."""
    native = Native(impatient)
    data = content(16 * KIB)
    upload = native.init(size=len(data))
    with Connection(impatient) as connection:
        started_at = time.monotonic()
        connection.send(
            put_head(upload, 0)
            if framing == "length"
            else put_head(upload, 0, "Transfer-Encoding: chunked")
        )
        for at in range(0, len(data), 512):
            piece = data[at : at + 512]
            connection.send(piece if framing == "length" else chunked(piece, end=False))
            time.sleep(0.1)  # the client's pace
        if framing == "chunked":
            connection.send(b"0\r\n\r\n")
        assert connection.read().status == 200
        assert time.monotonic() - started_at > 2 * IDLE_SECONDS
    send_the_rest(native, upload, data)


def test_a_body_that_had_to_wait_for_another_writer_is_not_taken_for_stalled(
    impatient: Server, content: Content
) -> None:
    """While the server does not read, it cannot know whether the client sends."""
    native = Native(impatient)
    data = content(MIB)
    upload = native.init(size=MIB)
    with Connection(impatient) as first, Connection(impatient) as second:
        first.send(put_head(upload, 0))
        until(lambda: lease_holder(impatient, upload, 0))
        second.send(put_head(upload, 0), data)
        for _ in range(15):
            first.send(b"x")
            time.sleep(0.1)  # the first one's pace, for longer than the idle timeout
        first.cut("fin")
        assert second.read().status == 200
    send_the_rest(native, upload, data)


def test_cut_connections_leave_no_descriptors_or_leases_behind(
    server: Server, native: Native, content: Content
) -> None:
    data = content(MIB)
    upload = native.init(size=10 * MIB)
    chunked_head = "Transfer-Encoding: chunked"

    def cut_some() -> None:
        for part in range(10):
            sent = data[: random.randrange(MIB)]
            with Connection(server) as connection:
                if part % 2:
                    connection.send(put_head(upload, part), sent)
                else:
                    connection.send(put_head(upload, part, chunked_head), chunked(sent, end=False))
                connection.cut(random.choice(["fin", "rst"]))

    def is_forgotten() -> bool:
        leased = any(lease_holder(server, upload, part) for part in range(10))
        return not leased and open_in_workers(server) <= before

    before = open_in_workers(server)
    for _ in range(10):
        cut_some()
    until(is_forgotten, what="all that was opened is closed")


def open_in_workers(server: Server) -> int:
    """Return how many connections and staged files the workers have open."""
    found = 0
    for pid in server.worker_pids():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found += os.readlink(descriptor).startswith(("socket:", str(server.uploads)))
    return found
