"""The native protocol: parts by PUT, each with its token, SHA-256 of every byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.client import Transfer, put_head
from bench.loads import Load
from bench.peers.base import Peer, Served, WrongContent
from bench.peers.longhaul import Server, longhaul
from bench.source import Source, file_sha256


class NativeParts(Peer):
    """One upload whose parts are the bodies. Creating and finalizing it are not timed."""

    name = "Longhaul native"

    def server(self, directory: Path, load: Load) -> AbstractContextManager[Server]:
        """Run what is measured, with parts of the load's bodies."""
        return longhaul(directory, self.durability, load.body_bytes)

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        with self.server(directory, load) as server:
            total_size = load.total_count * load.body_bytes
            document = {"filename": "bench/file.bin", "total_size": total_size}
            upload = server.call("POST", "/upload/init", document).value
            upload_id = upload["file_id"]
            transfers = [
                Transfer(
                    put_head(
                        f"/upload/{upload_id}/part/{part['part']}",
                        load.body_bytes,
                        [("Authorization", f"Bearer {part['token']}")],
                    ),
                    source.offset(part["part"]),
                    load.body_bytes,
                    status=200,
                )
                for part in upload["parts"]
            ]

            def check(thorough: bool) -> None:
                _check(server, upload_id, load, source, thorough)

            yield Served(server.pid, server.port, transfers, check)


def _check(server: Server, upload_id: str, load: Load, source: Source, thorough: bool) -> None:
    """Every part must be received; with ``thorough`` the finished file is compared too."""
    status = server.call("GET", f"/upload/{upload_id}/status?include_parts=true").value
    received = [part["part"] for part in status["parts"] if part["status"] == "uploaded"]
    if received != list(range(load.total_count)):
        raise WrongContent(f"{len(received)} of {load.total_count} parts are received")
    if thorough:
        path = server.finalize(upload_id)
        if file_sha256(path) != source.sha256(range(load.total_count)):
            raise WrongContent(f"{path.name} has other bytes than were sent")
