"""One part, top to bottom: claim → receive → check → make durable → record."""

from __future__ import annotations

import hashlib

from app.domain.clock import Clock
from app.errors import (
    DigestMismatch,
    PartConflict,
    PartSizeMismatch,
    PartsLost,
)
from app.ingest.body import Body
from app.ingest.pump import Transfer
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.parts import PartClaim, PartCommit
from app.ledger.records import ReceiptRecord, UploadRecord
from app.storage.base import Storage
from app.uploads.policy import Policy
from app.uploads.staging import Staging, staged_object
from app.uploads.transfers import Transfers, require_whole
from app.uploads.views import PartStored


class _Nowhere:
    def write(self, buffer: memoryview) -> None:
        """Forget the bytes: they are only hashed."""


class PartReceiver:
    """Receives parts whose SHA-256 is their receipt. Stored bytes never change."""

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        clock: Clock,
        policy: Policy,
        staging: Staging,
        transfers: Transfers,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._staging = staging
        self._transfers = transfers

    def put_part(
        self, upload_id: str, index: int, body: Body, digest: bytes | None = None
    ) -> PartStored:
        """Store part ``index`` of an open upload; durable and recorded on return.

        ``digest`` is the SHA-256 the client promises for this body. A part that
        is stored already is read and compared: the same bytes give the first
        receipt again, other bytes PartConflict, and the stored bytes never
        change. Raises UploadNotFound, UploadNotOpen, PartSizeMismatch,
        DigestMismatch, UploadLocked, LeaseLost, BodyStalled, ShuttingDown,
        StorageFull, StorageUnavailable, WrongRoot; then nothing is recorded.
        """
        claim = self._transfers.claimed(index, lambda: self._claim(upload_id, index, body))
        if claim.lease is None:
            assert claim.receipt is not None
            return self._compare(claim.upload, claim.receipt, body, digest)
        try:
            return self._store(claim.upload, index, claim.lease, body, digest)
        except PartsLost as error:
            raise self._transfers.vanished(claim.upload, error) from error
        finally:
            self._ledger.leases.release(claim.lease)

    def _claim(self, upload_id: str, index: int, body: Body) -> PartClaim:
        claim = self._ledger.parts.claim(
            upload_id, index, self._clock.now_ms(), self._clock.monotonic
        )
        span = claim.upload.geometry.span(index)
        if body.length is not None and body.length != span.length:
            if claim.lease is not None:
                self._ledger.leases.release(claim.lease)
            raise PartSizeMismatch(span.length, body.length)
        return claim

    def _store(
        self, upload: UploadRecord, index: int, lease: Lease, body: Body, digest: bytes | None
    ) -> PartStored:
        span = upload.geometry.span(index)
        upload = self._staging.ensure(upload, lease)
        staged = staged_object(upload)
        sha256 = hashlib.sha256()

        def require_part(transfer: Transfer) -> None:
            require_whole(transfer, span.length, body)
            if digest is not None and digest != sha256.digest():
                raise DigestMismatch

        def record(storage_receipt: str | None) -> PartCommit:
            receipt = ReceiptRecord(
                part=index,
                size=span.length,
                sha256=sha256.hexdigest(),
                storage_receipt=storage_receipt,
                received_at_ms=self._clock.now_ms(),
            )
            return self._ledger.parts.commit(lease, receipt)

        with self._storage.writer(staged, index, span.offset, span.length) as writer:
            commit = self._transfers.store(
                upload,
                body,
                writer,
                span.length,
                lease=lease,
                require_part=require_part,
                record=record,
                hasher=sha256,
            )
        return PartStored(upload.id, index, sha256.hexdigest(), commit.received, commit.part_count)

    def _compare(
        self, upload: UploadRecord, receipt: ReceiptRecord, body: Body, digest: bytes | None
    ) -> PartStored:
        """Read a part that is stored already and compare it by its hash."""
        length = upload.geometry.span(receipt.part).length
        sha256 = hashlib.sha256()
        transfer = self._transfers.receive(
            upload, body, _Nowhere(), length, lease=None, hasher=sha256, is_writer=False
        )
        require_whole(transfer, length, body)
        if digest is not None and digest != sha256.digest():
            raise DigestMismatch
        if receipt.sha256 != sha256.hexdigest():
            raise PartConflict
        part_count = upload.geometry.part_count
        return PartStored(
            upload.id, receipt.part, receipt.sha256, upload.received, part_count, again=True
        )
