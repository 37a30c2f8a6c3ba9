"""The staged object of an upload: made once, by whoever holds the ``create`` lease."""

from __future__ import annotations

from app.domain.clock import Clock
from app.domain.states import GONE, State
from app.errors import LeaseLost, UploadLocked, UploadNotFound, UploadNotOpen, WrongRoot
from app.ingest.threads import sync_pool
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.records import PARTIAL, NewUpload, UploadRecord
from app.storage.base import Arrival, StagedObject, Storage
from app.uploads.policy import Policy

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
        content_type=upload.content_type,
    )


def staged_object_of(new: NewUpload) -> StagedObject:
    """Return what the storage has to know of an upload that has just been planned."""
    return StagedObject(
        new.id, new.length, new.target_key, new.root_id, content_type=new.content_type
    )


class Staging:
    """Makes staged objects, also after a crash between the row and the object."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy

    def room_bytes(self, root_id: str) -> int | None:
        """What a root can still take; None: not known, or not to be checked."""
        if not self._policy.check_free_disk:
            return None
        free_bytes = sync_pool.run(lambda: self._storage.check(root_id))
        return None if free_bytes is None else free_bytes - self._policy.min_free_disk_bytes

    def make(self, staged: StagedObject, lease: Lease) -> UploadRecord:
        """Create the object under a ``create`` lease and note its key.

        Raises StorageFull, StorageUnavailable or LeaseLost, and UploadNotFound
        where the upload has gone meanwhile; then nothing is left behind.
        """

        def create() -> str:
            if lease.lost:  # whoever took over may have published what was made
                raise LeaseLost
            return self._storage.create(staged)

        try:
            key = sync_pool.run(create)
            try:
                return self._ledger.uploads.set_staged(lease, key)
            except UploadNotFound:
                sync_pool.run(lambda: self._storage.discard(staged))
                raise
        finally:
            self._ledger.leases.release(lease)

    def ensure(self, upload: UploadRecord, lease: Lease | None = None) -> UploadRecord:
        """Return an open upload with its staged object, which is made if nobody has.

        ``lease``: what the caller will write under; it learns on which root. An
        upload of another node that has received nothing moves here: a load
        balancer that sends an upload's parts to one node cannot know on which
        it was created. Raises WrongRoot where bytes are on another node's disk, its
        own or those that it will be joined with, UploadLocked where somebody else
        has been making the object for too long, StorageFull, UploadNotFound or
        UploadNotOpen where it is not wanted any more.
        """
        if upload.root_id not in self._storage.root_ids:
            upload = self._moved_here(upload, lease)
        elif upload.concat == PARTIAL and not upload.offset:
            self._ledger.concatenations.require_here(upload)
        if lease is not None:
            lease.root_id = upload.root_id
        give_up_at = self._clock.monotonic() + WAIT_SECONDS
        current = upload
        while current.staging_key is None:
            making = self._ledger.uploads.claim_create(upload.id, self._clock.monotonic)
            if making is not None:
                return self.make(staged_object(upload), making)
            if self._clock.monotonic() >= give_up_at:
                raise UploadLocked
            self._clock.sleep(_POLL_SECONDS)
            current = self._unstaged(upload.id)
        return current

    def _moved_here(self, upload: UploadRecord, lease: Lease | None) -> UploadRecord:
        arrival = Arrival(
            upload.length, upload.part_size, upload.part_count, upload.checksum_sha256 is not None
        )
        root_id = self._storage.root_for(arrival)
        moved = self._ledger.uploads.move(upload, root_id, self.room_bytes(root_id), lease)
        if moved is None:
            raise WrongRoot
        return moved

    def _unstaged(self, upload_id: str) -> UploadRecord:
        """Return an upload that was not staged a moment ago as it is now."""
        upload = self._ledger.uploads.get(upload_id)
        if upload is None or upload.state in GONE:
            raise UploadNotFound
        if upload.state is not State.OPEN and upload.staging_key is None:
            raise UploadNotOpen(upload.state, "be staged")
        return upload
