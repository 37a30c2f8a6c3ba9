"""Files into sockets and through WSGI: descriptors and Python objects, ends of every kind."""

from __future__ import annotations

import errno
import io
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import gevent
import gevent.socket
import pytest
from gevent.threadpool import ThreadPool
from gunicorn.http.body import Body as GunicornBody
from structlog.testing import capture_logs

from app.errors import StorageUnavailable, UploadGone
from app.ingest import channel as channels
from app.ingest import sending
from app.ingest.channel import Channel, ClientGone, FileTooShort
from app.ingest.drain import Drain
from app.ingest.sending import FileSender, Reach

MIB = 1024 * 1024
CONTENT = random.randbytes(5 * MIB + 321)

Sockets = tuple[gevent.socket.socket, socket.socket]


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    """A server's end as gunicorn has it, and the client's, for native threads."""
    server, client = gevent.socket.socketpair()
    plain = socket.socket(fileno=os.dup(client.fileno()))
    plain.setblocking(True)
    client.close()
    try:
        yield server, plain
    finally:
        server.close()
        plain.close()


class Remote(io.BytesIO):
    """A file of another server: no descriptor, and reads that bring less than was asked for."""

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        return super().read(min(size, 300_000))


def on_disk(path: Path, content: bytes = CONTENT) -> BinaryIO:
    path.write_bytes(content)
    return path.open("rb")


