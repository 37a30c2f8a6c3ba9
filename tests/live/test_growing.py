"""Files read while they grow, written by another process than the one that reads."""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.harness.appended import Appended
from tests.harness.native import KIB, MIB
from tests.harness.reading import get_head, open_descriptors, reader
from tests.harness.server import Server
from tests.harness.tus import Tus
from tests.harness.wire import change
from tests.live.wire import log_events, metric, until

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: Far more than the few looks a second at the ledger need, however busy the machine is.
BROKEN_OFF_SECONDS = 15


@pytest.fixture
def growing(server: Server) -> Iterator[Appended]:
    """An upload of unknown length."""
    with Appended.create(server, None) as upload:
        yield upload


def outcomes(server: Server, upload: Appended) -> list[str]:
    """Return how the downloads of an upload have ended."""
    lines = log_events(server, "download")
    return [line["outcome"] for line in lines if line["upload_id"] == upload.id]


def assert_nothing_more(response: HTTPResponse) -> None:
    """Assert that a response breaks off before its end, with nothing more of the file."""
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)) as broken:
        response.read()
    if isinstance(broken.value, http.client.IncompleteRead):
        assert broken.value.partial == b""


def test_a_reader_gets_what_is_durable_and_then_what_follows(
    growing: Appended, content: Content
) -> None:
    data = content(3 * MIB)
    growing.append(data[:MIB], at=0)
    with reader(growing.server) as connection:
        response = connection.ask(growing.id)
        assert response.status == 200
        assert "Content-Length" not in response.headers
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert response.headers["Accept-Ranges"] == "none"
        assert response.headers["Cache-Control"] == "private, no-store"
        assert response.read(MIB) == data[:MIB]
        growing.append(data[MIB : 2 * MIB + 5], at=MIB)
        assert response.read(MIB + 5) == data[MIB : 2 * MIB + 5]
        growing.append(data[2 * MIB + 5 :], at=2 * MIB + 5)
        growing.publish(len(data))
        assert response.read() == data[2 * MIB + 5 :]
        # The connection lives on, and the file is a finished one now.
        response = connection.ask(growing.id, "Range: bytes=100-199")
        assert (response.status, response.read()) == (206, data[100:200])
    until(lambda: outcomes(growing.server, growing) == ["whole", "whole"])


def test_bytes_that_are_not_recorded_are_not_sent(growing: Appended, content: Content) -> None:
    data = content(2000)
    growing.write(0, data)
    growing.record_offset(1000)
    with reader(growing.server) as connection:
        response = connection.ask(growing.id)
        assert response.read(1000) == data[:1000]
        connection.sock.settimeout(1)  # some looks at the ledger
        more = b""
        with pytest.raises(TimeoutError):
            while byte := connection.sock.recv(1):
                more += byte
        assert more in (b"", b"\r\n")  # the end of the chunk


def test_a_reader_may_come_before_the_first_byte(growing: Appended, content: Content) -> None:
    data = content(100 * KIB)
    with reader(growing.server) as connection:
        response = connection.ask(growing.id)
        growing.append(data, at=0)
        growing.publish(len(data))
        assert response.read() == data


def test_an_upload_that_is_full_ends_its_readers_before_it_is_published(
    server: Server, content: Content
) -> None:
    data = content(MIB)
    with Appended.create(server, MIB) as upload, reader(server) as connection:
        response = connection.ask(upload.id)
        upload.append(data, at=0)
        assert response.read() == data


def test_readers_on_both_workers_each_get_everything(server: Server, content: Content) -> None:
    data = content(8 * MIB)
    with Appended.create(server, len(data)) as upload, ExitStack() as opened:
        responses: list[HTTPResponse] = []
        workers = server.worker_pids()
        # The one that is quicker takes a connection: on a busy machine a dozen in a row.
        while len(responses) < 12 or not all(descriptors_of(pid, upload.id) for pid in workers):
            assert len(responses) < 200, "one worker has taken all connections"
            responses.append(opened.enter_context(reader(server)).ask(upload.id))
        path = server.staged_files()[0].parent / f"{upload.id}.partial"
        assert open_descriptors(server, path) == len(responses)
        for at in range(0, len(data), MIB):
            upload.append(data[at : at + MIB], at=at)
            if at < 4 * MIB:
                assert {response.read(MIB) for response in responses} == {data[at : at + MIB]}
        upload.publish(len(data))
        assert {response.read() for response in responses} == {data[4 * MIB :]}


