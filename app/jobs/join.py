"""Joining: the file of an upload that is made of others, before it is published.

Nothing of it is staged before its partial ones are full. Each step is safe to
repeat after a crash; the partial ones stay as they are, for other uploads may
be made of them, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from app.errors import LeaseLost, PartsLost, StorageFault
from app.ingest.threads import job_pool
from app.jobs.progress import ProgressRecorder
from app.ledger.database import Ledger
from app.ledger.finals import can_be_joined
from app.ledger.leases import Lease
from app.ledger.records import UploadRecord
from app.storage.base import StagedObject, Storage
from app.uploads.staging import staged_object

log = structlog.get_logger(__name__)

_PARTIAL_LOST = (
    "A partial upload that this file is made of was deleted, has expired or was damaged; "
    "send the parts again and make a new one of them"
)

_PARTIAL_ELSEWHERE = (
    "The partial uploads that this file is made of lie on the disks of several nodes; "
    "send the parts again and make a new one of them"
)


class Joiner:
    """Stages uploads that are made of others."""

    def __init__(self, ledger: Ledger, storage: Storage) -> None:
        self._ledger = ledger
        self._storage = storage

    def join(self, upload: UploadRecord, lease: Lease, progress: ProgressRecorder) -> StagedObject:
        """Stage an upload with the bytes of its partial ones, unless it is published already.

        Called under its ``finalize`` lease. Should its own staged object have
        vanished, it is made anew. Raises StorageFault where a partial one is not
        there any more, LeaseLost, and what storages raise; PartsLost: try again.
        """
        staged = staged_object(upload)
        if staged.staging_key and job_pool.run(lambda: self._is_published(staged)):
            return staged
        partials = [
            partial
            for partial in self._ledger.concatenations.sources(upload.id)
            if can_be_joined(partial) and partial.is_full
        ]
        if sum(partial.offset for partial in partials) != upload.length:
            raise StorageFault(_PARTIAL_LOST)
        # One without bytes may have stayed on another root.
        partials = [partial for partial in partials if partial.offset]
        if any(partial.root_id != upload.root_id for partial in partials):
            raise StorageFault(_PARTIAL_ELSEWHERE)
        staged = self._staged(staged, lease)
        sources = [staged_object(partial) for partial in partials]

        def moved(moved_bytes: int, of_bytes: int) -> None:
            progress.moved(moved_bytes, of_bytes)
            if lease.lost:
                raise LeaseLost

        try:
            job_pool.run(lambda: self._storage.join(staged, sources, moved))
        except PartsLost as error:
            if not self._forget_lost(partials):
                raise  # its own object has vanished
            raise StorageFault(_PARTIAL_LOST) from error
        return staged

    def _staged(self, staged: StagedObject, lease: Lease) -> StagedObject:
        """Return the object with its key, made if it is not there, and noted in the ledger."""

        def create() -> str:
            if lease.lost:  # whoever took over may have published what was made
                raise LeaseLost
            return self._storage.create(staged)

        staging_key = job_pool.run(create)
        if staged.staging_key is None:
            self._ledger.finalizing.note_staged(lease, staging_key)
        return replace(staged, staging_key=staging_key)

    def _is_published(self, staged: StagedObject) -> bool:
        return self._size_bytes(staged.staging_key) is None and (
            self._size_bytes(staged.target_key) is not None
        )

    def _forget_lost(self, partials: Sequence[UploadRecord]) -> bool:
        """Let partial uploads start anew whose bytes are gone, so that they are sent again.

        Returns whether there was one.
        """
        lost = False
        for partial in partials:
            size_bytes = job_pool.run(lambda: self._size_bytes(partial.staging_key))  # noqa: B023
            if size_bytes is None or size_bytes < partial.offset:
                self._ledger.parts.forget_all(partial)
                log.error("staging.vanished", upload_id=partial.id, size=size_bytes)
                lost = True
        return lost

    def _size_bytes(self, key: str | None) -> int | None:
        """Return how large an object is, None where there is none."""
        try:
            return None if key is None else self._storage.stat(key).size_bytes
        except FileNotFoundError:
            return None
