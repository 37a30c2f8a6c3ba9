"""The queue of uploads to finalize: rows in state ``finalizing`` whose time has come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import cache

from sqlalchemy import BigInteger, Connection, Select, bindparam, func, or_, select, update

from app.domain.states import State, check
from app.errors import LeaseLost
from app.ledger.leases import FINALIZE, Lease, Leases
from app.ledger.models import leases as lease_rows
from app.ledger.models import uploads
from app.ledger.outbox import EventKind, append_event, append_started, queue_delivery
from app.ledger.parts import clear_parts
from app.ledger.prepared import Prepared
from app.ledger.records import UploadRecord
from app.ledger.room import take_turns
from app.ledger.transactions import Transactions
from app.ledger.uploads import transition

check(State.FINALIZING, State.COMPLETE)
_FINISH = Prepared(
    update(uploads)
    .where(uploads.c.id == bindparam("finished_id"), uploads.c.state == State.FINALIZING)
    .values(
        state=State.COMPLETE,
        final_key=bindparam("new_final_key"),
        staging_key=bindparam("new_staging_key"),
        progress_bytes=bindparam("all_bytes", type_=BigInteger),
        completed_at_ms=bindparam("now_ms", type_=BigInteger),
        due_at_ms=None,
        error=None,
    )
)


class _Due:
    """What is due on some roots; statements built once, for they are run for every upload."""

    def __init__(self, root_ids: Collection[str]) -> None:
        due = (
            (uploads.c.state == State.FINALIZING)
            & (uploads.c.due_at_ms <= bindparam("now_ms", type_=BigInteger))
            & or_(False, *(uploads.c.root_id == root_id for root_id in sorted(root_ids)))
        )
        self.any = Prepared(select(uploads.c.id).where(due).limit(1))
        self.oldest: Select[tuple[str]] = (
            select(uploads.c.id)
            .where(due)
            .order_by(uploads.c.due_at_ms)
            .limit(bindparam("at_most", type_=BigInteger))
        )
        self.one = Prepared(select(uploads).where(uploads.c.id == bindparam("due_id"), due))


_due_on = cache(_Due)  # a process has one set of roots, or few


class FinalizeQueue:
    """Claims and outcomes of finalizing. Every outcome ends the lease it demands."""

    def __init__(self, transactions: Transactions, leases: Leases) -> None:
        self._transactions = transactions
        self._leases = leases
        #: True when the latest claim found something due, and no free place.
        self.crowded = False

    def claim_next(
        self, now_ms: int, at_most: int, root_ids: Collection[str], monotonic: Callable[[], float]
    ) -> tuple[UploadRecord, Lease] | None:
        """Claim the upload on one of ``root_ids`` that has been due longest.

        None if nothing is due, or if ``at_most`` are being finalized already by
        whatever process.
        """
        due, now = _due_on(frozenset(root_ids)), {"now_ms": now_ms}
        if not self._transactions.read(lambda tx: due.any.first(tx, now)):
            self.crowded = False
            return None
        claimed_at = monotonic()

        def work(connection: Connection) -> tuple[UploadRecord, int] | None:
            take_turns(connection)  # or two would count the same free place
            taken = self._leases.held(connection, FINALIZE)
            if len(taken) >= at_most:
                return None
            oldest = connection.execute(due.oldest, now | {"at_most": len(taken) + 1})
            for row in oldest.all():
                generation = self._leases.claim(connection, row.id, FINALIZE)
                if generation is None:
                    continue
                current = due.one.first(connection, now | {"due_id": row.id})
                if current is None:
                    self._leases.give_back(connection, generation)
                    continue
                upload = UploadRecord.from_columns(current)
                if upload.attempts == 0:
                    append_started(connection, upload.id, upload.due_at_ms or 0, now_ms)
                return upload, generation
            return None

        claimed = self._transactions.write(work, durable=False)
        self.crowded = claimed is None
        if claimed is None:
            return None
        upload, generation = claimed
        return upload, self._leases.hold(upload.id, FINALIZE, generation, claimed_at)

    def claim_queued(
        self, connection: Connection, upload_id: str, at_most: int, now_ms: int
    ) -> int | None:
        """Claim an upload in the transaction that queues it; return the lease's generation.

        Spares looking for it. None where there is no free place, and on
        PostgreSQL: there who counts them would have to take turns with all others.
        """
        if not self._leases.on_sqlite or len(self._leases.held(connection, FINALIZE)) >= at_most:
            return None
        generation = self._leases.claim(connection, upload_id, FINALIZE)
        if generation is not None:
            append_event(connection, upload_id, EventKind.PROCESSING_STARTED, now_ms)
        return generation

    def running(self) -> int:
        """Return how many uploads are being finalized, by whatever process."""
        counted = select(func.count()).where(lease_rows.c.key == FINALIZE, self._leases.live())
        return self._transactions.read(lambda tx: int(tx.execute(counted).scalar_one()))

    def record_progress(self, lease: Lease, moved_bytes: int) -> None:
        """Store how many bytes have been verified or moved. Raises LeaseLost."""

        def work(connection: Connection) -> None:
            if not self._leases.is_valid(connection, lease):
                raise LeaseLost
            connection.execute(
                update(uploads)
                .where(uploads.c.id == lease.upload_id)
                .values(progress_bytes=moved_bytes)
            )

        self._transactions.write(work, durable=False)

    def note_staged(self, lease: Lease, staging_key: str) -> None:
        """Note where an upload is staged that was not before it was finalized.

        Raises LeaseLost; who has the lease then finds the object by the upload's id.
        """

        def work(connection: Connection) -> None:
            if not self._leases.is_valid(connection, lease):
                raise LeaseLost
            connection.execute(
                update(uploads)
                .where(uploads.c.id == lease.upload_id, uploads.c.state == State.FINALIZING)
                .values(staging_key=staging_key)
            )

        self._transactions.write(work)

    def finish(
        self,
        upload: UploadRecord,
        lease: Lease,
        final_key: str,
        staging_key: str | None,
        payload: str | None,
        now_ms: int,
    ) -> None:
        """Mark an upload complete under ``final_key``, and queue its webhook's ``payload``.

        ``staging_key``: where something of it is staged still, None: nothing is.
        """
        values = {
            "finished_id": upload.id,
            "new_final_key": final_key,
            "new_staging_key": staging_key,
            "all_bytes": upload.length or 0,
            "now_ms": now_ms,
        }

        def work(connection: Connection) -> None:
            self._end(connection, lease)
            if not _FINISH.count(connection, values):
                raise LeaseLost
            event_id = append_event(connection, upload.id, EventKind.FINALIZED, now_ms)
            if upload.webhook_url and payload is not None:
                queue_delivery(connection, upload.id, event_id, upload.webhook_url, payload, now_ms)

        self._commit(lease, work)

    def fail(
        self, upload: UploadRecord, lease: Lease, message: str, now_ms: int, expires_at_ms: int
    ) -> None:
        """Mark an upload failed for good; it is kept at least until ``expires_at_ms``."""

        def work(connection: Connection) -> None:
            self._end(connection, lease)
            expiry = max(upload.expires_at_ms, expires_at_ms)
            moved = transition(
                connection,
                upload,
                State.FAILED,
                error=message,
                due_at_ms=None,
                expires_at_ms=expiry,
            )
            if moved is None:
                raise LeaseLost
            append_event(connection, upload.id, EventKind.PROCESSING_FAILED, now_ms, message)

        self._commit(lease, work)

    def reopen(
        self,
        upload: UploadRecord,
        lease: Lease,
        lost: Iterable[int] | None,
        message: str,
        expires_at_ms: int,
    ) -> None:
        """Go back to open: the storage has lost parts (None: all), whose bits are cleared."""

        def work(connection: Connection) -> None:
            self._end(connection, lease)
            left = clear_parts(connection, upload.id, lost)
            moved = transition(
                connection,
                upload,
                State.OPEN,
                received=left,
                offset=0,
                error=message,
                due_at_ms=None,
                staging_key=None if lost is None else upload.staging_key,
                expires_at_ms=max(upload.expires_at_ms, expires_at_ms),
            )
            if moved is None:
                raise LeaseLost

        self._commit(lease, work)

    def postpone(self, upload: UploadRecord, lease: Lease, message: str, due_at_ms: int) -> None:
        """Leave an upload finalizing and try again at ``due_at_ms``."""

        def work(connection: Connection) -> None:
            self._end(connection, lease)
            connection.execute(
                update(uploads)
                .where(uploads.c.id == upload.id, uploads.c.state == State.FINALIZING)
                .values(attempts=uploads.c.attempts + 1, due_at_ms=due_at_ms, error=message)
            )

        self._commit(lease, work)

    def _end(self, connection: Connection, lease: Lease) -> None:
        if not self._leases.end(connection, lease):
            raise LeaseLost

    def _commit(self, lease: Lease, work: Callable[[Connection], None]) -> None:
        self._transactions.write(work)
        self._leases.drop(lease)
