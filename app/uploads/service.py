"""Create, look at, complete and cancel uploads that come in parts.

Takes plain values and collaborators, raises typed errors, returns frozen views.
Knows nothing of HTTP.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.domain.clock import Clock
from app.domain.names import ClientName, parse_client_name, target_key
from app.domain.parts import MAX_PARTS, Geometry, pending_parts
from app.domain.states import GONE, State
from app.domain.targets import parse_target
from app.errors import (
    LonghaulError,
    PartsMissing,
    StorageFull,
    TryAgain,
    UploadNotFound,
    UploadNotOpen,
    UploadTooLarge,
)
from app.ingest.body import Body
from app.ingest.drain import Drain
from app.ingest.threads import sync_pool
from app.ledger.database import Ledger
from app.ledger.leases import Contention
from app.ledger.records import NewUpload, UploadRecord
from app.storage.base import StagedObject, Storage
from app.uploads.policy import Policy
from app.uploads.receiving import PartReceiver
from app.uploads.staging import Staging, staged_object
from app.uploads.views import PartStored, PendingParts, UploadView, upload_view

log = structlog.get_logger(__name__)

#: First and longest pause between two looks at an upload that is being finalized.
_POLL_SECONDS = 0.01
_LONGEST_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants to upload. ``length`` in bytes; ``checksum_sha256`` in hex."""

    filename: str
    length: int
    webhook_url: str | None = None
    checksum_sha256: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class UploadService:
    """Uploads in parts. ``wake_jobs`` is called when there is something to finalize.

    ``sees`` arguments name the owner whose uploads are visible, None: all.
    """

    def __init__(
        self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy, drain: Drain
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._staging = Staging(ledger, storage, clock)
        self._receiver = PartReceiver(ledger, storage, clock, policy, drain, self._staging)
        self.wake_jobs: Callable[[], None] = lambda: None

    def create(self, protocol: str, owner: str, wish: Wish) -> UploadView:
        """Create an open upload and its staged object.

        Raises InvalidName, TargetRefused, UploadTooLarge, StorageFull,
        StorageUnavailable.
        """
        name = parse_client_name(wish.filename)
        if wish.webhook_url is not None:
            parse_target(wish.webhook_url, allow_private=self._policy.allow_private_targets)
        geometry = self._geometry(wish.length)
        new = self._new_upload(protocol, owner, wish, name, geometry)
        lease = self._ledger.uploads.create(
            new, room_bytes=self._room_bytes(), monotonic=self._clock.monotonic
        )
        staged = StagedObject(new.id, new.length, new.target_key, new.root_id)
        try:
            record = self._staging.make(staged, lease)
        except (StorageFull, TryAgain):
            self._give_up(new.id)
            raise
        return upload_view(record, None)

    def put_part(
        self, upload_id: str, index: int, body: Body, digest: bytes | None = None
    ) -> PartStored:
        """Store a part; see ``PartReceiver.put_part``."""
        return self._receiver.put_part(upload_id, index, body, digest)

    def status(self, upload_id: str, *, sees: str | None, with_parts: bool | None) -> UploadView:
        """Return an upload; ``with_parts`` None: with them while it is open or failed."""
        upload = self._existing(upload_id, sees)
        if with_parts is None:
            with_parts = upload.state in (State.OPEN, State.FAILED)
        receipts = self._ledger.parts.receipts(upload_id) if with_parts else None
        return upload_view(upload, self._final_path(upload), receipts)

    def pending(self, upload_id: str, *, sees: str | None) -> PendingParts:
        """Return the parts of an open upload that are still to be sent."""
        upload = self._existing(upload_id, sees)
        if upload.state is not State.OPEN:
            raise UploadNotOpen(upload.state, "take parts")
        geometry = upload.geometry
        indexes = list(pending_parts(self._ledger.parts.words(upload_id), geometry.part_count))
        return PendingParts(upload.id, geometry, indexes, upload.expires_at_ms)

    def complete(self, upload_id: str, *, sees: str | None) -> UploadView:
        """Start finalizing a full upload and wait a little for the outcome; idempotent.

        Returns it complete, failed or still finalizing. Raises PartsMissing.
        """
        existing = self._existing(upload_id, sees)
        if existing.state is State.OPEN and existing.staging_key is None:
            self._staging.ensure(existing)  # a crash came between the row and its object
        upload = self._ledger.uploads.queue_finalize(upload_id, self._clock.now_ms())
        self.wake_jobs()
        give_up_at = self._clock.monotonic() + self._policy.complete_wait_seconds
        pause_seconds = _POLL_SECONDS
        while upload.state is State.FINALIZING and self._clock.monotonic() < give_up_at:
            self._clock.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_POLL_SECONDS)
            upload = self._existing(upload_id, sees)
        if upload.state is State.OPEN:  # the storage has lost parts
            raise PartsMissing(upload.received, upload.geometry.part_count)
        return upload_view(upload, self._final_path(upload))

    def cancel(self, upload_id: str, *, sees: str | None) -> UploadView:
        """Cancel an unfinished upload, or delete a complete one with its file.

        Raises UploadNotOpen while it is finalizing. What the storage cannot
        remove at the moment is left to the sweeper.
        """
        self._existing(upload_id, sees)
        upload = self._ledger.uploads.cancel(upload_id, self._clock.now_ms())
        try:
            self._ledger.leases.ask(upload_id, None, Contention.ORDERED)
            self.remove_bytes(upload)
        except TryAgain as error:
            log.warning(
                "cancel.left_to_sweeper",
                upload_id=upload_id,
                error=error.code,
                cause=str(error.__cause__),
            )
        return upload_view(upload, None)

    def remove_bytes(self, upload: UploadRecord) -> None:
        """Remove what an ended upload has on the storage, then note it; idempotent."""
        if upload.state is State.DELETED and upload.final_key is not None:
            final_key = upload.final_key
            sync_pool.run(lambda: self._storage.delete(final_key))
            self._ledger.uploads.forget_final(upload.id)
        sync_pool.run(lambda: self._storage.discard(staged_object(upload)))
        self._ledger.sweeping.forget_staging(upload.id)

    def _existing(self, upload_id: str, sees: str | None) -> UploadRecord:
        upload = self._ledger.uploads.get(upload_id)
        if upload is None or upload.state in GONE or upload.has_expired(self._clock.now_ms()):
            raise UploadNotFound
        if sees is not None and upload.owner != sees:
            raise UploadNotFound
        return upload

    def _geometry(self, length: int) -> Geometry:
        limit = self._policy.max_upload_bytes
        if limit and length > limit:
            raise UploadTooLarge(f"total_size {length} is over the limit of {limit} bytes")
        geometry = Geometry.of(length, self._policy.part_size_bytes)
        if geometry.part_count > MAX_PARTS:
            raise UploadTooLarge(
                f"{geometry.part_count} parts are over the limit of {MAX_PARTS}; "
                "the server needs a larger CHUNK_SIZE_MB for files of this size"
            )
        return geometry

    def _new_upload(
        self, protocol: str, owner: str, wish: Wish, name: ClientName, geometry: Geometry
    ) -> NewUpload:
        upload_id = str(uuid.uuid4())
        now_ms = self._clock.now_ms()
        return NewUpload(
            id=upload_id,
            protocol=protocol,
            owner=owner,
            filename=name.filename,
            directory=name.directory,
            length=geometry.length,
            part_size=geometry.part_size,
            part_count=geometry.part_count,
            details=wish.metadata,
            checksum_sha256=wish.checksum_sha256,
            webhook_url=wish.webhook_url,
            storage_backend=self._storage.backend,
            root_id=self._storage.root_id,
            target_key=target_key(upload_id, name),
            created_at_ms=now_ms,
            expires_at_ms=now_ms + self._policy.ttl_ms,
        )

    def _room_bytes(self) -> int | None:
        """What the storage can still take; None: not known, or not to be checked."""
        if not self._policy.check_free_disk:
            return None
        free_bytes = sync_pool.run(self._storage.check)
        return None if free_bytes is None else free_bytes - self._policy.min_free_disk_bytes

    def _final_path(self, upload: UploadRecord) -> str | None:
        if upload.state is not State.COMPLETE or upload.final_key is None:
            return None
        return self._storage.location(upload.final_key)

    def _give_up(self, upload_id: str) -> None:
        """Cancel an upload that could not be staged, so that it reserves no space."""
        try:
            self._ledger.uploads.cancel(upload_id, self._clock.now_ms())
        except LonghaulError as error:
            log.warning("create.left_to_sweeper", upload_id=upload_id, error=error.code)
