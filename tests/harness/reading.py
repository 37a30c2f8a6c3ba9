"""Files read back over connections of a test's own: fast, slow, broken off, or never read."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

from tests.harness.native import TIMEOUT_SECONDS, Native, cut
from tests.harness.server import API_KEY, Server
from tests.harness.wire import change


@dataclass(frozen=True)
class StoredFile:
    """A finished upload and where its file is."""

    server: Server
    id: str
    path: Path

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes ``start`` to ``end`` (exclusive) as the disk has them."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), end - start, start)


def store(server: Server, content: bytes, filename: str = "movie.mp4") -> StoredFile:
    """Upload a file by the native protocol and complete it."""
    native = Native(server)
    upload = native.init(filename, size=len(content))
    native.put_all(upload, content)
    return StoredFile(server, upload.id, Path(native.complete(upload)["final_path"]))


def store_sparse(server: Server, length: int, islands: int = 200) -> StoredFile:
    """Return a finished file of any length, most of which is holes; made behind the server."""
    file = store(server, b"x")
    chooser = random.Random(length)
    with file.path.open("r+b") as written:
        written.truncate(length)
        for _ in range(islands):
            os.pwrite(written.fileno(), random.randbytes(5000), chooser.randrange(length - 5000))
    change(server, "UPDATE uploads SET length = ? WHERE id = ?", length, file.id)
    return file


def get_head(upload_id: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Return the head of a request for an upload's file."""
    lines = [
        f"{method} /download/{upload_id} HTTP/{version}",
        "Host: 127.0.0.1",
        f"X-API-Key: {API_KEY}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Reader:
    """A connection that asks for a file and reads as the test wants it to.

    ``buffer_bytes`` is the room the kernel has for bytes that nobody has read.
    """

    def __init__(
        self,
        server: Server,
        *,
        buffer_bytes: int | None = None,
        wrap: Callable[[socket.socket], socket.socket] = lambda sock: sock,
    ) -> None:
        plain = socket.socket()
        plain.settimeout(TIMEOUT_SECONDS)
        if buffer_bytes is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        plain.connect(("127.0.0.1", server.port))
        self.sock = wrap(plain)
        self._responses: list[HTTPResponse] = []

    def ask(self, upload_id: str, *headers: str, version: str = "1.1") -> HTTPResponse:
        """Ask for a file; return the response when its head is here."""
        self.sock.sendall(get_head(upload_id, *headers, version=version))
        return self.answer()

    def answer(self, method: str = "GET") -> HTTPResponse:
        """Return the next response when its head is here."""
        response = HTTPResponse(self.sock, method=method)
        self._responses.append(response)
        response.begin()
        return response

    def is_finished(self, upload_id: str) -> bool:
        """Ask for a whole file; tell whether it grows no more."""
        response = self.ask(upload_id)
        response.read()
        return "ETag" in response.headers

    def cut(self, how: str) -> None:
        """End the connection by ``fin`` or ``rst``."""
        for response in self._responses:  # they hold the socket open
            response.close()
        cut(self.sock, how)

    def close(self) -> None:
        """Close the connection, if it is not yet."""
        self.cut("fin")


@contextmanager
def reader(server: Server, **options: object) -> Iterator[Reader]:
    """Open a connection for a while."""
    opened = Reader(server, **options)  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()


def open_descriptors(server: Server, path: Path) -> int:
    """Return how often the workers have a file open, under whatever name it has now."""
    wanted, found = path.stat(), 0
    for pid in server.worker_pids():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                opened = link.stat()
            except FileNotFoundError:  # closed meanwhile
                continue
            found += (opened.st_dev, opened.st_ino) == (wanted.st_dev, wanted.st_ino)
    return found
