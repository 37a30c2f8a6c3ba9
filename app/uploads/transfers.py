"""What receiving a part takes, by whatever protocol: a turn, a body, and reasons to stop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from app.domain.clock import Clock
from app.domain.states import GONE, State
from app.errors import (
    BodyStalled,
    LeaseLost,
    LonghaulError,
    MalformedRequest,
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
from app.ingest.pump import AtEnd, Ended, Guard, Hasher, Sink, Transfer, pump
from app.ledger.database import Ledger
from app.ledger.leases import Contention, Lease
from app.ledger.parts import PartClaim, PartCommit
from app.ledger.records import UploadRecord
from app.native_threads import NativePool
from app.storage.base import PartWriter, Storage
from app.uploads.policy import Policy

T = TypeVar("T")

log = structlog.get_logger(__name__)

#: How long a second writer of a part waits for the first one's outcome.
WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.05

#: A writer that has received nothing for this long lets go when another waits:
#: its client has probably gone without a word.
STALE_SECONDS = 5.0


@dataclass(slots=True)
class _Outcome:
    """What the end of a part has brought so far."""

    storage_receipt: str | None = None
    commit: PartCommit | None = None


class Transfers:
    """Claims parts and moves bodies. Holds no session or transaction while bytes flow."""

    def __init__(
        self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy, drain: Drain
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._drain = drain

    def claimed(self, index: int, attempt: Callable[[], PartClaim]) -> PartClaim:
        """Attempt to claim part ``index`` until it is ours or settled by its receipt.

        Waits a little while another request is writing it, and asks that one to
        let go if it has stalled. Raises UploadLocked, ShuttingDown, and what
        ``attempt`` raises.
        """
        if self._drain.parts_must_stop:
            raise ShuttingDown
        give_up_at = self._clock.monotonic() + WAIT_SECONDS
        asked = False
        while True:
            claim = attempt()
            if claim.lease is not None or claim.receipt is not None:
                return claim
            if claim.holder is not None and self._ledger.leases.take_from_dead(claim.holder):
                continue
            if not asked:
                self._ledger.leases.ask(claim.upload.id, str(index), Contention.ASKED)
                asked = True
            if self._clock.monotonic() >= give_up_at:
                raise UploadLocked
            self._clock.sleep(_POLL_SECONDS)

    def receive(
        self,
        upload: UploadRecord,
        body: Body,
        sink: Sink,
        limit_bytes: int,
        *,
        lease: Lease | None,
        hasher: Hasher | None = None,
        is_writer: bool = True,
        at_end: AtEnd | None = None,
    ) -> Transfer:
        """Move a body of ``upload`` into ``sink``, at most ``limit_bytes`` of it; see ``pump``.

        It stops when this process does, and as soon as ``lease`` is not to be
        relied on any more or somebody wants it more. A sink that is not the
        storage's writer is always called in native threads.
        """
        capabilities = self._storage.capabilities_of(upload.root_id)
        return pump(
            body,
            sink,
            limit_bytes=limit_bytes,
            idle_timeout_seconds=self._policy.body_idle_timeout_seconds,
            hasher=hasher,
            guard=self._drain.guard_part if lease is None else self._guard(lease),
            native_writes=capabilities.native_thread_writes or not is_writer,
            at_end=at_end,
        )

    def store(
        self,
        upload: UploadRecord,
        body: Body,
        writer: PartWriter,
        limit_bytes: int,
        *,
        lease: Lease,
        require_part: Callable[[Transfer], None],
        record: Callable[[str | None], PartCommit],
        hasher: Hasher | None = None,
    ) -> PartCommit:
        """Receive what is left of a part, make it durable, and record it.

        ``require_part`` raises unless a transfer has brought all of it.
        ``record`` commits it to the ledger, with the storage's receipt. Both run in
        the thread that has taken the last byte, if the part is small and the
        ledger lets them: they must not touch gevent, and not log.
        """
        outcome = _Outcome()

        def at_end(received: int) -> None:
            require_part(Transfer(received, Ended.WHOLE))
            outcome.storage_receipt = writer.commit(durable=self._policy.durable)
            if self._ledger.transactions.from_native_threads:
                outcome.commit = record(outcome.storage_receipt)

        transfer = self.receive(
            upload, body, writer, limit_bytes, lease=lease, hasher=hasher, at_end=at_end
        )
        require_part(transfer)
        return outcome.commit or record(outcome.storage_receipt)

    def run(self, pool: NativePool, upload: UploadRecord, work: Callable[[], T]) -> T:
        """Do ``work`` on an upload's writer where its storage wants it: in ``pool``, or here."""
        native = self._storage.capabilities_of(upload.root_id).native_thread_writes
        return pool.run(work) if native else work()

    def vanished(self, upload: UploadRecord, error: PartsLost) -> LonghaulError:
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

    def _guard(self, lease: Lease) -> Guard:
        """Return what the pump asks about once a second: must this writer stop?"""

        def guard(idle_seconds: float) -> LonghaulError | None:
            if lease.contention is Contention.ORDERED:
                return UploadNotFound()
            if lease.lost:
                return LeaseLost()
            if lease.contention is Contention.ASKED and idle_seconds >= STALE_SECONDS:
                return UploadLocked()
            return self._drain.guard_part(idle_seconds)

        return guard


def require_whole(transfer: Transfer, length: int, body: Body) -> None:
    """Raise what explains why a transfer did not bring the ``length`` bytes of a part."""
    if transfer.reason is not None:
        raise transfer.reason
    if transfer.ended is Ended.STALLED:
        raise BodyStalled(body.idle_seconds())
    if transfer.ended is Ended.TOO_LONG:
        raise PartSizeMismatch(length, f"more than {length}")
    if transfer.ended is Ended.CUT and transfer.received == length:
        raise MalformedRequest("The body broke off before its end; send the part again")
    if transfer.ended is Ended.CUT:
        got = f"{transfer.received} before the body broke off; send the part again"
        raise PartSizeMismatch(length, got)
    if transfer.received != length:
        raise PartSizeMismatch(length, transfer.received)
