"""Resumable.js: the chunks of one file, as raw bodies and as forms. No byte is hashed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

from bench.client import HttpConnection, Transfer, request_head
from bench.loads import RESUMABLE_LOADS, Load
from bench.peers.base import Peer, Served, WrongContent
from bench.peers.longhaul import API_KEY, Server, longhaul
from bench.source import Source, file_sha256

_BOUNDARY = "----WebKitFormBoundary0123456789abcdef"


class ResumableOctet(Peer):
    """One file whose chunks are the bodies; its last one is sent by the check, untimed."""

    name = "Longhaul Resumable octet"
    loads: Sequence[str] = RESUMABLE_LOADS

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        with longhaul(directory, self.durability, load.body_bytes) as server:
            transfers = [
                self.transfer(index, load, source) for index in range(load.total_count + 1)
            ]

            def check(thorough: bool) -> None:
                _check(server, transfers[-1], load, source, thorough)

            yield Served(server.pid, server.port, transfers[:-1], check)

    def transfer(self, index: int, load: Load, source: Source) -> Transfer:
        """Return the request that sends chunk ``index``."""
        head = request_head(
            "POST",
            f"/api/upload?{urlencode(fields(index, load))}",
            load.body_bytes,
            [("X-API-Key", API_KEY), ("Content-Type", "application/octet-stream")],
        )
        return Transfer(head, source.offset(index), load.body_bytes, status=200)


class ResumableForm(ResumableOctet):
    """The same as forms, as browsers write them: the client's default."""

    name = "Longhaul Resumable form"

    def transfer(self, index: int, load: Load, source: Source) -> Transfer:
        """Return the request that sends chunk ``index``."""
        parts = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields(index, load).items()
        ]
        parts.append(
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        before, behind = "".join(parts), f"\r\n--{_BOUNDARY}--\r\n"
        head = request_head(
            "POST",
            f"/api/upload?{urlencode(fields(index, load))}",
            len(before) + load.body_bytes + len(behind),
            [
                ("X-API-Key", API_KEY),
                ("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}"),
            ],
        )
        octet = super().transfer(index, load, source)
        return replace(octet, head=head + before, tail=behind)


def fields(index: int, load: Load) -> dict[str, object]:
    """Return what resumable.js says of chunk ``index``: the file has one more than the load."""
    count = load.total_count + 1
    return {
        "resumableChunkNumber": index + 1,
        "resumableChunkSize": load.body_bytes,
        "resumableCurrentChunkSize": load.body_bytes,
        "resumableTotalSize": count * load.body_bytes,
        "resumableType": "application/octet-stream",
        "resumableIdentifier": f"{count * load.body_bytes}-filebin",
        "resumableFilename": "file.bin",
        "resumableRelativePath": "file.bin",
        "resumableTotalChunks": count,
    }


def _check(server: Server, last: Transfer, load: Load, source: Source, thorough: bool) -> None:
    """The last chunk must complete the file; with ``thorough`` its bytes are compared too."""
    with source.path.open("rb") as content:
        HttpConnection(server.port, content.fileno()).send(last)
    found = list((server.storage / "files").glob("*_file.bin"))
    count = load.total_count + 1
    if len(found) != 1 or found[0].stat().st_size != count * load.body_bytes:
        raise WrongContent("the finished file is missing or has a wrong size")
    if thorough and file_sha256(found[0]) != source.sha256(range(count)):
        raise WrongContent("the finished file has other bytes than were sent")
