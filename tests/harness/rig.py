"""The ledger, a storage and the jobs put together as one process has them, without HTTP."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import select

from app.domain.clock import Clock
from app.domain.states import State
from app.errors import LonghaulError
from app.ingest.drain import Drain
from app.jobs.finalize import Finalizer
from app.jobs.sweep import Sweeper, Swept
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.models import events
from app.ledger.parts import PartCommit
from app.ledger.records import PARTIAL, ReceiptRecord, UploadRecord
from app.storage.base import Storage
from app.uploads.append_service import AppendService
from app.uploads.appending import Append
from app.uploads.creating import Wish
from app.uploads.policy import Policy
from app.uploads.service import UploadService
from app.uploads.staging import Staging, staged_object
from tests.harness.bodies import PieceBody

#: Small enough to be quick, and no multiple of any block.
PART_BYTES = 1001

TTL_SECONDS = 24 * 3600.0

POLICY = Policy(
    part_size_bytes=PART_BYTES,
    ttl_seconds=TTL_SECONDS,
    max_upload_bytes=0,
    check_free_disk=False,
    min_free_disk_bytes=0,
    complete_wait_seconds=0,
    body_idle_timeout_seconds=1,
    durable=False,
    allow_private_targets=True,
    max_concurrent_finalizations=4,
    resumable_grace_seconds=300,
)


class Rig:
    """One process's collaborators, and what tests do with them."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock, **policy: object) -> None:
        self.ledger = ledger
        self.storage = storage
        self.clock = clock
        self.policy = replace(POLICY, **policy)  # type: ignore[arg-type]
        self.staging = Staging(ledger, storage, clock, self.policy)
        self.service = UploadService(ledger, storage, clock, self.policy, Drain(30))
        self.appends = AppendService(ledger, storage, clock, self.policy, Drain(30), self.service)
        self.finalizer = Finalizer(ledger, storage, clock, self.policy)
        self.sweeper = Sweeper(ledger, storage, clock, self.service)

    def create(self, length: int = 3 * PART_BYTES, **wish: object) -> UploadRecord:
        """Create an open, staged upload."""
        wish.setdefault("filename", "movie.mp4")
        view = self.service.create("native", "alice", Wish(length=length, **wish))  # type: ignore[arg-type]
        return self.record(view.id)

    def claim(self, upload: UploadRecord, index: int) -> Lease:
        """Claim a part that nobody else holds and nobody has sent."""
        claim = self.ledger.parts.claim(upload.id, index, self.clock.now_ms(), self.clock.monotonic)
        assert claim.lease is not None
        return claim.lease

    def write(self, upload: UploadRecord, index: int, content: bytes) -> ReceiptRecord:
        """Write part ``index`` of ``content`` to the storage."""
        span = upload.geometry.span(index)
        staged = staged_object(self.staging.ensure(self.record(upload.id)))
        with self.storage.writer(staged, index, span.offset, span.length) as writer:
            writer.write(memoryview(content)[span.offset : span.offset + span.length])
            stored = writer.commit(durable=False)
        return ReceiptRecord(index, span.length, None, stored, self.clock.now_ms())

    def put(self, upload: UploadRecord, index: int, content: bytes) -> PartCommit:
        """Send part ``index`` of ``content``."""
        lease = self.claim(upload, index)
        return self.ledger.parts.commit(lease, self.write(upload, index, content))

    def fill(self, content: bytes, **wish: object) -> UploadRecord:
        """Create an upload and send all of it."""
        upload = self.create(len(content), **wish)
        for index in range(upload.geometry.part_count):
            self.put(upload, index, content)
        return self.record(upload.id)

    def append(self, upload: UploadRecord, content: bytes) -> UploadRecord:
        """Append to an upload where it ends."""
        at = Append("tus", sees=None, offset=self.record(upload.id).offset)
        self.appends.append(upload.id, at, PieceBody([content]))
        return self.record(upload.id)

    def create_appended(
        self, content: bytes = b"", length: int | None = None, **wish: object
    ) -> UploadRecord:
        """Create an upload by tus with its first bytes; ``length`` None: deferred."""
        wish.setdefault("filename", "movie.mp4")
        first = Append("tus", sees=None, offset=0)
        made = Wish(length=length, **wish)  # type: ignore[arg-type]
        receipt = self.appends.create("alice", made, first, PieceBody([content]))
        return self.record(receipt.upload.id)

    def partial(self, content: bytes, sent: int | None = None) -> UploadRecord:
        """Create a partial upload of ``content``, and send all or only ``sent`` bytes of it."""
        return self.create_appended(content[:sent], len(content), concat=PARTIAL)

    def concatenate(self, partial_ids: Sequence[str]) -> UploadRecord:
        """Create an upload of partial ones."""
        wish = Wish(filename="whole.mp4", length=None)
        final = self.appends.concatenate("tus", "alice", wish, partial_ids)
        return self.record(final.id)

    def queue(self, content: bytes | None = None, **wish: object) -> UploadRecord:
        """Send a whole upload and ask for its completion."""
        content = random.randbytes(2 * PART_BYTES + 1) if content is None else content
        upload = self.fill(content, **wish)
        return self.ledger.uploads.queue_finalize(upload.id, self.clock.now_ms())

    def finalize(self) -> bool:
        """Finalize what has been due longest; False if nothing is."""
        claimed = self.finalizer.claim()
        if claimed is not None:
            self.finalizer.finalize(*claimed)
        return claimed is not None

    def sweep(self, *, dry_run: bool = False) -> list[Swept]:
        """Sweep and return what was swept."""
        return list(self.sweeper.sweep(dry_run=dry_run))

    def record(self, upload_id: str) -> UploadRecord:
        """Return an upload as it is now."""
        record = self.ledger.uploads.get(upload_id)
        assert record is not None
        return record

    def state(self, upload: UploadRecord) -> State:
        """Return the state an upload is in now."""
        return self.record(upload.id).state

    def events(self, upload: UploadRecord) -> list[str]:
        """Return what has happened to an upload."""
        happened = select(events.c.kind).where(events.c.upload_id == upload.id)
        return self.ledger.transactions.read(
            lambda connection: list(connection.execute(happened.order_by(events.c.id)).scalars())
        )

    def is_staged(self, upload: UploadRecord) -> bool:
        """Tell whether the storage has a staged object of the upload."""
        staged = staged_object(upload)
        assert staged.staging_key is not None
        return self.has(staged.staging_key)

    def has(self, key: str) -> bool:
        """Tell whether the storage has an object."""
        try:
            self.storage.stat(key)
        except FileNotFoundError:
            return False
        return True

    def read(self, key: str | None) -> bytes:
        """Return all bytes of an object."""
        assert key is not None
        with self.storage.open(key) as file:
            return file.read()


def outcome(deed: object, *arguments: object) -> object:
    """Call ``deed`` and return what it returns, or the name of the error it raises."""
    try:
        return deed(*arguments)  # type: ignore[operator]
    except LonghaulError as error:
        return type(error).__name__
