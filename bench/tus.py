"""tus 1.0.0: how its receivers are measured, and the reference servers among them.

Each connection has uploads of its own, created before the clock starts. Mostly
it is one, to which the bodies are appended, a PATCH each; it is a byte longer
than they are together, so that nothing of what finishing a file costs is in the
time. ``whole`` is the other way to use tus: an upload for each body, which its
PATCH completes.
"""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from bench.client import Transfer, request_head
from bench.loads import TUS_LOADS, Durability, Load
from bench.peers.base import NEVER_SYNCS, CallFailed, Peer, Served, WrongContent
from bench.procs import free_port, running
from bench.source import Source, file_sha256

_VERSION = ("Tus-Resumable", "1.0.0")
_FILENAME = base64.b64encode(b"bench.bin").decode()
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class TusUpload:
    """An upload, and which bodies of the source are appended to it in their order."""

    path: str
    indexes: Sequence[int]

    @property
    def id(self) -> str:
        """What its server calls it."""
        return self.path.rstrip("/").rpartition("/")[2]


def create_uploads(
    port: int,
    load: Load,
    *,
    whole: bool = False,
    headers: Mapping[str, str] | None = None,
) -> list[TusUpload]:
    """Create the uploads of a load by POST to /files. Raises CallFailed."""
    step = load.total_count if whole else load.connections
    connection = HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    uploads = []
    try:
        for first in range(step):
            indexes = range(first, load.total_count, step)
            length = len(indexes) * load.body_bytes + (0 if whole else 1)
            uploads.append(TusUpload(_create_upload(connection, length, headers or {}), indexes))
    except (OSError, HTTPException) as error:
        raise CallFailed(f"POST /files: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    return uploads


def _create_upload(connection: HTTPConnection, length: int, headers: Mapping[str, str]) -> str:
    told = {"Upload-Length": str(length), "Upload-Metadata": f"filename {_FILENAME}"}
    connection.request("POST", "/files/", headers=dict([_VERSION]) | told | dict(headers))
    response = connection.getresponse()
    content = response.read()
    if response.status != 201:
        raise CallFailed(f"POST /files: {response.status} {content[:500]!r}")
    return urlsplit(response.headers["Location"]).path


def patches(
    uploads: Sequence[TusUpload],
    source: Source,
    *,
    headers: Sequence[tuple[str, str]] = (),
    checksum: str | None = None,
    sync: Sequence[Path] | None = None,
) -> list[Transfer]:
    """Return the PATCH that sends body ``i`` of the source, for each ``i``.

    ``checksum``: the algorithm whose digest goes along with each, in Upload-Checksum.
    ``sync``: the uploads' files, for receivers that never sync: the client does it.
    """
    found: dict[int, Transfer] = {}
    for number, upload in enumerate(uploads):
        for position, index in enumerate(upload.indexes):
            sent = [
                _VERSION,
                ("Upload-Offset", str(position * source.body_bytes)),
                ("Content-Type", "application/offset+octet-stream"),
                *headers,
            ]
            if checksum is not None:
                digest = base64.b64encode(source.digest(checksum, index)).decode()
                sent.append(("Upload-Checksum", f"{checksum} {digest}"))
            found[index] = Transfer(
                request_head("PATCH", upload.path, source.body_bytes, sent),
                source.offset(index),
                source.body_bytes,
                status=204,
                sync_path=None if sync is None else str(sync[number]),
            )
    return [found[index] for index in sorted(found)]


def check_uploads(
    files: Sequence[Path], uploads: Sequence[TusUpload], source: Source, thorough: bool
) -> None:
    """Check that the uploads' files hold their bodies: sizes, or with ``thorough`` the bytes."""
    for path, upload in zip(files, uploads, strict=True):
        length = len(upload.indexes) * source.body_bytes
        if not path.is_file() or path.stat().st_size < length:
            raise WrongContent(f"{path.name} is missing or too small")
        if thorough and file_sha256(path, length) != source.sha256(upload.indexes):
            raise WrongContent(f"{path.name} has other bytes than were sent")


class ReferenceServer(Peer):
    """A server of the tus project: an upload is a file called by its id."""

    loads = TUS_LOADS
    remark = NEVER_SYNCS
    whole = False

    @abstractmethod
    def command(self, port: int, target: Path) -> Sequence[str | Path]:
        """Return what serves /files on 127.0.0.1:``port``, storing in ``target``."""

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        port = free_port()
        target = directory / "files"
        target.mkdir()
        with running(self.command(port, target), port=port, log=directory / "log") as pid:
            uploads = create_uploads(port, load, whole=self.whole)
            files = [target / upload.id for upload in uploads]
            sync = files if self.durability is Durability.STRICT else None
            transfers = patches(uploads, source, sync=sync)

            def check(thorough: bool) -> None:
                check_uploads(files, uploads, source, thorough)

            yield Served(pid, port, transfers, check, in_turns=not self.whole)
