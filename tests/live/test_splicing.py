"""Bodies that nothing has to look at go into their file inside the kernel, however they come."""

from __future__ import annotations

import random
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
    calls = written(tmp_path / "strace.log", upload.id)
    in_memory = sum(count for name, count in calls if name != "splice")
    assert in_memory <= 64 * KIB  # what gunicorn has read together with the head
    assert sum(count for _, count in calls) == len(data)
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
def test_a_body_in_many_small_segments_arrives_whole(
    server: Server, content: Content, step: int
) -> None:
    """A pipe has 256 places, and each packet takes one, however small it is."""
    tus, data = Tus(server), content(2 * MIB)
    upload = tus.create(len(data))
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 0, len(data)))
        connection.send(*(data[at : at + step] for at in range(0, len(data), step)))
        assert connection.read().status == 204
    assert_stored(server, upload, data)


def test_a_full_pipe_of_tiny_segments_does_not_spin_or_stop(
    server: Server, content: Content
) -> None:
    tus, data = Tus(server), content(300 * KIB)
    upload = tus.create(len(data))
    with Connection(server) as connection:
        connection.send(tus.patch_head(upload, 0, len(data)))
        tiny = 20 * KIB
        connection.send(*(data[at : at + 1] for at in range(tiny)), data[tiny:])
        assert connection.read().status == 204
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


def test_more_bytes_than_there_is_room_for_get_into_no_other_file(
    server: Server, content: Content
) -> None:
    tus, data = Tus(server), content(2 * MIB)
    for _ in range(3):
        short = tus.create(MIB)
        assert tus.patch_raw(short, 0, data).status_code == 413
        upload = tus.create(len(data))
        tus.patch(upload, 0, data)
        assert_stored(server, upload, data)
