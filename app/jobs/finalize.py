"""Finalizing: from all parts received to a verified file under its final name.

Named steps, each safe to repeat after a crash. Trouble that passes leaves the
upload finalizing and due again; ``failed`` is for what no retry heals.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

import structlog

from app import metrics
from app.buffers import page_aligned
from app.domain.clock import Clock, rfc3339
from app.domain.parts import pending_parts
from app.errors import (
    ChecksumMismatch,
    LeaseLost,
    LonghaulError,
    PartsLost,
    StorageFault,
    StorageFull,
    StorageUnavailable,
    TryAgain,
)
from app.ingest.threads import job_pool
from app.jobs.join import Joiner
from app.jobs.progress import ProgressRecorder
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.records import FINAL, UploadRecord
from app.storage.base import StagedObject, Storage
from app.uploads.policy import Policy
from app.uploads.staging import staged_object

log = structlog.get_logger(__name__)

#: Longest pause before finalizing is tried again.
MAX_BACKOFF_SECONDS = 300

#: Bytes hashed in one stay in a native thread: between two, the lease is looked at.
VERIFY_BYTES = 64 * 1024 * 1024
_READ_BYTES = 1024 * 1024


class Finalizer:
    """Finalizes uploads that are due, one a call."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._joiner = Joiner(ledger, storage)

    def claim(self) -> tuple[UploadRecord, Lease] | None:
        """Claim the upload that has been due longest; None if there is none, or no free place."""
        return self._ledger.finalizing.claim_next(
            self._clock.now_ms(),
            self._policy.max_concurrent_finalizations,
            self._storage.root_ids,
            self._clock.monotonic,
        )

    def complete_settled(self) -> bool:
        """Queue full uploads that were left open in case more came; tell whether there were any."""
        return bool(self._ledger.editions.complete_settled(self._clock.now_ms()))

    def finalize(self, upload: UploadRecord, lease: Lease) -> None:
        """Carry a claimed upload to its outcome and record it. Never raises for storage trouble."""
        started_at = self._clock.monotonic()
        with structlog.contextvars.bound_contextvars(upload_id=upload.id):
            try:
                self._finalize(upload, lease)
                outcome = "finalized"
            except Exception as error:  # noqa: BLE001 - every failure is an outcome
                outcome = self._record_failure(upload, lease, error)
            finally:
                self._ledger.leases.release(lease)
            metrics.finalizations_total.labels(outcome).inc()
            metrics.finalize_seconds.observe(self._clock.monotonic() - started_at)
            log.info("finalize." + outcome, size=upload.length, attempts=upload.attempts)

    def _record_failure(self, upload: UploadRecord, lease: Lease, error: Exception) -> str:
        """Record what a failure means for the upload; return the outcome's name.

        If even that cannot be recorded the lease runs out, and the upload is
        due again.
        """
        with suppress(LonghaulError):
            if isinstance(error, PartsLost) and upload.concat != FINAL:
                self._reopen(upload, lease, error)
                return "parts_lost"
            if isinstance(error, StorageFault) and not isinstance(error, PartsLost):
                self._fail(upload, lease, error)
                return "failed"
            if isinstance(error, LeaseLost):
                return "overtaken"
            # What is made of others is made anew where it has vanished.
            if isinstance(error, (TryAgain, StorageFull, PartsLost)):
                log.warning("finalize.trouble", error=error.code, cause=str(error.__cause__))
                self._postpone(upload, lease, error.message)
            else:
                log.error("finalize.bug", exc_info=error)
                self._postpone(upload, lease, "Internal error; see the log")
        return "postponed"

    def _finalize(self, upload: UploadRecord, lease: Lease) -> None:
        staged = staged_object(upload)
        self._require_full(upload)
        idle = (
            upload.concat != FINAL
            and upload.checksum_sha256 is None
            and self._storage.capabilities_of(upload.root_id).publishing_moves_no_bytes
        )
        with ProgressRecorder(self._ledger.finalizing, lease, idle=idle) as progress:
            if upload.concat == FINAL:
                staged = self._joiner.join(upload, lease, progress)
            self._verify(upload, lease, progress)
            final_key, staging_key = self._publish(upload, staged, lease, progress)
        payload = None if upload.webhook_url is None else self._payload(upload, final_key)
        self._ledger.finalizing.finish(
            upload, lease, final_key, staging_key, payload, self._clock.now_ms()
        )

    def _require_full(self, upload: UploadRecord) -> None:
        if upload.concat == FINAL:
            return  # has no bytes of its own
        if upload.staging_key is None:
            raise PartsLost
        if upload.part_count is None:
            if not upload.is_full:
                raise PartsLost
            return
        words = self._ledger.parts.words(upload.id)
        missing = list(pending_parts(words, upload.geometry.part_count))
        if missing:
            raise PartsLost(missing)

    def _verify(self, upload: UploadRecord, lease: Lease, progress: ProgressRecorder) -> None:
        """Compare the whole file's SHA-256 with the promised one, if one was promised.

        What lies beyond the length was never acknowledged: publishing cuts it off.
        Where nothing is staged any more a crash came after publishing, or the
        bytes are lost: publishing again tells.
        """
        if upload.checksum_sha256 is None:
            return
        assert upload.staging_key is not None
        if not self._storage.capabilities_of(upload.root_id).readable_staging:
            raise StorageFault("This file's promised checksum cannot be verified on its storage")
        sha256, hashed_bytes, length = hashlib.sha256(), 0, upload.length or 0
        buffer = page_aligned(_READ_BYTES)
        try:
            source = self._storage.open(upload.staging_key)
        except FileNotFoundError:
            return

        def hash_some() -> int:
            done = 0
            while done < VERIFY_BYTES:
                wanted = buffer[: length - hashed_bytes - done]
                count = source.readinto(wanted)  # type: ignore[attr-defined]  # raw or buffered
                if not count:
                    break
                sha256.update(buffer[:count])
                done += count
            return done

        try:
            with source:
                while moved := job_pool.run(hash_some):
                    hashed_bytes += moved
                    progress.moved(hashed_bytes, length)
                    if lease.lost:
                        raise LeaseLost
        except OSError as error:
            raise StorageUnavailable from error
        if hashed_bytes < length:
            raise PartsLost
        if sha256.hexdigest() != upload.checksum_sha256:
            raise ChecksumMismatch(upload.checksum_sha256, sha256.hexdigest())

    def _publish(
        self, upload: UploadRecord, staged: StagedObject, lease: Lease, progress: ProgressRecorder
    ) -> tuple[str, str | None]:
        """Publish, and remove what that may have left staged.

        Returns the final key, and the staging key where the removal has to be
        repeated by the sweeper.
        """
        receipts = {} if upload.part_count is None else self._receipts(upload)

        def publish() -> tuple[str, LonghaulError | None]:
            if lease.lost:  # the object may be another one by now, and not full
                raise LeaseLost
            final_key = self._storage.publish(staged, receipts, progress.moved)
            try:
                self._storage.discard(staged)
            except LonghaulError as error:  # it is published all the same
                return final_key, error
            return final_key, None

        final_key, error = job_pool.run(publish)
        if error is None:
            return final_key, None
        log.warning("finalize.left_to_sweeper", error=error.code, cause=str(error.__cause__))
        return final_key, staged.staging_key

    def _receipts(self, upload: UploadRecord) -> dict[int, str | None]:
        receipts = self._ledger.parts.receipts(upload.id)
        return {receipt.part: receipt.storage_receipt for receipt in receipts}

    def _payload(self, upload: UploadRecord, final_key: str) -> str:
        """Return the body of the upload's own webhook (wire contract: ``upload.complete``)."""
        return json.dumps(
            {
                "event": "upload.complete",
                "file_id": upload.id,
                "filename": upload.filename,
                "total_size": upload.length,
                "final_path": self._storage.location(final_key),
                "storage_backend": upload.storage_backend,
                "completed_at": rfc3339(self._clock.now_ms()),
            },
            ensure_ascii=False,
        )

    def _reopen(self, upload: UploadRecord, lease: Lease, error: PartsLost) -> None:
        self._ledger.finalizing.reopen(
            upload, lease, error.indexes, error.message, self._kept_until_ms()
        )
        log.error("finalize.parts_lost", parts=error.indexes, cause=str(error.__cause__))

    def _fail(self, upload: UploadRecord, lease: Lease, error: StorageFault) -> None:
        self._ledger.finalizing.fail(
            upload, lease, error.message, self._clock.now_ms(), self._kept_until_ms()
        )

    def _postpone(self, upload: UploadRecord, lease: Lease, message: str) -> None:
        backoff_seconds = min(MAX_BACKOFF_SECONDS, 2**upload.attempts)
        due_at_ms = self._clock.now_ms() + backoff_seconds * 1000
        self._ledger.finalizing.postpone(upload, lease, message, due_at_ms)

    def _kept_until_ms(self) -> int:
        """An upload that cannot be finalized is kept for a whole TTL from now."""
        return self._clock.now_ms() + self._policy.lifetime_ms
