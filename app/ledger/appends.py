"""Appends: uploads that grow front to back, one writer at a time.

``offset`` is the durable, contiguous prefix. It is moved only under the lease
``append``, in transactions that lock the lease's row first: who takes the lease
over waits for them, and reads what they have recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, select, update

from app.domain.states import GONE, State, check
from app.errors import LeaseLost, StorageFull, UploadNotFound, UploadNotOpen
from app.ledger import finals
from app.ledger.finalizing import FinalizeQueue
from app.ledger.leases import APPEND, FINALIZE, Lease, Leases
from app.ledger.models import uploads
from app.ledger.outbox import EventKind, append_event, append_event_once
from app.ledger.parts import open_upload
from app.ledger.prepared import Prepared
from app.ledger.records import FINAL, PARTIAL, UploadRecord
from app.ledger.room import count_unreceived_bytes, take_turns
from app.ledger.transactions import Transactions
from app.ledger.uploads import find, transition

_SELECT = Prepared(select(uploads).where(uploads.c.id == bindparam("upload_id")))

#: An offset never goes back. Another root: the upload has moved to another node.
_OPEN = (
    uploads.c.id == bindparam("append_id"),
    uploads.c.state == State.OPEN,
    uploads.c.root_id == bindparam("on_root_id"),
    uploads.c.offset <= bindparam("new_offset", type_=BigInteger),
)
_PROGRESS = {
    "offset": bindparam("new_offset", type_=BigInteger),
    "progress_at_ms": bindparam("at_ms", type_=BigInteger),
    "expires_at_ms": bindparam("new_expires_at_ms", type_=BigInteger),
}
_ADVANCE = Prepared(update(uploads).where(*_OPEN).values(_PROGRESS))

check(State.OPEN, State.FINALIZING)
_COMPLETE = Prepared(
    update(uploads)
    .where(*_OPEN)
    .values(
        _PROGRESS
        | {
            "length": bindparam("new_offset", type_=BigInteger),  # told with the last bytes
            "state": State.FINALIZING,
            "due_at_ms": bindparam("at_ms", type_=BigInteger),
            "error": None,
            "attempts": 0,
            "progress_bytes": 0,
        }
    )
)


@dataclass(frozen=True, slots=True)
class AppendClaim:
    """The upload as it is now, and the lease to append under.

    ``lease`` None: somebody else appends, or there is nothing to append to (the
    upload is not open).
    """

    upload: UploadRecord
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class AppendCommit:
    """The upload after a commit, and the generation under which it was claimed for finalizing.

    ``claimed_at``: monotonic, before the transaction. See ``AppendLedger.hold``.
    """

    upload: UploadRecord
    generation: int | None = None
    claimed_at: float = 0.0


class AppendLedger:
    """Claims and commits of appends."""

    def __init__(
        self, transactions: Transactions, leases: Leases, finalizing: FinalizeQueue
    ) -> None:
        self._transactions = transactions
        self._leases = leases
        self._finalizing = finalizing

    def claim(
        self, upload_id: str, now_ms: int, ttl_ms: int, monotonic: Callable[[], float]
    ) -> AppendClaim:
        """Try to lease an upload's end; half of ``ttl_ms`` is left then. Raises UploadNotFound."""
        claimed_at = monotonic()

        def work(connection: Connection) -> tuple[UploadRecord, int | None]:
            generation = self._leases.claim(connection, upload_id, APPEND)
            # After the claim, see ``Leases.claim``.
            row = _SELECT.first(connection, {"upload_id": upload_id})
            if row is None:
                raise UploadNotFound
            upload = UploadRecord.from_columns(row)
            may_grow = upload.state is State.OPEN and not upload.has_expired(now_ms)
            if generation is not None and not may_grow:
                self._leases.give_back(connection, generation)
                generation = None
            if generation is not None and upload.expires_at_ms - now_ms < ttl_ms / 2:
                upload = replace(upload, expires_at_ms=now_ms + ttl_ms)
                prolonged = update(uploads).values(expires_at_ms=now_ms + ttl_ms)
                connection.execute(prolonged.where(uploads.c.id == upload_id))
                if upload.concat == PARTIAL:
                    finals.prolong_finals_of(connection, upload_id, upload.expires_at_ms)
            return upload, generation

        upload, generation = self._transactions.write(work, durable=False)
        if generation is None:
            return AppendClaim(upload)
        return AppendClaim(upload, self._leases.hold(upload_id, APPEND, generation, claimed_at))

    def holder(self, upload_id: str) -> str | None:
        """Return the process that appends to an upload, None if nobody does."""
        return self._transactions.read(lambda tx: self._leases.holder(tx, upload_id, APPEND))

    def set_length(self, lease: Lease, length: int, room_bytes: int | None) -> UploadRecord:
        """Set the length that was deferred until now, once and for all.

        ``room_bytes`` as in ``UploadLedger.create``. Raises StorageFull,
        LeaseLost, UploadNotFound or UploadNotOpen.
        """

        def work(connection: Connection) -> UploadRecord:
            if room_bytes is not None:
                take_turns(connection)
            if not self._leases.prolong(connection, lease):
                raise LeaseLost
            known = find(connection, lease.upload_id, locked=True)
            if known is None:
                raise UploadNotFound
            if room_bytes is not None:
                announced = count_unreceived_bytes(connection, known.root_id)
                if length - known.offset > room_bytes - announced:
                    raise StorageFull
            row = connection.execute(
                update(uploads)
                .where(
                    uploads.c.id == lease.upload_id,
                    uploads.c.state == State.OPEN,
                    uploads.c.length.is_(None),
                )
                .values(length=length)
                .returning(*uploads.c)
            ).first()
            if row is None:
                raise LeaseLost
            return UploadRecord.from_row(row)

        return self._transactions.write(work)

    def checkpoint(
        self, lease: Lease, upload: UploadRecord, offset: int, now_ms: int, expires_at_ms: int
    ) -> None:
        """Record that ``offset`` bytes are durable, and go on appending under the lease.

        ``upload`` is as it was claimed. Raises LeaseLost, UploadNotFound or
        UploadNotOpen; then nothing is recorded.
        """

        def work(connection: Connection) -> None:
            if not self._leases.prolong(connection, lease):
                raise LeaseLost
            self._advance(connection, upload, offset, now_ms, expires_at_ms)

        self._transactions.write(work)

    def record(
        self,
        lease: Lease,
        upload: UploadRecord,
        offset: int,
        now_ms: int,
        expires_at_ms: int,
        *,
        finalize_at_most: int,
        monotonic: Callable[[], float],
    ) -> AppendCommit:
        """Record that ``offset`` bytes are durable, and end the lease.

        ``upload`` is as it was claimed. With its last byte it moves to
        finalizing, due at once, and is claimed for that while fewer than
        ``finalize_at_most`` uploads are being finalized. A partial one stays
        open, and final ones that waited for it move. May be called in a native
        thread where the transactions may. Raises as ``checkpoint`` does.
        """
        claimed_at = monotonic()
        is_full = offset == upload.length
        completes = is_full and upload.concat != PARTIAL

        def work(connection: Connection) -> int | None:
            if not self._leases.end(connection, lease):
                raise LeaseLost
            self._advance(connection, upload, offset, now_ms, expires_at_ms, completes=completes)
            if completes:
                append_event_once(connection, upload.id, EventKind.COMPLETED, now_ms)
                return self._finalizing.claim_queued(
                    connection, upload.id, finalize_at_most, now_ms
                )
            if is_full:
                finals.start_finals_of(connection, upload.id, now_ms)
            return None

        generation = self._transactions.write(work)
        self._leases.drop(lease)
        moved = {"offset": offset, "progress_at_ms": now_ms, "expires_at_ms": expires_at_ms}
        recorded = replace(upload, **moved)  # type: ignore[arg-type]
        if not completes:
            return AppendCommit(recorded)
        recorded = replace(recorded, state=State.FINALIZING, **_queued(now_ms))
        return AppendCommit(recorded, generation, claimed_at)

    def hold(self, commit: AppendCommit) -> Lease | None:
        """Start renewing the lease to finalize under that a commit has claimed; None if none.

        Not in a native thread: what renews is one of gevent's threads.
        """
        if (generation := commit.generation) is None:
            return None
        return self._leases.hold(commit.upload.id, FINALIZE, generation, commit.claimed_at)

    def queue_finalize(self, upload_id: str, now_ms: int) -> UploadRecord:
        """Have an upload finalized that has all its bytes, also after it has failed.

        One that is being finalized or complete stays as it is. Raises
        UploadNotFound, or UploadNotOpen where bytes are missing still, and for a
        partial one: it is never a file of its own.
        """

        def work(connection: Connection) -> UploadRecord:
            upload = find(connection, upload_id, locked=True)
            if upload is None or upload.state in GONE or upload.has_expired(now_ms):
                raise UploadNotFound
            if upload.concat == PARTIAL:
                raise UploadNotOpen(upload.state, "be finalized; other uploads are made of it")
            if upload.state in (State.FINALIZING, State.COMPLETE):
                return upload
            if upload.concat != FINAL and not upload.is_full:
                raise _lacking(upload, upload.offset)
            if upload.concat == FINAL and upload.state is State.OPEN:
                finals.start_finals(connection, [upload_id], now_ms)
            else:
                transition(connection, upload, State.FINALIZING, **_queued(now_ms))
            if upload.state is State.FAILED:
                append_event(connection, upload_id, EventKind.RETRY_QUEUED, now_ms)
            queued = find(connection, upload_id)
            assert queued is not None, "it is locked"
            if queued.state is State.OPEN:
                partials = finals.partials_of(connection, upload_id)
                raise _lacking(upload, sum(partial.offset for partial in partials if partial))
            return queued

        return self._transactions.write(work)

    def _advance(
        self,
        connection: Connection,
        upload: UploadRecord,
        offset: int,
        now_ms: int,
        expires_at_ms: int,
        *,
        completes: bool = False,
    ) -> None:
        values = {
            "append_id": upload.id,
            "on_root_id": upload.root_id,
            "new_offset": offset,
            "at_ms": now_ms,
            "new_expires_at_ms": expires_at_ms,
        }
        if not (_COMPLETE if completes else _ADVANCE).count(connection, values):
            open_upload(connection, upload.id, now_ms)
            raise LeaseLost
        if upload.concat == PARTIAL:
            finals.follow(connection, upload, offset, expires_at_ms)


def _queued(now_ms: int) -> dict[str, Any]:
    return {"due_at_ms": now_ms, "error": None, "attempts": 0, "progress_bytes": 0}


def _lacking(upload: UploadRecord, received: int) -> UploadNotOpen:
    length = "an unknown number of" if upload.length is None else upload.length
    return UploadNotOpen(upload.state, f"be finalized; {received} of {length} bytes have arrived")
