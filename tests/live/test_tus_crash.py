"""SIGTERM and kill -9 during tus PATCHes: what a HEAD has told is there afterwards."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest
import requests

from tests.conftest import StartServer
from tests.harness.native import KIB, MIB
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, checksum, finished_file, wait_until_arrived
from tests.harness.wire import events
from tests.live.wire import Connection, chunked, lease_holder, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]


def stored(server: Server, upload: TusUpload) -> bytes:
    path = until(lambda: finished_file(server, upload), what="the file is stored")
    return path.read_bytes()


def go_on(tus: Tus, upload: TusUpload, data: bytes) -> None:
    """Append what is missing, as a client does after its server was away, and compare the file."""
    offset = tus.offset(upload)
    tus.patch(upload, offset, data[offset:])
    assert stored(tus.server, upload) == data
    until(lambda: "finalized" in events(tus.server, upload.id))
    assert events(tus.server, upload.id).count("completed") == 1


# ---- SIGTERM ----------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_server_that_stops_keeps_what_has_arrived_and_says_so_at_once(
    start_server: StartServer, content: Content, framing: str
) -> None:
    server = start_server(GRACEFUL_TIMEOUT_SECS=60)
    tus, data = Tus(server), content(MIB)
    upload = tus.create(MIB)
    sent = 700 * KIB
    with Connection(server) as connection:
        if framing == "length":
            connection.send(tus.patch_head(upload, 0, MIB), data[:sent])
        else:
            connection.send(tus.patch_head(upload, 0, None), chunked(data[:sent], end=False))
        wait_until_arrived(connection.sock)
        until(lambda: lease_holder(server, upload, "append"))
        begun_at = time.monotonic()
        server.terminate()
        answer = connection.read()
        assert (answer.status, answer.json["code"]) == (503, "shutting_down")
        assert "retry-after" in answer.headers
        assert time.monotonic() - begun_at < 10  # of the 60 that parts would have
    assert server.wait() == 0
    server.start()
    assert tus.offset(upload) == sent
    go_on(tus, upload, data)


def test_a_server_that_stops_keeps_nothing_that_is_not_verified(
    start_server: StartServer, content: Content
) -> None:
    server = start_server()
    tus, data = Tus(server), content(MIB)
    upload = tus.create(MIB)
    with Connection(server) as connection:
        head = tus.patch_head(upload, 0, MIB, Upload_Checksum=checksum(data))
        connection.send(head, data[: 700 * KIB])
        until(lambda: lease_holder(server, upload, "append"))
        server.terminate()
        assert connection.read().status == 503
    server.wait()
    server.start()
    assert tus.offset(upload) == 0
    go_on(tus, upload, data)


# ---- kill -9 ----------------------------------------------------------------


@pytest.mark.parametrize("durability", ["strict", "relaxed"])
def test_after_a_kill_the_offset_is_never_below_what_a_head_had_told(
    start_server: StartServer, content: Content, durability: str
) -> None:
    server = start_server(DURABILITY=durability)
    tus, data = Tus(server), b"".join(content(MIB) for _ in range(100))
    upload = tus.create(len(data))
    told, sending = [0], threading.Event()

    def send() -> None:
        with Connection(server) as connection:
            connection.send(tus.patch_head(upload, 0, len(data)))
            try:
                for at in range(0, len(data) - 1, MIB):  # and never the end
                    connection.send(data[at : min(at + MIB, len(data) - 1)])
                sending.wait()
            except OSError:
                return  # killed

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: told.append(tus.offset(upload)) or told[-1] >= 32 * MIB)
    server.kill()
    sending.set()
    sender.join()
    server.start()
    assert tus.offset(upload) >= told[-1]
    assert told == sorted(told)
    go_on(tus, upload, data)


def test_an_upload_of_a_killed_worker_goes_on_at_once(
    start_server: StartServer, content: Content
) -> None:
    server = start_server(WORKERS=2)
    tus, data = Tus(server), content(MIB)
    upload = tus.create(MIB)
    tus.patch(upload, 0, data[:1000])
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 1000, MIB - 1000), data[1000 : 300 * KIB])
        victim = until(lambda: lease_holder(server, upload, "append"))
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(ConnectionError):
            connection.read()
    started_at = time.monotonic()
    assert tus.patch(upload, 1000, data[1000:]) == MIB  # at the first attempt
    assert time.monotonic() - started_at < 4  # a lease of 6 s has not run out
    assert stored(server, upload) == data


def test_a_file_whose_last_request_had_not_ended_is_not_taken_for_sent_after_a_kill(
    start_server: StartServer, content: Content
) -> None:
    """All bytes of a chunked body may have come, and be recorded, before its end does."""
    server = start_server(WORKERS=1)
    tus, data = Tus(server), content(MIB)
    upload = tus.create(MIB)
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 0, None), chunked(data, end=False))
        assert until(lambda: tus.offset(upload), what="a checkpoint") == MIB - 1
        server.kill()
    server.start()
    assert tus.offset(upload) == MIB - 1
    go_on(tus, upload, data)


def test_joining_goes_on_after_a_kill(start_server: StartServer, content: Content) -> None:
    server = start_server(WORKERS=1, COMPLETE_WAIT_SECS=0)
    tus = Tus(server)
    pieces = [b"".join(content(MIB) for _ in range(64)) for _ in range(2)]
    partials = [tus.partial(piece) for piece in pieces]
    urls = " ".join(partial.url for partial in partials * 2)
    response = tus.create_raw({"Upload-Concat": f"final;{urls}"})
    upload = TusUpload(response.headers["Location"])
    server.kill()  # within the join, before it or after it
    server.start()
    until(lambda: "finalized" in events(server, upload.id), what="it is finalized")
    assert stored(server, upload) == b"".join(pieces * 2)
    head = tus.head(upload)
    assert head.headers["Upload-Offset"] == head.headers["Upload-Length"]
    assert events(server, upload.id).count("completed") == 1


def test_uploads_outlive_a_server_that_is_killed_again_and_again(
    start_server: StartServer, content: Content
) -> None:
    server = start_server(WORKERS=2)
    tus = Tus(server)
    files = [b"".join(content(MIB) for _ in range(12)) for _ in range(4)]
    uploads = [tus.create(len(data)) for data in files]
    lowest: dict[str, int] = {}

    def upload_file(upload: TusUpload, data: bytes) -> None:
        while True:
            try:
                offset = tus.offset(upload)
                assert offset >= lowest.get(upload.id, 0)
                lowest[upload.id] = offset
                if offset == len(data):
                    return
                size = random.randint(1, 3 * MIB)
                tus.patch_raw(upload, offset, data[offset : offset + size])
            except (requests.ConnectionError, requests.Timeout):
                time.sleep(0.05)  # it is down: a client would wait longer

    threads = [
        threading.Thread(target=upload_file, args=pair) for pair in zip(uploads, files, strict=True)
    ]
    for thread in threads:
        thread.start()
    total = sum(map(len, files))
    for share in (0.2, 0.45, 0.7):
        until(lambda share=share: sum(lowest.values()) >= share * total)
        server.kill()  # whatever the requests are at
        server.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    for upload, data in zip(uploads, files, strict=True):
        assert stored(server, upload) == data
