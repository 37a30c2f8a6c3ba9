"""Reading a file back: the same bytes from nginx and from us, out of the page cache.

The client throws the bytes away in the kernel, so that it is not what is measured.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from bench.client import Transfer, get_head
from bench.loads import READ_LOADS, Durability, Load
from bench.peers.base import CallFailed, Peer, Served, WrongContent
from bench.peers.longhaul import API_KEY, Server, longhaul
from bench.peers.nginx import NGINX, nginx, nginx_program
from bench.source import Source
from bench.tus import TusUpload, create_uploads, patches

_KEY = ("X-API-Key", API_KEY)
_ANSWER_SECONDS = 60.0


class Sender(Peer):
    """Has body 0 of the source as a file, and sends it whole for every transfer."""

    loads = READ_LOADS

    def __init__(self) -> None:
        super().__init__(Durability.READ)

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        with self.sending(directory, source) as (pid, port, path):
            headers = [_KEY]
            transfer = Transfer(get_head(path, headers), 0, 0, 200, answer_bytes=source.body_bytes)

            def check(thorough: bool) -> None:
                if thorough:
                    _check(port, path, dict(headers), source)

            yield Served(pid, port, [transfer] * load.total_count, check)

    @contextmanager
    @abstractmethod
    def sending(self, directory: Path, source: Source) -> Iterator[tuple[int, int, str]]:
        """Serve the file; yield the server's process id, its port, and the file's path."""


class NginxReading(Sender):
    """nginx with sendfile, as its documentation advises for large files."""

    name = NGINX

    def missing(self) -> str | None:
        return None if nginx_program() else "nginx is not installed"

    @contextmanager
    def sending(self, directory: Path, source: Source) -> Iterator[tuple[int, int, str]]:
        (directory / "files").mkdir()
        _copy(source, directory / "files" / "file.bin")
        with nginx(directory, buffer="1m") as (pid, port):
            yield pid, port, "/file.bin"


class LonghaulReading(Sender):
    """A finished file of ours."""

    name = "Longhaul, finished file"

    @contextmanager
    def sending(self, directory: Path, source: Source) -> Iterator[tuple[int, int, str]]:
        with longhaul(directory, Durability.RELAXED, 1024 * 1024) as server:
            upload = _upload(server, source)
            yield server.pid, server.port, f"/download/{upload.id}"


class LonghaulGrowing(Sender):
    """A file that might still grow, of which everything there is is sent: chunked, no length.

    Partial uploads of tus are never published, but their readers' answers end.
    """

    name = "Longhaul, growing file"

    @contextmanager
    def sending(self, directory: Path, source: Source) -> Iterator[tuple[int, int, str]]:
        with longhaul(directory, Durability.RELAXED, 1024 * 1024) as server:
            upload = _upload(server, source, {"Upload-Concat": "partial"})
            yield server.pid, server.port, f"/download/{upload.id}"


def _upload(server: Server, source: Source, headers: dict[str, str] | None = None) -> TusUpload:
    """Upload body 0 of the source by tus."""
    single = Load(source.body_bytes, connections=0, count=1)
    told = dict([_KEY]) | (headers or {})
    (upload,) = create_uploads(server.port, single, whole=True, headers=told)
    (patch,) = patches([upload], source, headers=[_KEY])
    connection = HTTPConnection("127.0.0.1", server.port, timeout=_ANSWER_SECONDS)
    try:
        with source.path.open("rb") as body:
            lines = patch.head.split("\r\n")[1:-2]
            fields = dict(line.split(": ", 1) for line in lines)
            content = body.read(source.body_bytes)
            connection.request("PATCH", upload.path, content, fields)
        response = connection.getresponse()
        if response.status != patch.status:
            raise CallFailed(f"PATCH {upload.path}: {response.status} {response.read(500)!r}")
    finally:
        connection.close()
    return upload


def _copy(source: Source, target: Path) -> None:
    with source.path.open("rb") as body:
        target.write_bytes(body.read(source.body_bytes))


def _check(port: int, path: str, headers: dict[str, str], source: Source) -> None:
    """Compare what is sent with what is on the disk."""
    connection = HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path, headers=headers)
        digest = hashlib.file_digest(connection.getresponse(), "sha256")  # type: ignore[arg-type]
    finally:
        connection.close()
    if digest.hexdigest() != source.sha256([0]):
        raise WrongContent(f"{path} has other bytes than were stored")
