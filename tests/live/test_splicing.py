"""Bodies that nothing has to look at go into their file inside the kernel, however they come."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.harness.native import KIB, MIB
from tests.harness.resumable import File, Resumable
from tests.harness.server import Server
from tests.harness.tus import Tus, TusUpload, checksum, finished_file
from tests.live.tracing import traced, written
from tests.live.wire import Connection, until

pytestmark = pytest.mark.live

#: Of memory, and so of what sendfile(2) hands to a socket.
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Content = Callable[[int], bytes]


def assert_stored(server: Server, upload: TusUpload, data: bytes) -> None:
    """Compare the file of an upload that is complete."""
    path = until(lambda: finished_file(server, upload), what="the file is stored")
    assert path.read_bytes() == data


def test_no_byte_of_an_append_comes_into_the_servers_memory(
    start_server: StartServer, tmp_path: Path, content: Content
) -> None:
    server = start_server(WORKERS=1)
    tus, data = Tus(server), content(5 * MIB)
    upload = tus.create(len(data))
    with traced(server, tmp_path / "strace.log"):
        tus.patch(upload, 0, data)
    # What has come with the head is put into the pipe, too.
    names, counts = zip(*written(tmp_path / "strace.log", upload.id), strict=True)
    assert set(names) == {"splice"}
    assert sum(counts) == len(data)
    assert_stored(server, upload, data)


def test_neither_does_a_chunk_in_a_body_of_its_own(
    start_server: StartServer, tmp_path: Path, content: Content
) -> None:
    server = start_server(WORKERS=1)
    resumable, file = Resumable(server), File(content(2 * MIB), chunk_size=2 * MIB)
    with traced(server, tmp_path / "strace.log"):
        resumable.octet(file, 1)
    noted = "".join(path.read_text() for path in tmp_path.glob("strace.log.*"))
    assert noted.count("splice(") >= 2
    assert "pwrite64(" not in "".join(line for line in noted.splitlines() if ".partial>" in line)


def test_a_verified_append_is_hashed_from_memory(
    start_server: StartServer, tmp_path: Path, content: Content
) -> None:
    server = start_server(WORKERS=1)
    tus, data = Tus(server), content(MIB)
    upload = tus.create(len(data))
    with traced(server, tmp_path / "strace.log"):
        tus.patch(upload, 0, data, Upload_Checksum=checksum(data))
    assert {name for name, _ in written(tmp_path / "strace.log", upload.id)} == {"pwrite64"}
    assert_stored(server, upload, data)


@pytest.mark.parametrize(
    "refusal",
    ["error=ENOSYS", "error=EPERM", "error=EINVAL:when=2+", "error=ENOSYS:when=3+"],
    ids=["from the socket", "from the socket, forbidden", "into the file", "later"],
)
def test_where_the_system_refuses_bytes_come_into_memory_and_none_is_lost(
    start_server: StartServer, tmp_path: Path, content: Content, refusal: str
) -> None:
    server = start_server(WORKERS=1)
    tus, data = Tus(server), content(3 * MIB)
    upload = tus.create(len(data))
    with traced(server, tmp_path / "strace.log", "-e", f"inject=splice:{refusal}"):
        tus.patch(upload, 0, data[: 2 * MIB])
        tus.patch(upload, 2 * MIB, data[2 * MIB :])
    noted = "".join(path.read_text() for path in tmp_path.glob("strace.log.*"))
    assert "(INJECTED)" in noted
    names = [name for name, _ in written(tmp_path / "strace.log", upload.id)]
    assert "pwrite64" in names
    assert_stored(server, upload, data)


@pytest.mark.parametrize("step", [1000, 4321, 70_000])
def test_a_body_in_many_segments_arrives_whole(server: Server, content: Content, step: int) -> None:
    tus, data = Tus(server), content(2 * MIB)
    upload = tus.create(len(data))
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 0, len(data)))
        connection.send(*(data[at : at + step] for at in range(0, len(data), step)))
        assert connection.read().status == 204
    assert_stored(server, upload, data)


def test_a_pipe_that_is_full_of_few_bytes_is_emptied_again_and_again(
    server: Server, content: Content, tmp_path: Path
) -> None:
    """It has 256 places, and each piece of another page takes one, however small it is."""
    pieces, piece_bytes = 1000, 10
    tus, data = Tus(server), content(400 * KIB)
    upload = tus.create(len(data))
    with (tmp_path / "pages").open("w+b") as pages, Connection(server) as connection:
        for number in range(pieces):
            pages.seek(number * PAGE_BYTES)
            pages.write(data[number * piece_bytes :][:piece_bytes])
        pages.flush()
        connection.send(tus.patch_head(upload, 0, len(data)))
        for number in range(pieces):
            at = number * PAGE_BYTES
            assert os.sendfile(connection.sock.fileno(), pages.fileno(), at, piece_bytes)
        connection.send(data[pieces * piece_bytes :])
        assert connection.read().status == 204
    assert_stored(server, upload, data)


def test_what_stops_splicing_for_ever_stops_no_body_and_no_server(
    start_server: StartServer, content: Content
) -> None:
    """Urgent data: it is not part of the stream, and splice(2) never gets past it."""
    server = start_server(WORKERS=1)
    tus, data = Tus(server), content(MIB)
    uploads = [tus.create(len(data)) for _ in range(20)]
    connections = [Connection(server) for _ in uploads]
    for upload, connection in zip(uploads, connections, strict=True):
        connection.send(tus.patch_head(upload, 0, len(data)), data[: 300 * KIB])
        connection.sock.send(b"!", socket.MSG_OOB)
        connection.send(data[300 * KIB : -1])
    honest = tus.create(len(data))
    tus.patch(honest, 0, data)
    assert_stored(server, honest, data)
    for upload, connection in zip(uploads, connections, strict=True):
        connection.send(data[-1:])
        assert connection.read().status == 204
        connection.close()
        assert_stored(server, upload, data)


@pytest.mark.parametrize("length", [MIB, 5 * MIB + 3])
def test_bodies_behind_each_other_in_one_stream_do_not_mix(
    server: Server, content: Content, length: int
) -> None:
    """Heads in the segments of bodies, and a request behind each body, before any answer."""
    tus, files = Tus(server), [content(length), content(length), content(length)]
    uploads = [tus.create(length) for _ in files]
    stream = b"".join(
        tus.patch_head(upload, 0, length) + data
        for upload, data in zip(uploads, files, strict=True)
    )
    with Connection(server) as connection:
        rest = memoryview(stream)
        while rest:
            count = random.randint(1, MIB)
            connection.send(rest[:count])
            rest = rest[count:]
        assert [connection.read().status for _ in files] == [204, 204, 204]
    for upload, data in zip(uploads, files, strict=True):
        assert_stored(server, upload, data)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_what_arrived_before_a_cut_is_kept(server: Server, content: Content, how: str) -> None:
    tus, data = Tus(server), content(3 * MIB)
    upload = tus.create(len(data))
    sent = random.randint(2 * MIB, len(data) - 1)
    tus.patch_then_cut(upload, 0, len(data), data[:sent], how)
    until(lambda: tus.offset(upload) == sent, what="what was sent is recorded")
    tus.patch(upload, sent, data[sent:])
    assert_stored(server, upload, data)