def descriptors_of(pid: int, upload_id: str) -> int:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return sum(upload_id in str(link.readlink()) for link in links if link.is_symlink())


def test_a_reader_at_its_own_pace_holds_nobody_up(growing: Appended, content: Content) -> None:
    data = content(16 * MIB)
    with reader(growing.server, buffer_bytes=64 * KIB) as slow, reader(growing.server) as fast:
        slow_response = slow.ask(growing.id)
        fast_response = fast.ask(growing.id)
        growing.append(data, at=0)
        growing.publish(len(data))
        assert fast_response.read() == data
        assert slow_response.read() == data


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "with_much_to_read"])
def test_deleting_the_upload_breaks_its_readers_off(growing: Appended, waiting: bool) -> None:
    server = growing.server
    length = 1000 if waiting else 64 * MIB
    growing.append(bytes(length), at=0)
    with reader(server, buffer_bytes=64 * KIB) as connection:
        response = connection.ask(growing.id)
        assert response.read(1000) == bytes(1000)
        started_at = time.monotonic()
        assert Tus(server).request("DELETE", f"/files/{growing.id}").status_code == 204
        until(lambda: outcomes(server, growing) == ["upload_gone"])
        assert time.monotonic() - started_at < BROKEN_OFF_SECONDS
        if waiting:
            assert_nothing_more(response)
        else:
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                response.read()


