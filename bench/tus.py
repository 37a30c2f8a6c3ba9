"""tus 1.0.0: how its receivers are measured, and the reference servers among them.

Uploads are created before the clock starts, one for each body; a PATCH sends it
whole and so completes it, as a tus client without ``chunkSize`` does. Finishing
files is in the time, as far as the receiver does it before its answer, and else
in its CPU seconds.
"""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from bench.client import Transfer, request_head
from bench.loads import TUS_LOADS, Durability, Load
from bench.peers.base import NEVER_SYNCS, CallFailed, Peer, Served, check_files
from bench.procs import free_port, running
from bench.source import Source

_VERSION = ("Tus-Resumable", "1.0.0")
_FILENAME = base64.b64encode(b"bench.bin").decode()
_ANSWER_SECONDS = 60.0


def create_uploads(
    port: int, load: Load, headers: Mapping[str, str] | None = None
) -> Sequence[str]:
    """Create an upload for every body of a load by POST to /files; return their paths.

    Raises CallFailed.
    """
    sent = {
        **dict([_VERSION]),
        "Upload-Length": str(load.body_bytes),
        "Upload-Metadata": f"filename {_FILENAME}",
        **(headers or {}),
    }
    connection = HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        return [_create_upload(connection, sent) for _ in range(load.total_count)]
    except (OSError, HTTPException) as error:
        raise CallFailed(f"POST /files: {type(error).__name__}: {error}") from error
    finally:
        connection.close()


def _create_upload(connection: HTTPConnection, headers: Mapping[str, str]) -> str:
    connection.request("POST", "/files/", headers=headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != 201:
        raise CallFailed(f"POST /files: {response.status} {content[:500]!r}")
    return urlsplit(response.headers["Location"]).path


def patches(
    paths: Sequence[str],
    source: Source,
    *,
    headers: Sequence[tuple[str, str]] = (),
    checksum: str | None = None,
    sync: Sequence[Path] | None = None,
) -> list[Transfer]:
    """Return the PATCHes that send body ``i`` whole to ``paths[i]``.

    ``checksum``: the algorithm whose digest goes along with each, in Upload-Checksum.
    ``sync``: file ``i`` is synced by the client after the answer, for receivers that never do.
    """
    transfers = []
    for index, path in enumerate(paths):
        sent = [
            _VERSION,
            ("Upload-Offset", "0"),
            ("Content-Type", "application/offset+octet-stream"),
            *headers,
        ]
        if checksum is not None:
            digest = base64.b64encode(source.digest(checksum, index)).decode()
            sent.append(("Upload-Checksum", f"{checksum} {digest}"))
        transfers.append(
            Transfer(
                request_head("PATCH", path, source.body_bytes, sent),
                source.offset(index),
                source.body_bytes,
                status=204,
                sync_path=None if sync is None else str(sync[index]),
            )
        )
    return transfers


def upload_id(path: str) -> str:
    """Return the id at the end of an upload's path."""
    return path.rstrip("/").rpartition("/")[2]


class ReferenceServer(Peer):
    """A server of the tus project: an upload is a file called by its id."""

    loads = TUS_LOADS
    remark = NEVER_SYNCS

    @abstractmethod
    def command(self, port: int, target: Path) -> Sequence[str | Path]:
        """Return what serves /files on 127.0.0.1:``port``, storing in ``target``."""

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        port = free_port()
        target = directory / "files"
        target.mkdir()
        with running(self.command(port, target), port=port, log=directory / "log") as pid:
            paths = create_uploads(port, load)
            files = [target / upload_id(path) for path in paths]
            sync = files if self.durability is Durability.STRICT else None
            transfers = patches(paths, source, sync=sync)
            yield Served(pid, port, transfers, lambda all_: check_files(files, source, all_))
