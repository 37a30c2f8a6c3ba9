"""One part, top to bottom: claim → receive → check → make durable → record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import structlog

from app.domain.clock import Clock
from app.domain.parts import Span
from app.domain.states import GONE, State
from app.errors import (
    BodyStalled,
    DigestMismatch,
    LeaseLost,
    LonghaulError,
    MalformedRequest,
    PartConflict,
    PartSizeMismatch,
    PartsLost,
    ShuttingDown,
    StorageUnavailable,
    UploadLocked,
    UploadNotFound,
    UploadNotOpen,
)
from app.ingest.body import Body
from app.ingest.drain import Drain
from app.ingest.pump import Ended, Guard, Sink, Transfer, pump
from app.ingest.threads import sync_pool
from app.ledger.database import Ledger
from app.ledger.leases import Contention, Lease
from app.ledger.parts import PartClaim
from app.ledger.records import ReceiptRecord, UploadRecord
from app.storage.base import Storage
from app.uploads.policy import Policy
from app.uploads.staging import Staging
from app.uploads.views import PartStored

log = structlog.get_logger(__name__)

#: How long a second writer of a part waits for the first one's outcome.
WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.05

#: A writer that has received nothing for this long lets go when another waits:
#: its client has probably gone without a word.
STALE_SECONDS = 5.0


class _Nowhere:
    def write(self, buffer: memoryview) -> None:
        """Forget the bytes: they are only hashed."""


class PartReceiver:
    """Receives parts. Holds no session or transaction while bytes flow."""

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        clock: Clock,
        policy: Policy,
        drain: Drain,
        staging: Staging,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._drain = drain
        self._staging = staging

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
        claim = self._claim(upload_id, index, body)
        if claim.lease is None:
            assert claim.receipt is not None
            return self._compare(claim.upload, claim.receipt, body, digest)
        try:
            return self._store(claim.upload, index, claim.lease, body, digest)
        except PartsLost as error:
            raise self._vanished(claim.upload, error) from error
        finally:
            self._ledger.leases.release(claim.lease)

    def _vanished(self, upload: UploadRecord, error: PartsLost) -> LonghaulError:
        """Let an upload whose staged object has vanished start anew, unless it was cancelled."""
        self._ledger.parts.forget_all(upload)
        current = self._ledger.uploads.get(upload.id)
        if current is None or current.state in GONE:
            return UploadNotFound()
        if current.state is not State.OPEN:
            return UploadNotOpen(current.state, "take parts")
        log.error("staging.vanished", upload_id=upload.id, cause=str(error.__cause__))
        return StorageUnavailable(
            "This upload's stored parts have vanished; ask for its status and send them again"
        )

    def _claim(self, upload_id: str, index: int, body: Body) -> PartClaim:
        """Claim the part or find it received, waiting a little for another writer's outcome."""
        if self._drain.parts_must_stop:
            raise ShuttingDown
        give_up_at = self._clock.monotonic() + WAIT_SECONDS
        asked = False
        while True:
            claim = self._ledger.parts.claim(
                upload_id, index, self._clock.now_ms(), self._clock.monotonic
            )
            span = claim.upload.geometry.span(index)
            if body.length is not None and body.length != span.length:
                if claim.lease is not None:
                    self._ledger.leases.release(claim.lease)
                raise PartSizeMismatch(span.length, body.length)
            if claim.lease is not None or claim.receipt is not None:
                return claim
            if claim.holder is not None and self._ledger.leases.take_from_dead(claim.holder):
                continue
            if not asked:
                self._ledger.leases.ask(upload_id, str(index), Contention.ASKED)
                asked = True
            if self._clock.monotonic() >= give_up_at:
                raise UploadLocked
            self._clock.sleep(_POLL_SECONDS)

    def _store(
        self, upload: UploadRecord, index: int, lease: Lease, body: Body, digest: bytes | None
    ) -> PartStored:
        span = upload.geometry.span(index)
        staged = self._staging.ensure(upload)
        sha256 = hashlib.sha256()
        with self._storage.writer(staged, index, span.offset, span.length) as writer:
            transfer = self._receive(upload, body, writer, span, sha256, self._guard(lease))
            _require_whole(transfer, span, body)
            if digest is not None and digest != sha256.digest():
                raise DigestMismatch
            storage_receipt = sync_pool.run(lambda: writer.commit(durable=self._policy.durable))
        receipt = ReceiptRecord(
            part=index,
            size=span.length,
            sha256=sha256.hexdigest(),
            storage_receipt=storage_receipt,
            received_at_ms=self._clock.now_ms(),
        )
        commit = self._ledger.parts.commit(lease, receipt)
        return PartStored(upload.id, index, sha256.hexdigest(), commit.received, commit.part_count)

    def _compare(
        self, upload: UploadRecord, receipt: ReceiptRecord, body: Body, digest: bytes | None
    ) -> PartStored:
        """Read a part that is stored already and compare it by its hash."""
        span = upload.geometry.span(receipt.part)
        sha256 = hashlib.sha256()
        transfer = self._receive(upload, body, _Nowhere(), span, sha256, self._stop_when_draining)
        _require_whole(transfer, span, body)
        if digest is not None and digest != sha256.digest():
            raise DigestMismatch
        if receipt.sha256 != sha256.hexdigest():
            raise PartConflict
        part_count = upload.geometry.part_count
        return PartStored(
            upload.id, receipt.part, receipt.sha256, upload.received, part_count, again=True
        )

    def _receive(
        self,
        upload: UploadRecord,
        body: Body,
        sink: Sink,
        span: Span,
        sha256: hashlib._Hash,
        guard: Guard,
    ) -> Transfer:
        capabilities = self._storage.capabilities_of(upload.root_id)
        return pump(
            body,
            sink,
            limit_bytes=span.length,
            idle_timeout_seconds=self._policy.body_idle_timeout_seconds,
            hasher=sha256,
            guard=guard,
            native_writes=capabilities.native_thread_writes,
        )

    def _guard(self, lease: Lease) -> Callable[[float], LonghaulError | None]:
        """Return what the pump asks about once a second: must this writer stop?"""

        def guard(idle_seconds: float) -> LonghaulError | None:
            if lease.contention is Contention.ORDERED:
                return UploadNotFound()
            if lease.lost:
                return LeaseLost()
            if lease.contention is Contention.ASKED and idle_seconds >= STALE_SECONDS:
                return UploadLocked()
            return self._stop_when_draining(idle_seconds)

        return guard

    def _stop_when_draining(self, _idle_seconds: float) -> LonghaulError | None:
        return ShuttingDown() if self._drain.parts_must_stop else None


def _require_whole(transfer: Transfer, span: Span, body: Body) -> None:
    """Raise what explains why a transfer did not bring the whole part."""
    if transfer.reason is not None:
        raise transfer.reason
    if transfer.ended is Ended.STALLED:
        raise BodyStalled(body.idle_seconds())
    if transfer.ended is Ended.TOO_LONG:
        raise PartSizeMismatch(span.length, f"more than {span.length}")
    if transfer.ended is Ended.CUT and transfer.received == span.length:
        raise MalformedRequest("The body broke off before its end; send the part again")
    if transfer.received != span.length:
        raise PartSizeMismatch(span.length, transfer.received)
