"""What the sweeper asks of the ledger: whose time is over, and what is left to clean."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from sqlalchemy import Connection, and_, delete, exists, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from app.domain.states import GONE, State
from app.ledger.finals import is_needed
from app.ledger.leases import Lease, Leases
from app.ledger.models import deliveries, uploads
from app.ledger.models import leases as lease_rows
from app.ledger.outbox import PENDING, EventKind, append_event
from app.ledger.records import UploadRecord
from app.ledger.transactions import Transactions
from app.ledger.uploads import find, transition

#: The lease under which one runner of all sweeps at a time; it guards no upload.
SWEEP = "sweep"
_NO_UPLOAD = ""


class SweepLedger:
    """Expiry and leftovers, each row by itself."""

    def __init__(self, transactions: Transactions, leases: Leases) -> None:
        self._transactions = transactions
        self._leases = leases

    def claim(self, monotonic: Callable[[], float]) -> Lease | None:
        """Claim the right to sweep; None while another process does."""
        claimed_at = monotonic()
        generation = self._transactions.write(
            lambda connection: self._leases.claim(connection, _NO_UPLOAD, SWEEP), durable=False
        )
        if generation is None:
            return None
        return self._leases.hold(_NO_UPLOAD, SWEEP, generation, claimed_at)

    def due(
        self, now_ms: int, root_ids: Collection[str], *, after_id: str, limit: int
    ) -> Sequence[UploadRecord]:
        """Return open and failed uploads of these roots whose time is over and which nobody needs.

        At most ``limit``, by id, those after ``after_id``: page by page each is
        seen once, though it may stay (a dry run, a storage that is down).
        """
        writing = exists().where(lease_rows.c.upload_id == uploads.c.id, self._leases.live())
        return self._records(
            select(uploads)
            .where(
                uploads.c.state.in_([State.OPEN, State.FAILED]),
                uploads.c.expires_at_ms <= now_ms,
                uploads.c.root_id.in_(root_ids),
                uploads.c.id > after_id,
                ~writing,
                ~is_needed(),
            )
            .order_by(uploads.c.id)
            .limit(limit)
        )

    def expire(self, upload: UploadRecord, now_ms: int) -> bool:
        """Move an upload to expired; False if it moved on or is being written meanwhile."""
        over = uploads.c.expires_at_ms <= now_ms, ~is_needed()
        expired = self._transactions.write(lambda tx: self._given_up(tx, upload, now_ms, *over))
        return expired is not None

    def abandon(
        self, upload_id: str, now_ms: int, *, optional: bool = False
    ) -> UploadRecord | None:
        """Move an open upload to expired that has received nothing, before its time is over.

        None if something has come, is being written meanwhile, or it is not open.
        ``optional`` as in ``Transactions``.
        """

        def work(connection: Connection) -> UploadRecord | None:
            upload = find(connection, upload_id, locked=True)
            if upload is None or upload.state is not State.OPEN:
                return None
            empty = uploads.c.received == 0, uploads.c.offset == 0
            return self._given_up(connection, upload, now_ms, *empty)

        return self._transactions.write(work, optional=optional)

    def _given_up(
        self,
        connection: Connection,
        upload: UploadRecord,
        now_ms: int,
        *conditions: ColumnElement[bool],
    ) -> UploadRecord | None:
        writing = exists().where(lease_rows.c.upload_id == uploads.c.id, self._leases.live())
        moved = transition(
            connection, upload, State.EXPIRED, ~writing, *conditions, ended_at_ms=now_ms
        )
        if moved is not None:
            append_event(connection, upload.id, EventKind.ABANDONED, now_ms)
        return moved

    def leftovers(
        self, root_ids: Collection[str], *, after_id: str, limit: int
    ) -> Sequence[UploadRecord]:
        """Return ended uploads of these roots whose bytes are not all removed yet; see ``due``."""
        staged = uploads.c.staging_key.is_not(None)
        published = and_(uploads.c.state == State.DELETED, uploads.c.final_key.is_not(None))
        return self._records(
            select(uploads)
            .where(
                uploads.c.state.in_([*GONE, State.COMPLETE]),
                or_(staged, published),
                uploads.c.root_id.in_(root_ids),
                uploads.c.id > after_id,
            )
            .order_by(uploads.c.id)
            .limit(limit)
        )

    def forget_staging(self, upload_id: str) -> None:
        """Note that nothing of an ended upload is staged any more."""
        self._transactions.write(
            lambda connection: connection.execute(
                update(uploads)
                .where(uploads.c.id == upload_id, uploads.c.state != State.OPEN)
                .values(staging_key=None)
            )
        )

    def tombstones(
        self, ended_before_ms: int, *, after_id: str, limit: int
    ) -> Sequence[UploadRecord]:
        """Return uploads that ended before then, of which nothing is left but the row; see ``due``.

        Those with a webhook still to be called are kept.
        """
        return self._records(
            select(uploads)
            .where(self._is_tombstone(ended_before_ms), uploads.c.id > after_id)
            .order_by(uploads.c.id)
            .limit(limit)
        )

    def bury(self, upload: UploadRecord, ended_before_ms: int) -> bool:
        """Remove the row of an ended upload, and all that hangs on it; False if it is kept."""
        buried = delete(uploads).where(
            uploads.c.id == upload.id, self._is_tombstone(ended_before_ms)
        )
        return bool(self._transactions.write(lambda tx: tx.execute(buried)).rowcount)

    def _is_tombstone(self, ended_before_ms: int) -> ColumnElement[bool]:
        to_be_told = exists().where(
            deliveries.c.upload_id == uploads.c.id, deliveries.c.state == PENDING
        )
        return and_(
            uploads.c.state.in_(GONE),
            uploads.c.staging_key.is_(None),
            uploads.c.final_key.is_(None),
            # Ledgers of older versions do not know when it ended.
            func.coalesce(uploads.c.ended_at_ms, uploads.c.expires_at_ms) <= ended_before_ms,
            ~to_be_told,
        )

    def is_wanted(self, upload_id: str, root_id: str) -> bool:
        """Tell whether staged bytes of this id on this root may still be needed."""
        upload = self._transactions.read(lambda connection: find(connection, upload_id))
        if upload is None or upload.root_id != root_id:  # it may have moved to another one
            return False
        return upload.state not in GONE and upload.state != State.COMPLETE

    def forget_dead_leases(self) -> None:
        """Remove lease rows that ran out: their holders are gone."""
        self._transactions.write(
            lambda connection: connection.execute(delete(lease_rows).where(~self._leases.live())),
            durable=False,
        )

    def _records(self, chosen: object) -> Sequence[UploadRecord]:
        rows = self._transactions.read(lambda tx: tx.execute(chosen).all())  # type: ignore[call-overload]
        return [UploadRecord.from_row(row) for row in rows]
