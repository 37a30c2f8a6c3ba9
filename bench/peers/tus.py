"""Longhaul's tus: a PATCH is recorded (strict: synced) before its answer, published after it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.loads import TUS_LOADS, Load
from bench.peers.base import Peer, Served, WrongContent, check_files
from bench.peers.longhaul import API_KEY, longhaul
from bench.source import Source
from bench.tus import create_uploads, patches, upload_id

#: The algorithm that every server with checksums must have (tus 1.0.0, Checksum).
CHECKSUM = "sha1"

_PUBLISHED_SECONDS = 60.0
_POLL_SECONDS = 0.02


class LonghaulTus(Peer):
    """Uploads of one PATCH each, unhashed."""

    name = "Longhaul tus"
    loads: Sequence[str] = TUS_LOADS
    checksum: str | None = None

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        with longhaul(directory, self.durability, load.body_bytes) as server:
            paths = create_uploads(server.port, load, {"X-API-Key": API_KEY})
            transfers = patches(
                paths, source, headers=[("X-API-Key", API_KEY)], checksum=self.checksum
            )

            def check(thorough: bool) -> None:
                files = _published(server.storage, [upload_id(path) for path in paths])
                check_files(files, source, thorough)

            yield Served(server.pid, server.port, transfers, check)


class LonghaulTusChecksum(LonghaulTus):
    """The same with Upload-Checksum: every byte is hashed before its PATCH is answered.

    The reference servers have no checksums. They are compared with it all the same.
    """

    name = f"Longhaul tus, {CHECKSUM}"
    loads = TUS_LOADS[1::2]
    checksum = CHECKSUM


def _published(storage: Path, upload_ids: Sequence[str]) -> list[Path]:
    """Return the finished files of uploads, in their order. Raises WrongContent."""
    give_up_at = time.monotonic() + _PUBLISHED_SECONDS
    while True:
        found = {path.name.partition("_")[0]: path for path in (storage / "files").glob("*_*")}
        missing = [upload_id for upload_id in upload_ids if upload_id not in found]
        if not missing:
            return [found[upload_id] for upload_id in upload_ids]
        if time.monotonic() > give_up_at:
            raise WrongContent(f"{len(missing)} uploads have no finished file")
        time.sleep(_POLL_SECONDS)
