"""Sweeping: what nobody will ever finish or fetch is removed, one upload at a time.

State first, then storage, then the ledger's note of it: a crash in between
leaves a row that is taken up again, never one that promises missing bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from app import metrics
from app.domain.clock import Clock
from app.errors import LonghaulError
from app.ingest.threads import job_pool
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.records import UploadRecord
from app.storage.base import Orphan, StagedObject, Storage
from app.uploads.service import UploadService

log = structlog.get_logger(__name__)

#: Rows looked at in one query.
BATCH = 100

#: Staged objects without a row are left alone for this long: their row may be
#: on its way, or a clock may be wrong.
ORPHAN_AGE_SECONDS = 24 * 3600

#: The row of an upload that was cancelled, deleted or has expired is kept for so
#: long: clients that come back learn that it is gone (410), operators what it was.
TOMBSTONE_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Swept:
    """Something that was removed, or would be.

    ``what`` is expired, leftover, orphan or tombstone.
    """

    what: str
    upload_id: str
    filename: str


class Sweeper:
    """Removes what has ended. Touches only what belongs to this ledger and root."""

    def __init__(
        self, ledger: Ledger, storage: Storage, clock: Clock, uploads: UploadService
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._uploads = uploads

    def sweep(self, *, dry_run: bool = False) -> Iterator[Swept]:
        """Yield what is removed as it is removed; with ``dry_run``, what would be.

        Nothing is yielded where another process sweeps at the moment.
        """
        lease = self._ledger.sweeping.claim(self._clock.monotonic)
        if lease is None:
            return
        try:
            for find in (self._expired, self._leftovers, self._orphans, self._tombstones):
                for swept in find(lease, dry_run):
                    if not dry_run:
                        metrics.swept_total.labels(swept.what).inc()
                        log.info("sweep." + swept.what, upload_id=swept.upload_id)
                    yield swept
            if not dry_run:
                self._ledger.sweeping.forget_dead_leases()
        finally:
            self._ledger.leases.release(lease)

    def _expired(self, lease: Lease, dry_run: bool) -> Iterator[Swept]:
        now_ms = self._clock.now_ms()

        def expire(upload: UploadRecord) -> bool:
            return self._ledger.sweeping.expire(upload, now_ms) and self._remove(upload)

        def due(after_id: str) -> Sequence[UploadRecord]:
            return self._ledger.sweeping.due(
                now_ms, self._storage.root_ids, after_id=after_id, limit=BATCH
            )

        yield from self._each("expired", _pages(due), lease, dry_run, expire)

    def _leftovers(self, lease: Lease, dry_run: bool) -> Iterator[Swept]:
        def left(after_id: str) -> Sequence[UploadRecord]:
            return self._ledger.sweeping.leftovers(
                self._storage.root_ids, after_id=after_id, limit=BATCH
            )

        yield from self._each("leftover", _pages(left), lease, dry_run, self._remove)

    def _orphans(self, lease: Lease, dry_run: bool) -> Iterator[Swept]:
        older_than_seconds = self._clock.now_ms() / 1000 - ORPHAN_AGE_SECONDS
        for orphan in self._storage.orphans(older_than_seconds):
            if lease.lost:
                return
            if self._ledger.sweeping.is_wanted(orphan.upload_id, orphan.root_id):
                continue
            if dry_run or self._discard(orphan):
                yield Swept("orphan", orphan.upload_id, "")

    def _tombstones(self, lease: Lease, dry_run: bool) -> Iterator[Swept]:
        ended_before_ms = self._clock.now_ms() - TOMBSTONE_SECONDS * 1000

        def ended(after_id: str) -> Sequence[UploadRecord]:
            return self._ledger.sweeping.tombstones(ended_before_ms, after_id=after_id, limit=BATCH)

        def bury(upload: UploadRecord) -> bool:
            return self._ledger.sweeping.bury(upload, ended_before_ms)

        yield from self._each("tombstone", _pages(ended), lease, dry_run, bury)

    def _each(
        self,
        what: str,
        found: Iterable[UploadRecord],
        lease: Lease,
        dry_run: bool,
        remove: Callable[[UploadRecord], bool],
    ) -> Iterator[Swept]:
        for upload in found:
            if lease.lost:
                return
            if dry_run or remove(upload):
                yield Swept(what, upload.id, upload.filename)

    def _discard(self, orphan: Orphan) -> bool:
        """Remove an orphan; False if that has to wait."""
        staged = StagedObject(orphan.upload_id, None, "", orphan.root_id, orphan.staging_key)
        try:
            job_pool.run(partial(self._storage.discard, staged))
        except LonghaulError as error:  # one must not stop the others
            _log_postponed(orphan.upload_id, error)
            return False
        return True

    def _remove(self, ended: UploadRecord) -> bool:
        """Remove an ended upload's bytes; False if that has to wait."""
        upload = self._ledger.uploads.get(ended.id)  # its state has changed since
        if upload is None:
            return False
        try:
            self._uploads.remove_bytes(upload)
        except LonghaulError as error:  # one must not stop the others
            _log_postponed(upload.id, error)
            return False
        return True


def _log_postponed(upload_id: str, error: LonghaulError) -> None:
    log.warning(
        "sweep.postponed", upload_id=upload_id, error=error.code, cause=str(error.__cause__)
    )


def _pages(query: Callable[[str], Sequence[UploadRecord]]) -> Iterator[UploadRecord]:
    """Yield all that ``query`` finds, asking for one page after another."""
    page = query("")
    while page:
        yield from page
        page = query(page[-1].id)
