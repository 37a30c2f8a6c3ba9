"""One append's bytes: receive → make durable → record.

Whatever ends the request, its bytes that have arrived are kept: a cut, a stall,
a shutdown, a newer request, a full disk, more bytes than the upload takes. Only
a body that is to be verified is all or nothing; and nothing is kept of one that
came with the creation of its upload and turns out too long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from app.domain.clock import Clock
from app.errors import (
    BodyCut,
    BodyStalled,
    BodyTooLong,
    LeaseLost,
    LonghaulError,
    ShuttingDown,
    StorageFull,
    StorageUnavailable,
    TakenOver,
    UploadGone,
    UploadNotFound,
    UploadNotOpen,
)
from app.ingest.body import Body
from app.ingest.checkpoints import Checkpoints
from app.ingest.counted import Counted
from app.ingest.drain import Drain
from app.ingest.pump import AtEnd, Ended, Guard, OnTurn, Transfer, pump
from app.ingest.threads import sync_pool
from app.ledger.appends import AppendCommit
from app.ledger.database import Ledger
from app.ledger.leases import Contention, Lease
from app.ledger.records import UploadRecord
from app.storage.base import PartWriter, StagedObject, Storage
from app.uploads.jobs import Jobs
from app.uploads.policy import Policy


class Verification(Protocol):
    """What the bytes of one append are compared with before any of them counts."""

    def update(self, data: memoryview, /) -> object: ...

    def require_match(self, trailers: Mapping[str, str]) -> None:
        """Raise DigestMismatch or MalformedRequest unless all bytes were as promised."""


class _Nowhere:
    def write(self, buffer: memoryview) -> None:
        """Forget the bytes: there are none to keep."""


@dataclass
class Growth:
    """One append under its lease.

    ``room_bytes``: what may come at most, None: anything. ``on_verified``: done
    once the body is as promised, before any of it counts. ``keeps_refused``: of
    a body that turns out too long what there was room for is kept.
    """

    ledger: Ledger
    storage: Storage
    clock: Clock
    policy: Policy
    drain: Drain
    upload: UploadRecord
    lease: Lease
    room_bytes: int | None
    verification: Verification | None
    on_verified: Callable[[], object] | None
    keeps_refused: bool
    jobs: Jobs

    def receive(self, staged: StagedObject, body: Body) -> UploadRecord:
        """Append the body to ``staged``; return the upload as it is then, its lease ended.

        Raises as ``Appender.append`` does; what may be kept is recorded before.
        """
        finished, commit = False, None

        def finish(transfer: Transfer) -> None:
            nonlocal finished, commit
            finished = True
            commit = self._finish(transfer, body, writer)

        with self.storage.writer(staged, 0, self.upload.offset, self._expected(body)) as writer:
            transfer = self._receive(
                staged, body, writer, lambda received: finish(Transfer(received, Ended.WHOLE))
            )
            if finished and transfer.reason is not None:  # what finishing has raised
                raise transfer.reason
            if not finished and self._writes_natively:
                sync_pool.run(lambda: finish(transfer))
            elif not finished:
                finish(transfer)
        recorded = self._follow(commit or self._record(self._kept(transfer)))
        self._require_whole(transfer, body)
        return recorded

    def _finish(self, transfer: Transfer, body: Body, writer: PartWriter) -> AppendCommit | None:
        """Make durable what may be kept, and record it where native threads may do that."""
        self._require_worth_keeping(transfer, body)
        if transfer.received:
            try:
                writer.commit(durable=self.policy.durable)
            except (StorageFull, StorageUnavailable) as error:
                raise transfer.reason or error from error
        if not self.ledger.transactions.from_native_threads:
            return None
        return self._record(self._kept(transfer))

    def _expected(self, body: Body) -> int | None:
        """Return how many bytes the body brings, at most if it does not tell."""
        room_bytes = None if self.upload.length is None else self.room_bytes
        known = [bound for bound in (body.length, room_bytes) if bound is not None]
        return min(known, default=None)

    def record_nothing(self, body: Body) -> UploadRecord:
        """Append an empty body: it may complete an upload whose length was told late."""
        if self.verification is not None:
            self.verification.require_match(body.trailers)
        return self._follow(self._record(0))

    def _receive(
        self, staged: StagedObject, body: Body, writer: PartWriter, at_end: AtEnd
    ) -> Transfer:
        counted = Counted(writer)
        with Checkpoints(lambda written: self._checkpoint(staged, written)) as checkpoints:
            self.lease.wake = body.wake
            try:
                with self.drain.waking(body.wake):
                    return pump(
                        body,
                        counted,
                        limit_bytes=sys.maxsize if self.room_bytes is None else self.room_bytes,
                        idle_timeout_seconds=self.policy.body_idle_timeout_seconds,
                        hasher=self.verification,
                        guard=self._guard(checkpoints),
                        native_writes=self._writes_natively,
                        on_turn=self._turn(checkpoints),
                        at_end=at_end,
                    )
            except (StorageFull, StorageUnavailable) as error:
                return Transfer(counted.written, Ended.STOPPED, error)

    @property
    def _writes_natively(self) -> bool:
        return self.storage.capabilities_of(self.upload.root_id).native_thread_writes

    def _guard(self, checkpoints: Checkpoints) -> Guard:
        """Return what says before each write that no byte more may be written."""

        def guard(_idle_seconds: float) -> LonghaulError | None:
            if self.lease.contention is Contention.ORDERED:
                return UploadGone()
            return LeaseLost() if self.lease.lost else checkpoints.error

        return guard

    def _turn(self, checkpoints: Checkpoints) -> OnTurn:
        """Return what saves now and then, and says that the request is to end."""

        def turn(written: int) -> LonghaulError | None:
            if self.verification is None:
                checkpoints.look(self._before_the_last(written))
            if self.lease.contention is Contention.RELEASE:
                return TakenOver()
            return ShuttingDown() if self.drain.begun else None

        return turn

    def _checkpoint(self, staged: StagedObject, written: int) -> None:
        """Save what has been written while more is being received by another writer."""
        offset = self.upload.offset + written

        def sync() -> None:
            with self.storage.writer(staged, 0, offset, 0) as writer:
                writer.commit(durable=True)

        if self.policy.durable:
            sync_pool.run(sync)
        now_ms = self.clock.now_ms()
        self.ledger.appends.checkpoint(
            self.lease, self.upload, offset, now_ms, now_ms + self.policy.ttl_ms
        )

    def _require_worth_keeping(self, transfer: Transfer, body: Body) -> None:
        """Raise where nothing of what has been received may be recorded."""
        if isinstance(transfer.reason, (LeaseLost, UploadNotFound, UploadNotOpen)):
            raise transfer.reason
        keeps = self.keeps_refused and self._kept(transfer)
        if transfer.ended is Ended.TOO_LONG and not keeps:
            raise BodyTooLong(self.room_bytes or 0)
        if self.verification is not None:
            self._require_whole(transfer, body)
            self.verification.require_match(body.trailers)

    def _kept(self, transfer: Transfer) -> int:
        """Return how many bytes count: all, but where they are one too many the last one.

        A request that is refused must not complete the upload, whose client
        would find a file that it never meant.
        """
        completes = self.upload.offset + transfer.received == self.upload.length
        refused = transfer.ended is Ended.TOO_LONG
        return max(0, transfer.received - (1 if refused and completes else 0))

    def _before_the_last(self, written: int) -> int:
        """Return how many of ``written`` bytes may be recorded before the body has ended.

        With its last byte an upload is complete, and only ``record`` makes it that:
        after a crash its client would take it for sent, and nobody would finalize it.
        """
        if self.upload.length is None:
            return written
        return max(0, min(written, self.upload.length - self.upload.offset - 1))

    def _require_whole(self, transfer: Transfer, body: Body) -> None:
        _require_whole(transfer, body, self.room_bytes or 0)

    def _record(self, received: int) -> AppendCommit:
        if self.on_verified is not None:
            self.on_verified()
        offset = self.upload.offset + received
        if not received and offset != self.upload.length:
            return AppendCommit(self.upload)
        now_ms = self.clock.now_ms()
        runs_here = self.jobs.finalize is not None
        return self.ledger.appends.record(
            self.lease,
            self.upload,
            offset,
            now_ms,
            now_ms + self.policy.ttl_ms,
            finalize_at_most=self.policy.max_concurrent_finalizations if runs_here else 0,
            monotonic=self.clock.monotonic,
        )

    def _follow(self, commit: AppendCommit) -> UploadRecord:
        """Have finalized what is complete now; return the upload."""
        lease = self.ledger.appends.hold(commit)
        if lease is not None and self.jobs.finalize is not None:
            self.jobs.finalize(commit.upload, lease)
        elif commit.upload.is_full:  # this one is to be finalized, or one that waited for it
            self.jobs.wake()
        return commit.upload


def receive_nothing(
    body: Body, idle_timeout_seconds: float, verification: Verification | None
) -> None:
    """Accept a body that is empty, for an upload that has all its bytes.

    Raises BodyTooLong where it is not empty, else as ``Appender.append`` does.
    """
    if body.length != 0:  # chunked, or the caller has not looked
        transfer = pump(body, _Nowhere(), limit_bytes=0, idle_timeout_seconds=idle_timeout_seconds)
        _require_whole(transfer, body, 0)
    if verification is not None:
        verification.require_match(body.trailers)


def _require_whole(transfer: Transfer, body: Body, room_bytes: int) -> None:
    """Raise what explains why a transfer ended before its body did."""
    if transfer.ended is Ended.TOO_LONG:
        raise BodyTooLong(room_bytes)
    if transfer.reason is not None:
        raise transfer.reason
    if transfer.ended is Ended.STALLED:
        raise BodyStalled(body.idle_seconds())
    if transfer.ended is Ended.CUT:
        raise BodyCut
