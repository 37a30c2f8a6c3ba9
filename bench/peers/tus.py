"""Longhaul's tus: a PATCH is recorded before its answer, and synced if strict."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.loads import TUS_LOADS, Load
from bench.peers.base import Peer, Served, WrongContent
from bench.peers.longhaul import API_KEY, longhaul
from bench.source import Source
from bench.tus import TusUpload, check_uploads, create_uploads, patches

#: The algorithm that every server with checksums must have (tus 1.0.0, Checksum).
CHECKSUM = "sha1"

_PUBLISHED_SECONDS = 60.0
_POLL_SECONDS = 0.02


class LonghaulTus(Peer):
    """Appends without checksums."""

    name = "Longhaul tus"
    loads: Sequence[str] = TUS_LOADS
    checksum: str | None = None
    whole = False

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        with longhaul(directory, self.durability, load.body_bytes) as server:
            key = ("X-API-Key", API_KEY)
            uploads = create_uploads(server.port, load, whole=self.whole, headers=dict([key]))
            transfers = patches(uploads, source, headers=[key], checksum=self.checksum)

            def check(thorough: bool) -> None:
                find = _published if self.whole else _staged
                check_uploads(find(server.storage, uploads), uploads, source, thorough)

            yield Served(server.pid, server.port, transfers, check, in_turns=not self.whole)


class LonghaulTusChecksum(LonghaulTus):
    """The same with Upload-Checksum: every byte is hashed before its PATCH is answered.

    The reference servers have no checksums. They are compared with it all the same.
    """

    name = f"Longhaul tus, {CHECKSUM}"
    loads = TUS_LOADS[1::2]
    checksum = CHECKSUM


class LonghaulTusWhole(LonghaulTus):
    """Each PATCH completes an upload, whose file is synced and published behind the answer."""

    name = "Longhaul tus, whole files"
    whole = True
    on_request = True


def _staged(storage: Path, uploads: Sequence[TusUpload]) -> list[Path]:
    """Return the files of unfinished uploads, in their order. Raises WrongContent."""
    found = {path.stem: path for path in storage.rglob("*.partial")}
    if missing := [upload.id for upload in uploads if upload.id not in found]:
        raise WrongContent(f"{len(missing)} uploads have no staged file")
    return [found[upload.id] for upload in uploads]


def _published(storage: Path, uploads: Sequence[TusUpload]) -> list[Path]:
    """Return the files of complete uploads, in their order. Raises WrongContent."""
    give_up_at = time.monotonic() + _PUBLISHED_SECONDS
    while True:
        found = {path.name.partition("_")[0]: path for path in (storage / "files").glob("*_*")}
        missing = [upload.id for upload in uploads if upload.id not in found]
        if not missing:
            return [found[upload.id] for upload in uploads]
        if time.monotonic() > give_up_at:
            raise WrongContent(f"{len(missing)} uploads have no finished file")
        time.sleep(_POLL_SECONDS)
