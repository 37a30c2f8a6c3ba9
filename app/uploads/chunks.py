"""Chunks of files that clients know by names of their own: made on the first one, replaceable."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app import metrics
from app.domain.clock import Clock
from app.domain.states import State
from app.errors import (
    LeaseLost,
    PartConflict,
    PartSizeMismatch,
    PartsLost,
    RequestRefused,
    StorageFault,
    StorageUnavailable,
    UploadLocked,
    UploadNotFound,
    UploadNotOpen,
    WrongRoot,
)
from app.ingest.body import Body
from app.ingest.pump import Transfer
from app.ingest.threads import receive_pool, sync_pool
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.parts import PartClaim, PartCommit
from app.ledger.records import AliasKey, ReceiptRecord, UploadRecord
from app.storage.base import Storage
from app.uploads.comparing import Comparison, OtherBytes
from app.uploads.creating import Wish
from app.uploads.policy import Policy
from app.uploads.service import UploadService
from app.uploads.staging import staged_object
from app.uploads.transfers import require_whole
from app.uploads.views import UploadView, upload_view

OTHER_BYTES = (
    "This file has been received whole, and its bytes are others than these; "
    "to send another file, wait a few minutes or give it another identifier"
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk, and the file it is of, as its client tells.

    ``index`` is counted from 0. ``part_count`` None: the client has not told
    into how many chunks the file is cut. ``wish`` is what the upload becomes if
    this is its first chunk; then its geometry holds.
    """

    protocol: str
    alias: AliasKey
    index: int
    part_count: int | None
    wish: Wish


