"""Create, look at, complete and cancel uploads that come in parts.

Takes plain values and collaborators, raises typed errors, returns frozen views.
Knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from app.domain.clock import Clock
from app.domain.parts import Geometry, pending_parts
from app.domain.states import GONE, State
from app.errors import (
    LonghaulError,
    PartsMissing,
    UploadNotFound,
    UploadNotOpen,
    WrongRoot,
)
from app.ingest.body import Body
from app.ingest.drain import Drain
from app.ingest.threads import sync_pool
from app.ledger.database import Ledger
from app.ledger.leases import Contention
from app.ledger.records import UploadRecord
from app.storage.base import Storage
from app.uploads.creating import Creator, Wish
from app.uploads.jobs import Jobs
from app.uploads.policy import Policy
from app.uploads.receiving import PartReceiver
from app.uploads.staging import Staging, staged_object
from app.uploads.transfers import Transfers
from app.uploads.views import PartStored, PendingParts, UploadView, upload_view

log = structlog.get_logger(__name__)

#: First and longest pause between two looks at an upload that is being finalized.
_POLL_SECONDS = 0.01
_LONGEST_POLL_SECONDS = 0.2


class UploadService:
    """Uploads in parts.

    ``sees`` arguments name the owner whose uploads are visible, None: all.
    """

    def __init__(
        self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy, drain: Drain
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self.staging = Staging(ledger, storage, clock, policy)
        self.creator = Creator(ledger, storage, clock, policy, self.staging)
        self.transfers = Transfers(ledger, storage, clock, policy, drain)
        self._receiver = PartReceiver(ledger, storage, clock, policy, self.staging, self.transfers)
        self.jobs = Jobs()

    def create(self, protocol: str, owner: str, wish: Wish) -> UploadView:
        """Create an upload whose parts have the server's size; see ``Creator.create``."""
        geometry = Geometry.of(wish.length or 0, self._policy.part_size_bytes)
        record = self.creator.create(
            protocol, owner, replace(wish, geometry=geometry, has_tokens=True)
        )
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
        return upload_view(upload, self.final_path(upload), receipts)

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
            self.staging.ensure(existing)  # a crash came between the row and its object
        upload = self._ledger.uploads.queue_finalize(upload_id, self._clock.now_ms())
        upload = self.outcome(upload)
        if upload.state is State.OPEN:  # the storage has lost parts
            raise PartsMissing(upload.received, upload.geometry.part_count)
        return self.view(upload)

    def outcome(self, upload: UploadRecord) -> UploadRecord:
        """Have a full upload finalized, and return it as it is a little later.

        Raises UploadNotFound where it has been ended meanwhile.
        """
        self.jobs.wake()
        give_up_at = self._clock.monotonic() + self._policy.complete_wait_seconds
        pause_seconds = _POLL_SECONDS
        while upload.state is State.FINALIZING and self._clock.monotonic() < give_up_at:
            self._clock.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_POLL_SECONDS)
            current = self._ledger.uploads.get(upload.id)
            if current is None or current.state in GONE:
                raise UploadNotFound
            upload = current
        return upload

    def cancel(self, upload_id: str, *, sees: str | None) -> UploadView:
        """Cancel an unfinished upload, or delete a complete one with its file.

        Raises UploadNotOpen while it is finalizing. What the storage cannot
        remove at the moment is left to the sweeper.
        """
        self._existing(upload_id, sees)
        return upload_view(self.end(upload_id), None)

    def end(self, upload_id: str) -> UploadRecord:
        """Cancel or delete an upload of whatever protocol and remove its bytes; see ``cancel``."""
        upload = self._ledger.uploads.cancel(upload_id, self._clock.now_ms())
        self.clear_away(upload)
        return upload

    def clear_away(self, upload: UploadRecord) -> None:
        """Have writers of an ended upload stop, and remove its bytes, now or by the sweeper."""
        try:
            self._ledger.leases.ask(upload.id, None, Contention.ORDERED)
            self.remove_bytes(upload)
        except LonghaulError as error:  # full storages refuse to remove, too
            log.warning(
                "end.left_to_sweeper",
                upload_id=upload.id,
                error=error.code,
                cause=str(error.__cause__),
            )

    def remove_bytes(self, upload: UploadRecord) -> None:
        """Remove what an ended upload has on the storage, then note it; idempotent.

        Raises WrongRoot where that is another node's business.
        """
        if upload.state is State.DELETED and upload.final_key is not None:
            if not self._storage.reaches_final(upload.root_id):
                raise WrongRoot
            final_key = upload.final_key
            sync_pool.run(lambda: self._storage.delete(final_key))
            self._ledger.uploads.forget_final(upload.id)
        if upload.root_id not in self._storage.root_ids:
            if upload.staging_key is None:
                return
            raise WrongRoot
        sync_pool.run(lambda: self._storage.discard(staged_object(upload)))
        self._ledger.sweeping.forget_staging(upload.id)

    def _existing(self, upload_id: str, sees: str | None) -> UploadRecord:
        upload = self._ledger.uploads.get(upload_id)
        if upload is None or upload.state in GONE or upload.has_expired(self._clock.now_ms()):
            raise UploadNotFound
        if sees is not None and upload.owner != sees:
            raise UploadNotFound
        if upload.part_count is None:  # appended, by another protocol
            raise UploadNotFound
        return upload

    def view(self, upload: UploadRecord) -> UploadView:
        """Return an upload as its owner may see it, without its parts."""
        return upload_view(upload, self.final_path(upload))

    def final_path(self, upload: UploadRecord) -> str | None:
        """Return where an upload's file is, as people see it; None until it is complete."""
        if upload.state is not State.COMPLETE or upload.final_key is None:
            return None
        return self._storage.location(upload.final_key)
