"""The staged object of an upload: made once, by whoever holds the ``create`` lease."""

from __future__ import annotations

from app.domain.clock import Clock
from app.errors import UploadLocked, UploadNotFound, WrongRoot
from app.ingest.threads import sync_pool
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.records import UploadRecord
from app.storage.base import StagedObject, Storage

#: How long a request waits for another one that is making the staged object.
WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.05


def staged_object(upload: UploadRecord) -> StagedObject:
    """Return what the storage has to know of an upload."""
    return StagedObject(
        upload_id=upload.id,
        length=upload.length,
        target_key=upload.target_key,
        root_id=upload.root_id,
        staging_key=upload.staging_key,
    )


class Staging:
    """Makes staged objects, also after a crash between the row and the object."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock

    def make(self, staged: StagedObject, lease: Lease) -> UploadRecord:
        """Create the object under a ``create`` lease and note its key.

        Raises StorageFull or StorageUnavailable, and UploadNotFound where the
        upload has gone meanwhile; then nothing is left behind.
        """
        try:
            key = sync_pool.run(lambda: self._storage.create(staged))
            try:
                return self._ledger.uploads.set_staged(lease, key)
            except UploadNotFound:
                sync_pool.run(lambda: self._storage.discard(staged))
                raise
        finally:
            self._ledger.leases.release(lease)

    def ensure(self, upload: UploadRecord) -> StagedObject:
        """Return the staged object of an open upload, making it if nobody has.

        Raises WrongRoot where it lies on another node's disk, UploadLocked
        where somebody else has been making it for too long.
        """
        if upload.root_id != self._storage.root_id:
            raise WrongRoot
        give_up_at = self._clock.monotonic() + WAIT_SECONDS
        current: UploadRecord | None = upload
        while current is not None and current.staging_key is None:
            lease = self._ledger.uploads.claim_create(upload.id, self._clock.monotonic)
            if lease is not None:
                current = self.make(staged_object(upload), lease)
                break
            if self._clock.monotonic() >= give_up_at:
                raise UploadLocked
            self._clock.sleep(_POLL_SECONDS)
            current = self._ledger.uploads.get(upload.id)
        if current is None:
            raise UploadNotFound
        return staged_object(current)