def test_an_upload_that_expires_breaks_its_readers_off(growing: Appended) -> None:
    growing.append(b"some", at=0)
    with reader(growing.server) as connection:
        response = connection.ask(growing.id)
        assert response.read(4) == b"some"
        change(growing.server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", growing.id)
        assert_nothing_more(response)
    until(lambda: outcomes(growing.server, growing) == ["upload_gone"])


def test_an_upload_that_has_lost_its_bytes_breaks_its_readers_off(growing: Appended) -> None:
    growing.append(b"lost", at=0)
    with reader(growing.server) as connection:
        response = connection.ask(growing.id)
        assert response.read(4) == b"lost"
        growing.record_offset(0)
        assert_nothing_more(response)
    until(lambda: outcomes(growing.server, growing) == ["unreadable"])


def test_a_file_broken_off_does_not_look_whole_to_http_1_0(growing: Appended) -> None:
    """It ends with the connection, so the connection must not end well."""
    growing.append(b"some", at=0)
    with reader(growing.server) as connection:
        connection.sock.sendall(get_head(growing.id, version="1.0"))
        received = b""
        while not received.endswith(b"\r\n\r\nsome"):
            received += connection.sock.recv(MIB)
        change(growing.server, "UPDATE uploads SET expires_at_ms = 1 WHERE id = ?", growing.id)
        with pytest.raises(ConnectionResetError):
            connection.sock.recv(1)


def test_a_server_that_is_killed_does_not_make_a_file_look_whole_to_http_1_0(
    start_server: StartServer,
) -> None:
    server = start_server()
    with Appended.create(server, None) as upload, reader(server) as connection:
        upload.append(b"some", at=0)
        connection.sock.sendall(get_head(upload.id, version="1.0"))
        received = b""
        while not received.endswith(b"\r\n\r\nsome"):
            received += connection.sock.recv(MIB)
        server.kill()
        with pytest.raises(ConnectionResetError):
            connection.sock.recv(1)


def test_a_whole_file_ends_well_for_http_1_0(growing: Appended, content: Content) -> None:
    data = content(MIB)
    with reader(growing.server) as connection:
        connection.sock.sendall(get_head(growing.id, version="1.0"))
        growing.append(data, at=0)
        growing.publish(len(data))
        received = b"".join(iter(lambda: connection.sock.recv(MIB), b""))
    assert received.endswith(b"\r\n\r\n" + data)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_client_that_leaves_while_nothing_comes_is_noticed(growing: Appended, how: str) -> None:
    server = growing.server
    growing.append(b"some", at=0)
    (path,) = (path for path in server.staged_files() if growing.id in path.name)
    with reader(server) as connection:
        assert connection.ask(growing.id).read(4) == b"some"
        assert open_descriptors(server, path) == 1
        connection.cut(how)
        until(lambda: outcomes(server, growing) == ["gone"])
        assert open_descriptors(server, path) == 0
    assert metric(server, "longhaul_active_downloads") == 0


def test_ranges_are_for_finished_files(growing: Appended, content: Content) -> None:
    data = content(1000)
    growing.append(data, at=0)
    with reader(growing.server) as connection:
        response = connection.ask(growing.id, "Range: bytes=10-19")
        assert (response.status, response.read(1000)) == (200, data)


def test_head_tells_no_length_of_a_growing_file(growing: Appended) -> None:
    growing.append(b"some", at=0)
    with reader(growing.server) as connection:
        connection.sock.sendall(get_head(growing.id, method="HEAD"))
        response = connection.answer("HEAD")
        assert response.status == 200
        assert "Content-Length" not in response.headers
        response.read()
        connection.sock.sendall(get_head(growing.id, method="HEAD"))
        assert connection.answer("HEAD").status == 200


def test_a_reader_of_a_file_that_stands_still_does_not_hold_up_a_stopping_server(
    start_server: StartServer,
) -> None:
    server = start_server(GRACEFUL_TIMEOUT_SECS=60)
    with Appended.create(server, 2000) as upload:
        upload.append(bytes(1000), at=0)
        with reader(server) as connection:
            response = connection.ask(upload.id)
            assert response.read(1000) == bytes(1000)
            started_at = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started_at < 30
            assert_nothing_more(response)
    assert outcomes(server, upload) == ["shutting_down"]


def test_a_growing_file_that_goes_on_growing_is_read_to_its_end_by_a_stopping_server(
    start_server: StartServer, content: Content
) -> None:
    """The pipe's writers may go on then, on this server or another."""
    server = start_server(GRACEFUL_TIMEOUT_SECS=60)
    data = content(10 * KIB)
    with Appended.create(server, len(data)) as upload, reader(server) as connection:
        response = connection.ask(upload.id)
        server.terminate()
        for at in range(0, len(data), KIB):
            time.sleep(0.8)  # longer in all than a file may stand still
            upload.append(data[at : at + KIB], at=at)
            assert response.read(KIB) == data[at : at + KIB]
        assert response.read() == b""
    assert server.wait() == 0


def test_random_growth_arrives_byte_for_byte(growing: Appended, content: Content) -> None:
    data = content(5 * MIB)
    with reader(growing.server) as connection:
        response = connection.ask(growing.id)
        at = 0
        while at < len(data):
            step = random.choice([1, 17, 4096, 100_000, MIB])
            growing.append(data[at : at + step], at=at)
            at = min(at + step, len(data))
            if random.random() < 0.5:
                time.sleep(random.random() / 4)  # some steps fall together for the reader
        growing.publish(len(data))
        assert response.read() == data


def test_a_file_is_read_while_a_client_sends_it(server: Server, content: Content) -> None:
    """Reader and writer meet on different workers in some of the rounds."""
    tus = Tus(server)
    for _ in range(3):
        data = content(3 * MIB + 1)
        upload = tus.create(len(data))
        with reader(server) as connection:
            response = connection.ask(upload.id)
            with tus.open_patch(upload, 0, len(data)) as writer:
                writer.sendall(data[:MIB])
                assert response.read(MIB) == data[:MIB]  # within seconds: it is recorded on the way
                writer.sendall(data[MIB:])
                assert response.read() == data[MIB:]


def test_a_cut_and_resumed_upload_is_one_file_to_its_reader(
    server: Server, content: Content
) -> None:
    tus, data = Tus(server), content(2 * MIB)
    upload = tus.create(None)
    with reader(server) as connection:
        response = connection.ask(upload.id)
        tus.patch_then_cut(upload, 0, len(data), data[:MIB], "rst")
        assert response.read(1000) == data[:1000]
        until(lambda: tus.offset(upload) > 0)
        offset = tus.offset(upload)
        tus.patch(upload, offset, data[offset:], Upload_Length=len(data))
        assert response.read() == data[1000:]


def test_a_partial_upload_that_is_full_ends_its_readers(server: Server, content: Content) -> None:
    data = content(100 * KIB)
    upload = Tus(server).partial(data)
    with reader(server) as connection:
        assert connection.ask(upload.id).read() == data