class ChunkService:
    """Stores chunks and tells of them."""

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        clock: Clock,
        policy: Policy,
        uploads: UploadService,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._uploads = uploads
        self._transfers = uploads.transfers

    def find(self, chunk: Chunk) -> UploadView | None:
        """Return the upload of a chunk that is stored, None while it is not.

        Raises StorageFault where the file is there and could not be finalized.
        """
        self._require_allowed(chunk.wish)
        found = self._ledger.chunks.look(
            chunk.alias, chunk.index, self._clock.now_ms(), self._policy.grace_ms
        )
        if found is None:
            return None
        upload, is_received = found
        if chunk.part_count not in (None, upload.part_count):
            return None  # cut in another way, a part of this number has other bytes
        if upload.state is State.FAILED:
            raise StorageFault(upload.error or "The file could not be finalized")
        return self._uploads.view(upload) if is_received else None

    def put(self, chunk: Chunk, body: Body) -> UploadView:
        """Store a chunk; durable and recorded on return.

        The first chunk of a file creates its upload, the last one has it
        finalized, and waits a little for that. A chunk that is stored already
        is compared while it arrives: the same bytes change nothing, other ones
        replace it while the upload is open, and are refused afterwards. A refused
        chunk of a file that has no other leaves no upload behind.
        """
        self._require_allowed(chunk.wish)
        claim = self._transfers.claimed(chunk.index, lambda: self._claim(chunk, body))
        if claim.lease is None:
            try:
                return self._confirm(claim.upload, chunk.index, body)
            except PartsLost as error:
                raise StorageUnavailable from error
        try:
            return self._put_leased(claim, chunk.index, claim.lease, body)
        except RequestRefused:
            self._ledger.leases.release(claim.lease)
            if not body.cut:  # or it comes again
                self._abandon_empty(claim.upload)
            raise
        finally:
            self._ledger.leases.release(claim.lease)

    def _put_leased(self, claim: PartClaim, index: int, lease: Lease, body: Body) -> UploadView:
        """Store a chunk of an open upload, or what differs from the one that is stored."""
        upload = claim.upload
        try:
            if claim.receipt is not None:
                return self._replace(upload, claim.receipt, lease, body)
            return self._store(upload, index, lease, body)
        except PartsLost as error:
            raise self._transfers.vanished(upload, error) from error
        except UploadNotFound as error:
            current = self._ledger.uploads.get(upload.id)
            if current is not None and current.state is State.EXPIRED:
                raise LeaseLost from error  # just now; the next request makes another one
            raise

    def _abandon_empty(self, upload: UploadRecord) -> None:
        """End an upload that a refused chunk has made, unless other chunks are there or come."""
        ended = self._ledger.sweeping.abandon(upload.id, self._clock.now_ms())
        if ended is not None:
            self._uploads.clear_away(ended)

    def _require_allowed(self, wish: Wish) -> None:
        self._uploads.creator.require_allowed(wish.length, wish.max_bytes, wish.geometry)

    def _claim(self, chunk: Chunk, body: Body) -> PartClaim:
        """Claim a chunk of its file's upload, which is created if there is none."""
        claim = None
        while claim is None:
            claim = self._ledger.chunks.claim(
                chunk.alias,
                chunk.index,
                chunk.part_count,
                self._clock.now_ms(),
                self._policy.grace_ms,
                self._clock.monotonic,
            )
            if claim is None:
                self._uploads.creator.get_or_create(
                    chunk.protocol, chunk.alias.owner, chunk.wish, chunk.alias
                )
        length = claim.upload.geometry.span(chunk.index).length
        if body.length is not None and body.length != length:
            if claim.lease is not None:
                self._ledger.leases.release(claim.lease)
            raise PartSizeMismatch(length, body.length)
        return claim

    def _store(
        self,
        upload: UploadRecord,
        index: int,
        lease: Lease,
        body: Body,
        *,
        replaced: ReceiptRecord | None = None,
        same_bytes: int = 0,
        ahead: bytes = b"",
    ) -> UploadView:
        """Write a chunk, or what of it follows ``same_bytes`` that are stored already.

        ``ahead`` has been taken from the body before. ``replaced``: the receipt of
        the chunk that was there.
        """
        span = upload.geometry.span(index)
        upload = self._uploads.staging.ensure(upload, lease)
        staged = staged_object(upload)
        length = span.length - same_bytes

        def require_part(transfer: Transfer) -> None:
            done = same_bytes + len(ahead) + transfer.received
            require_whole(replace(transfer, received=done), span.length, body)

        def record(storage_receipt: str | None) -> PartCommit:
            now_ms = self._clock.now_ms()
            return self._ledger.parts.commit(
                lease,
                ReceiptRecord(index, span.length, None, storage_receipt, now_ms),
                completes=True,
                replaced=replaced,
                cut_into=upload.part_count,
                prolonged_to_ms=now_ms + self._policy.ttl_ms,
            )

        with self._storage.writer(staged, index, span.offset + same_bytes, length) as writer:
            if ahead:
                self._transfers.run(receive_pool, upload, lambda: writer.write(memoryview(ahead)))
            commit = self._transfers.store(
                upload,
                body,
                writer,
                length - len(ahead),
                lease=lease,
                require_part=require_part,
                record=record,
            )
        metrics.received_bytes_total.labels(upload.protocol).inc(span.length)
        if commit.completed:
            return self._finished(replace(upload, state=State.FINALIZING))
        return upload_view(replace(upload, received=commit.received), None)

    def _replace(
        self, upload: UploadRecord, receipt: ReceiptRecord, lease: Lease, body: Body
    ) -> UploadView:
        """Compare a stored chunk of an open upload with what arrives, and keep the latter."""
        index = receipt.part
        span = upload.geometry.span(index)
        upload = self._uploads.staging.ensure(upload, lease)
        same_bytes, ahead, differs = 0, b"", False
        if self._storage.capabilities_of(upload.root_id).readable_staging:
            with self._comparison([upload.staging_key], span.offset) as comparison:
                try:
                    transfer = self._transfers.receive(
                        upload, body, comparison, span.length, lease=lease, is_writer=False
                    )
                    require_whole(transfer, span.length, body)
                    return self._came_again(lease, index)
                except OtherBytes:
                    same_bytes, ahead, differs = comparison.same, comparison.other, True
        try:
            self._ledger.chunks.withdraw(lease, index, self._clock.now_ms(), differs=differs)
        except UploadNotOpen as error:  # others have sent the rest meanwhile
            raise PartConflict(OTHER_BYTES) from error
        return self._store(
            upload, index, lease, body, replaced=receipt, same_bytes=same_bytes, ahead=ahead
        )

    def _came_again(self, lease: Lease, index: int) -> UploadView:
        """Record that a chunk of an open upload has come again with the same bytes."""
        upload = self._ledger.chunks.confirm(lease, index, self._clock.now_ms())
        if upload.state is State.FINALIZING:
            return self._finished(upload)
        return self._uploads.view(upload)

    def _confirm(self, upload: UploadRecord, index: int, body: Body) -> UploadView:
        """Compare a chunk of an upload that takes no more chunks. Raises PartConflict."""
        if upload.root_id not in self._storage.root_ids:
            raise WrongRoot
        span = upload.geometry.span(index)
        is_final = upload.state is State.COMPLETE
        if not is_final and not self._storage.capabilities_of(upload.root_id).readable_staging:
            raise UploadLocked
        # While it is being published it moves from one key to the other.
        keys = [upload.final_key] if is_final else [upload.staging_key, upload.target_key]
        with self._comparison(keys, span.offset) as comparison:
            try:
                transfer = self._transfers.receive(
                    upload, body, comparison, span.length, lease=None, is_writer=False
                )
            except OtherBytes:
                raise PartConflict(OTHER_BYTES) from None
        require_whole(transfer, span.length, body)
        if upload.state is State.FAILED:
            queued = self._ledger.uploads.queue_finalize(upload.id, self._clock.now_ms())
            return self._finished(queued)
        return self._uploads.view(self._ledger.uploads.get(upload.id) or upload)

    def _comparison(self, keys: Sequence[str | None], offset: int) -> Comparison:
        """Open the first object of ``keys`` that is there, to be compared from ``offset`` on."""

        def opened() -> Comparison:
            for key in filter(None, keys):
                with contextlib.suppress(FileNotFoundError):
                    return Comparison(self._storage.open(key), offset)
            raise PartsLost

        return sync_pool.run(opened)

    def _finished(self, upload: UploadRecord) -> UploadView:
        """Have a full upload finalized; return it, complete or on its way."""
        upload = self._uploads.outcome(upload)
        if upload.state is State.FAILED:
            raise StorageFault(upload.error or "The file could not be finalized")
        if upload.state is State.OPEN:
            raise StorageUnavailable("Stored chunks have vanished; send the file again")
        return self._uploads.view(upload)