@pytest.fixture(params=["sendfile", "pieces"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BinaryIO]:
    with on_disk(tmp_path / "file") if request.param == "sendfile" else Remote(CONTENT) as opened:
        yield opened


def take_all(client: socket.socket) -> bytes:
    """Read until the end, in a native thread while the hub goes on."""

    def take() -> bytes:
        return b"".join(iter(lambda: client.recv(MIB), b""))

    return ThreadPool(1).apply(take)  # type: ignore[no-any-return]


def send_all(channel: Channel, start: int, end: int) -> None:
    while start < end:
        start += channel.send(start, end - start)


@pytest.mark.parametrize(("start", "end"), [(0, len(CONTENT)), (7, 8), (MIB - 1, 4 * MIB + 1)])
def test_a_stretch_arrives_as_it_is(sockets: Sockets, file: BinaryIO, start: int, end: int) -> None:
    server, client = sockets
    taking = gevent.spawn(take_all, client)
    send_all(Channel(server, file), start, end)
    server.shutdown(socket.SHUT_WR)
    assert taking.get() == CONTENT[start:end]


def test_the_way_is_that_of_the_file(sockets: Sockets, tmp_path: Path) -> None:
    with on_disk(tmp_path / "file") as local:
        assert Channel(sockets[0], local).way == "sendfile"
    assert Channel(sockets[0], Remote(b"")).way == "pieces"


def test_a_file_system_without_sendfile_is_read_instead(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(errno.EINVAL, "this file system cannot")

    monkeypatch.setattr(os, "sendfile", unsupported)
    server, client = sockets
    taking = gevent.spawn(take_all, client)
    with on_disk(tmp_path / "file") as local:
        send_all(Channel(server, local), 5, len(CONTENT))
    server.shutdown(socket.SHUT_WR)
    assert taking.get() == CONTENT[5:]


def test_a_client_that_takes_nothing_is_waited_for_a_turn_at_a_time(
    sockets: Sockets, file: BinaryIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "TURN_SECONDS", 0.05)
    channel, sent = Channel(sockets[0], file), 0
    while moved := channel.send(sent, len(CONTENT) - sent):
        sent += moved
    assert 0 < sent < len(CONTENT)
    assert channel.send(sent, len(CONTENT) - sent) == 0


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_client_that_has_left_is_told_apart_from_a_broken_file(
    sockets: Sockets, file: BinaryIO, how: str
) -> None:
    server, client = sockets
    if how == "rst":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    with pytest.raises(ClientGone):
        send_all(Channel(server, file), 0, len(CONTENT))


def test_a_file_that_ends_early_is_noticed(sockets: Sockets, file: BinaryIO) -> None:
    server, client = sockets
    taking = gevent.spawn(take_all, client)
    with pytest.raises(FileTooShort):
        send_all(Channel(server, file), MIB, len(CONTENT) + 1)
    server.shutdown(socket.SHUT_WR)
    assert taking.get() == CONTENT[MIB:]


def test_a_disk_that_fails_is_not_taken_for_a_client(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(os, "sendfile", broken)
    with on_disk(tmp_path / "file") as local, pytest.raises(OSError, match="disk is broken"):
        Channel(sockets[0], local).send(0, 1)


def test_pieces_are_as_large_as_the_client_is_fast(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Asked(io.RawIOBase):
        def seek(self, offset: int, whence: int = 0) -> int:
            return offset

        def read(self, size: int = -1) -> bytes:
            asked.append(size)
            return bytes(size)

    server, client = sockets
    file: Any = Asked()
    channel, taking = Channel(server, file), gevent.spawn(take_all, client)
    send_all(channel, 0, 16 * MIB)
    assert asked[:6] == [MIB // 4, MIB // 2, MIB, 2 * MIB, 4 * MIB, 4 * MIB]
    monkeypatch.setattr(channels, "PIECE_SECONDS", -1)  # from now on it is slow
    asked.clear()
    send_all(channel, 0, 16 * MIB)
    assert asked[1:6] == [2 * MIB, MIB, MIB // 2, MIB // 4, MIB // 4]
    server.shutdown(socket.SHUT_WR)
    taking.get()


def test_a_job_of_a_fast_reader_ends_after_its_share(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "JOB_BYTES", MIB)
    server, client = sockets
    taking = gevent.spawn(take_all, client)
    with on_disk(tmp_path / "file") as local:
        channel = Channel(server, local)
        assert 0 < channel.send(0, len(CONTENT)) <= MIB
    server.close()
    taking.get()


# The WSGI iterable


@dataclass
class Supplied:
    """A file whose reach a test decides."""

    file: BinaryIO
    reach: Callable[[], Reach] = lambda: Reach(len(CONTENT), final=True)
    upload_id: str = "an-upload"
    protocol: str = "native"
    closed: int = field(default=0)

    def close(self) -> None:
        self.closed += 1
        self.file.close()


def environ_of(server: gevent.socket.socket, version: str = "HTTP/1.1") -> dict[str, Any]:
    """Return what gunicorn tells of a request without a body over plain TCP."""
    return {
        "gunicorn.socket": server,
        "wsgi.input": GunicornBody(io.BytesIO()),
        "SERVER_PROTOCOL": version,
    }


ELSEWHERE: dict[str, Any] = {"SERVER_PROTOCOL": "HTTP/1.1"}


def test_wsgi_gets_pieces_where_the_socket_is_not_ours(file: BinaryIO) -> None:
    supplied = Supplied(file)
    sender = FileSender(ELSEWHERE, supplied, 5, len(CONTENT) - 5, Drain(30))
    pieces = list(sender)
    sender.close()
    assert b"".join(pieces) == CONTENT[5:-5]
    assert max(map(len, pieces)) <= 64 * 1024
    assert supplied.closed == 1


def test_a_file_of_no_bytes_is_no_piece() -> None:
    supplied = Supplied(io.BytesIO(), lambda: Reach(0, final=True))
    assert list(FileSender(ELSEWHERE, supplied, 0, 0, Drain(30))) == []


@pytest.mark.parametrize("kind", ["local", "remote", "remote_buffered"])
@pytest.mark.parametrize("through", ["wsgi", "socket"])
def test_bytes_that_are_not_recorded_yet_are_not_read_ahead(
    sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, through: str
) -> None:
    """What lies beyond may be given up and written anew, with other bytes."""
    path = tmp_path / "file"
    path.write_bytes(b"first" + b"wrong")
    monkeypatch.setattr(sending, "GROWTH_LOOK_SECONDS", 0.01)
    file: Any = path.open("rb") if kind == "local" else _NoDescriptor(path)
    if kind == "remote_buffered":
        file = io.BufferedReader(file)
    seen = []

    def reach() -> Reach:
        seen.append(1)
        if len(seen) == 6:  # the first bytes have been sent
            path.write_bytes(b"first" + b"right")
        return Reach(5, False) if len(seen) < 6 else Reach(10, True)

    server, client = sockets
    environ = environ_of(server, "HTTP/1.0") if through == "socket" else ELSEWHERE
    sender = FileSender(environ, Supplied(file, reach), 0, None, Drain(30))
    taking = gevent.spawn(take_all, client)
    pieces = b"".join(sender)
    sender.close()
    server.shutdown(socket.SHUT_WR)
    assert pieces + taking.get() == b"firstright"


class _NoDescriptor(io.FileIO):
    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def test_a_file_grows_under_its_reader() -> None:
    reaches = iter([Reach(0, False), Reach(10, False), Reach(10, False), Reach(30, True)])
    latest = [Reach(0, False)]

    def reach() -> Reach:
        latest[0] = next(reaches, latest[0])
        return latest[0]

    supplied = Supplied(io.BytesIO(CONTENT), reach)
    assert b"".join(FileSender(ELSEWHERE, supplied, 0, None, Drain(30))) == CONTENT[:30]


@pytest.mark.parametrize(
    ("reach", "end", "outcome"),
    [
        (Reach(100, final=True), 200, "unreadable"),  # shorter than was announced
        (Reach(100, final=False), 200, "upload_gone"),
        (Reach(len(CONTENT) + 1, final=True), None, "unreadable"),
    ],
)
def test_what_is_not_whole_breaks_the_connection_and_the_log_says_why(
    reach: Reach, end: int | None, outcome: str
) -> None:
    looks = iter([reach] * 4)

    def look() -> Reach:
        try:
            return next(looks)
        except StopIteration:
            raise UploadGone from None

    supplied = Supplied(io.BytesIO(CONTENT), look if outcome == "upload_gone" else lambda: reach)
    sender = FileSender(ELSEWHERE, supplied, 0, end, Drain(30))
    with capture_logs() as logged, pytest.raises(ConnectionResetError):
        list(sender)
    with capture_logs() as ended:
        sender.close()
    assert ended[-1]["outcome"] == outcome
    assert (outcome == "unreadable") == any(line["log_level"] == "error" for line in logged)


def test_a_storage_that_fails_while_it_is_read_breaks_the_connection() -> None:
    class Failing(Remote):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > MIB:
                raise StorageUnavailable
            return super().read(size)

    sender = FileSender(ELSEWHERE, Supplied(Failing(CONTENT)), 0, len(CONTENT), Drain(30))
    with pytest.raises(ConnectionResetError):
        list(sender)


@pytest.mark.parametrize(
    ("version", "framed"),
    [
        ("HTTP/1.1", b"A\r\n" + CONTENT[:10] + b"\r\n14\r\n" + CONTENT[10:30] + b"\r\n"),
        ("HTTP/1.0", CONTENT[:30]),
    ],
    ids=["chunked", "ended_by_close"],
)
def test_growth_is_framed_as_gunicorn_has_announced(
    sockets: Sockets, version: str, framed: bytes
) -> None:
    server, client = sockets
    reaches = iter([Reach(10, False)] * 2)
    supplied = Supplied(io.BytesIO(CONTENT), lambda: next(reaches, Reach(30, True)))
    sender = FileSender(environ_of(server, version), supplied, 0, None, Drain(30))
    taking = gevent.spawn(take_all, client)
    assert list(sender) == [b""]  # by which gunicorn sends the head
    sender.close()
    server.shutdown(socket.SHUT_WR)
    assert taking.get() == framed


def test_a_stopping_server_breaks_off_what_takes_too_long(sockets: Sockets) -> None:
    drain = Drain(0)
    sender = FileSender(
        environ_of(sockets[0]), Supplied(io.BytesIO(CONTENT)), 0, len(CONTENT), drain
    )
    drain.begin()
    with pytest.raises(ConnectionResetError, match="shutting_down"):
        list(sender)


def test_a_sender_that_never_began_only_closes_its_file() -> None:
    supplied = Supplied(io.BytesIO(CONTENT))
    with capture_logs() as logged:
        FileSender(ELSEWHERE, supplied, 0, 10, Drain(30)).close()
    assert (supplied.closed, logged) == (1, [])
