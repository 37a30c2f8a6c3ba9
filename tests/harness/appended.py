"""An upload that grows front to back, written by the test itself: a process beside the server's.

It uses the ledger and the storage of a server as another of its processes would.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from app.domain.clock import Clock
from app.ledger.records import UploadRecord
from app.storage.local import LocalStorage
from app.uploads.creating import Creator, Wish
from app.uploads.staging import Staging, staged_object
from tests.harness.databases import Database
from tests.harness.rig import POLICY
from tests.harness.server import Server
from tests.harness.wire import change


@dataclass
class Appended:
    """An open upload of ``protocol`` tus; ``length`` None while it is deferred."""

    server: Server
    database: Database
    storage: LocalStorage
    record: UploadRecord

    @classmethod
    def create(
        cls, server: Server, length: int | None, owner: str = "admin", **wish: Any
    ) -> Appended:
        """Create one on a server's ledger and disk."""
        database = Database(f"sqlite:///{server.database}", Path(f"{server.database}.d") / "run")
        ledger, clock = database.ledger(), Clock()
        storage = LocalStorage(str(server.uploads), ledger.instance_id(), file_mode=0o640)
        staging = Staging(ledger, storage, clock, POLICY)
        creator = Creator(ledger, storage, clock, POLICY, staging)
        wish.setdefault("filename", "growing.bin")
        record = creator.create("tus", owner, Wish(length=length, **wish))
        return cls(server, database, storage, record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    @property
    def id(self) -> str:
        return self.record.id

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes without recording them: they are not durable yet."""
        with self.storage.writer(staged_object(self.record), 0, offset, None) as writer:
            writer.write(memoryview(data))
            writer.commit(durable=False)

    def record_offset(self, offset: int) -> None:
        """Record that ``offset`` bytes are durable."""
        change(self.server, "UPDATE uploads SET offset = ? WHERE id = ?", offset, self.id)

    def append(self, data: bytes, *, at: int) -> None:
        """Write bytes and record them."""
        self.write(at, data)
        self.record_offset(at + len(data))

    def publish(self, length: int) -> None:
        """Publish the file under its final key, and say so in the ledger."""
        change(self.server, "UPDATE uploads SET length = ? WHERE id = ?", length, self.id)
        record = self.database.ledger().uploads.get(self.id)
        assert record is not None
        final_key = self.storage.publish(staged_object(record), {}, lambda *_: None)
        change(
            self.server,
            "UPDATE uploads SET state = 'complete', final_key = ?, staging_key = NULL,"
            " completed_at_ms = 1700000000000 WHERE id = ?",
            final_key,
            self.id,
        )
