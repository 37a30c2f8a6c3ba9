"""The places where protocols are tried: what keeps the files, and what keeps the ledger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from tests.harness.ceph import Ceph
from tests.harness.postgres import Postgres
from tests.harness.samba import Samba
from tests.harness.server import Server
from tests.harness.stores import Bucket, Disk, Share, Store
from tests.harness.tables import Postgresql, Sqlite, Tables

#: Each kind of storage and each kind of database is in one at least.
PLACES = ("disk", "smb", "s3-staged", "s3-direct")


class Place(ABC):
    """Makes servers that are alike but for their settings, each with tables of its own."""

    @property
    def part_bytes(self) -> int:
        """How large parts are, unless a test's own settings say otherwise."""
        return self.part_mib * 1024 * 1024

    part_mib = 1

    def server(self, directory: Path, **settings: object) -> Server:
        """Return a server that is not started yet, with a directory of its own."""
        told = {"CHUNK_SIZE_MB": self.part_mib} | settings
        return Server(
            directory, store=self._store(directory), tables=self._tables(directory), **told
        )

    @abstractmethod
    def _store(self, directory: Path) -> Store: ...

    def _tables(self, directory: Path) -> Tables:
        return Sqlite(directory / "uploads.db")


class OnDisk(Place):
    """The server's own disk, and SQLite."""

    def _store(self, directory: Path) -> Store:
        return Disk(directory / "uploads")


class OnShare(Place):
    """An SMB share, and PostgreSQL."""

    def __init__(self, samba: Samba, postgres: Postgres) -> None:
        self._samba = samba
        self._postgres = postgres

    def _store(self, directory: Path) -> Store:
        return Share(self._samba)

    def _tables(self, directory: Path) -> Tables:
        return Postgresql(self._postgres.url(self._postgres.new_database()))


class InBucket(Place):
    """A bucket, and SQLite. Parts are large enough to go straight there, or they are not."""

    def __init__(self, ceph: Ceph, part_mib: int) -> None:
        self._ceph = ceph
        self.part_mib = part_mib

    def _store(self, directory: Path) -> Store:
        return Bucket(self._ceph, directory)


def place_named(name: str, request: pytest.FixtureRequest) -> Place:
    """Return a place; the servers it needs are started, or the test is skipped (fails in CI)."""
    match name:
        case "disk":
            return OnDisk()
        case "smb":
            return OnShare(request.getfixturevalue("samba"), request.getfixturevalue("postgres"))
        case "s3-staged":
            return InBucket(request.getfixturevalue("ceph"), part_mib=1)
        case "s3-direct":
            return InBucket(request.getfixturevalue("ceph"), part_mib=5)
    raise ValueError(name)
