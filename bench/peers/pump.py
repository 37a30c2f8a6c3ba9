"""The product's pump without hashing: what receiving and storing cost, and the bound's U."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import Transfer, put_head
from bench.loads import Load
from bench.peers.base import Peer, Served, WrongContent, check_files
from bench.peers.longhaul import longhaul
from bench.source import Source, file_sha256


class UnhashedPump(Peer):
    """``bench/unhashed.py``: bodies go to their offsets in one sparse file, as native parts do."""

    name = "Longhaul pump, no hash"
    file_each = False

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        env = {
            "BENCH_PARTS": str(load.total_count),
            "BENCH_PART_BYTES": str(load.body_bytes),
            "BENCH_FILE_EACH": "1" if self.file_each else "",
        }
        with longhaul(
            directory,
            self.durability,
            load.body_bytes,
            application="bench.unhashed:app",
            more_env=env,
        ) as server:
            server.call("POST", "/bench")
            transfers = [
                Transfer(
                    put_head(f"/bench/{index}", load.body_bytes),
                    source.offset(index),
                    load.body_bytes,
                    status=201,
                )
                for index in range(load.total_count)
            ]

            def check(thorough: bool) -> None:
                if self.file_each:
                    check_files(_staged_files(server.storage), source, thorough)
                else:
                    _check(server.storage, load, source, thorough)

            yield Served(server.pid, server.port, transfers, check)


class PumpFileEach(UnhashedPump):
    """The same with a file for each body, as nginx has: what writing one file together costs."""

    name = "Longhaul pump, a file each"
    on_request = True
    file_each = True


def _staged_files(storage: Path) -> list[Path]:
    """Return the staged files in the order of their numbers, which their names begin with."""
    return sorted(storage.rglob("*.partial"))


def _check(storage: Path, load: Load, source: Source, thorough: bool) -> None:
    """The staged file must have the whole length; with ``thorough`` the bytes sent, too."""
    found = list(storage.rglob("*.partial"))
    if len(found) != 1 or found[0].stat().st_size != load.total_count * load.body_bytes:
        raise WrongContent("the staged file is missing or has a wrong size")
    if thorough and file_sha256(found[0]) != source.sha256(range(load.total_count)):
        raise WrongContent("the staged file has other bytes than were sent")
