"""Uploads: created, read, staged, and moved from state to state by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, exists, select, update

from app.domain.states import State, check
from app.errors import (
    LeaseLost,
    PartsMissing,
    UploadLocked,
    UploadNotFound,
    UploadNotOpen,
)
from app.ledger.editions import Editions
from app.ledger.finals import require_bytes_nowhere_else, start_finals_of
from app.ledger.leases import CREATE, Lease, Leases
from app.ledger.models import leases as lease_rows
from app.ledger.models import uploads
from app.ledger.outbox import EventKind, append_event, append_event_once
from app.ledger.records import FINAL, PARTIAL, NewUpload, UploadRecord
from app.ledger.room import require_room
from app.ledger.transactions import Transactions

_SELECT = select(uploads).where(uploads.c.id == bindparam("upload_id"))

# SQLite knows no FOR UPDATE and needs none: SQLAlchemy leaves it out there.
_SELECT_LOCKED = _SELECT.with_for_update()


class UploadLedger:
    """The rows of ``uploads``. Only the winner of a transition emits its event."""

    def __init__(self, transactions: Transactions, leases: Leases, editions: Editions) -> None:
        self._transactions = transactions
        self._leases = leases
        self._editions = editions

    def create(
        self, new: NewUpload, *, room_bytes: int | None, monotonic: Callable[[], float]
    ) -> Lease:
        """Insert an upload and claim its ``create`` lease.

        ``room_bytes``: what the root can still take; what open uploads on it
        have announced and not sent is subtracted. None: not checked. Raises
        StorageFull.
        """
        claimed_at = monotonic()
        generation = self._transactions.write(
            lambda connection: insert_to_be_staged(connection, self._leases, new, room_bytes)
        )
        return self._leases.hold(new.id, CREATE, generation, claimed_at)

    def get(self, upload_id: str) -> UploadRecord | None:
        """Return an upload in whatever state it is, None if the id is unknown."""
        return self._transactions.read(lambda connection: find(connection, upload_id))

    def list(self, states: Collection[State], limit: int) -> Sequence[UploadRecord]:
        """Return the newest ``limit`` uploads in one of ``states``."""
        chosen = select(uploads).where(uploads.c.state.in_(states))
        rows = self._transactions.read(
            lambda connection: connection.execute(
                chosen.order_by(uploads.c.created_at_ms.desc()).limit(limit)
            ).all()
        )
        return [UploadRecord.from_row(row) for row in rows]

    def claim_create(self, upload_id: str, monotonic: Callable[[], float]) -> Lease | None:
        """Claim the making of an open upload's staged object.

        None if somebody else is at it, or if there is nothing to be made:
        making it again might undo a publication that is under way.
        """
        claimed_at = monotonic()

        def work(connection: Connection) -> int | None:
            generation = self._leases.claim(connection, upload_id, CREATE)
            upload = find(connection, upload_id)
            if upload and upload.state is State.OPEN and upload.staging_key is None:
                return generation
            if generation is not None:
                self._leases.give_back(connection, generation)
            return None

        generation = self._transactions.write(work, durable=False)
        if generation is None:
            return None
        return self._leases.hold(upload_id, CREATE, generation, claimed_at)

    def set_staged(self, lease: Lease, staging_key: str) -> UploadRecord:
        """Note where an open upload is staged, ending the ``create`` lease.

        Raises UploadNotFound where the upload has gone meanwhile (the caller
        discards what it made), LeaseLost where another process took over.
        """

        def work(connection: Connection) -> UploadRecord:
            if not self._leases.end(connection, lease):
                raise LeaseLost
            row = connection.execute(
                update(uploads)
                .where(uploads.c.id == lease.upload_id, uploads.c.state == State.OPEN)
                .values(staging_key=staging_key)
                .returning(*uploads.c)
            ).first()
            if row is None:
                raise UploadNotFound
            return UploadRecord.from_row(row)

        record = self._transactions.write(work)
        self._leases.drop(lease)
        return record

    def move(
        self, upload: UploadRecord, root_id: str, room_bytes: int | None, lease: Lease | None
    ) -> UploadRecord | None:
        """Move an open upload to another root, where nothing is staged yet.

        None where bytes of it are recorded, where it is made of others, or anybody
        but the holder of ``lease`` may be writing. Whoever comes to write at the same
        moment is told apart by ``Lease.root_id``. ``room_bytes`` as in ``create``.
        Raises StorageFull, and WrongRoot where it will be joined with bytes elsewhere.
        """
        others = lease_rows.c.generation != (0 if lease is None else lease.generation)
        writing = exists().where(
            lease_rows.c.upload_id == uploads.c.id, others, self._leases.live()
        )

        def work(connection: Connection) -> UploadRecord | None:
            if room_bytes is not None:
                require_room(connection, root_id, upload.length, room_bytes)
            row = connection.execute(
                update(uploads)
                .where(
                    uploads.c.id == upload.id,
                    uploads.c.state == State.OPEN,
                    uploads.c.root_id == upload.root_id,
                    uploads.c.received == 0,
                    uploads.c.offset == 0,
                    uploads.c.concat.is_distinct_from(FINAL),
                    ~writing,
                )
                .values(root_id=root_id, staging_key=None)
                .returning(*uploads.c)
            ).first()
            if row is None:
                return None
            moved = UploadRecord.from_row(row)
            if moved.concat == PARTIAL:
                require_bytes_nowhere_else(connection, moved)
            return moved

        return self._transactions.write(work)

    def queue_finalize(self, upload_id: str, now_ms: int) -> UploadRecord:
        """Move a full upload from open or failed to finalizing, due at once; idempotent after that.

        Raises UploadNotFound, PartsMissing with the counts, UploadNotOpen where
        parts are of two editions, or UploadLocked while one is being compared, or
        while an upload without parts has no staged object yet.
        """

        def work(connection: Connection) -> UploadRecord:
            upload = find(connection, upload_id, locked=True)
            if upload is None or upload.has_expired(now_ms):
                raise UploadNotFound
            if upload.state in (State.FINALIZING, State.COMPLETE):
                return upload
            if upload.state not in (State.OPEN, State.FAILED):
                raise UploadNotFound
            if upload.received == upload.part_count:
                self._editions.require_settled(connection, upload_id, upload.edition)
            moved = transition(
                connection,
                upload,
                State.FINALIZING,
                uploads.c.received == uploads.c.part_count,
                uploads.c.staging_key.is_not(None),
                error=None,
                attempts=0,
                progress_bytes=0,
                due_at_ms=now_ms,
            )
            if moved is None and upload.received == upload.part_count:
                raise UploadLocked
            if moved is None:
                raise PartsMissing(upload.received, upload.part_count or 0)
            if upload.state is State.FAILED:
                append_event(connection, upload_id, EventKind.RETRY_QUEUED, now_ms)
            return moved

        return self._transactions.write(work)

    def cancel(self, upload_id: str, now_ms: int) -> UploadRecord:
        """Move an upload to cancelled, or deleted if it was complete; return it as it is then.

        Raises UploadNotFound, or UploadNotOpen while it is finalizing.
        """

        def work(connection: Connection) -> UploadRecord:
            upload = find(connection, upload_id, locked=True)
            if upload is None or upload.has_expired(now_ms):
                raise UploadNotFound
            if upload.state is State.FINALIZING:
                raise UploadNotOpen(upload.state, "be cancelled now; wait until it is done")
            following = State.DELETED if upload.state is State.COMPLETE else State.CANCELLED
            if upload.state not in (State.OPEN, State.FAILED, State.COMPLETE):
                raise UploadNotFound
            moved = transition(connection, upload, following, ended_at_ms=now_ms)
            if moved is None:
                raise UploadNotOpen(upload.state, "be cancelled now; try again")
            append_event_once(connection, upload_id, EventKind.DELETED, now_ms)
            if moved.concat == PARTIAL:
                start_finals_of(connection, upload_id, now_ms)  # they cannot be made any more
            return moved

        return self._transactions.write(work)

    def forget_final(self, upload_id: str) -> None:
        """Note that a deleted upload's file is gone from the storage."""
        self._transactions.write(
            lambda connection: connection.execute(
                update(uploads)
                .where(uploads.c.id == upload_id, uploads.c.state == State.DELETED)
                .values(final_key=None)
            )
        )


def insert_to_be_staged(
    connection: Connection, leases: Leases, new: NewUpload, room_bytes: int | None
) -> int:
    """Insert an upload; return the generation of its ``create`` lease, which is the caller's.

    ``room_bytes`` as in ``UploadLedger.create``. Raises StorageFull.
    """
    insert_upload(connection, new, room_bytes)
    generation = leases.claim(connection, new.id, CREATE)
    assert generation is not None, "the id is new: nobody can hold its lease"
    return generation


def insert_upload(connection: Connection, new: NewUpload, room_bytes: int | None) -> None:
    """Insert an upload that nobody is going to stage yet; see ``insert_to_be_staged``."""
    values = asdict(new)
    values["metadata"] = values.pop("details")
    if room_bytes is not None:
        require_room(connection, new.root_id, new.length, room_bytes)
    connection.execute(
        uploads.insert().values(
            **values,
            offset=0,
            received=0,
            attempts=0,
            progress_bytes=0,
            state=State.OPEN,
            progress_at_ms=new.created_at_ms,
        )
    )
    append_event(connection, new.id, EventKind.CREATED, new.created_at_ms)
    if new.part_count == 0:
        append_event(connection, new.id, EventKind.COMPLETED, new.created_at_ms)


def find(connection: Connection, upload_id: str, *, locked: bool = False) -> UploadRecord | None:
    """Return an upload in whatever state it is, None if the id is unknown.

    ``locked``: nobody else changes it until the caller's transaction ends.
    """
    row = connection.execute(
        _SELECT_LOCKED if locked else _SELECT, {"upload_id": upload_id}
    ).first()
    return None if row is None else UploadRecord.from_row(row)


def transition(
    connection: Connection,
    upload: UploadRecord,
    following: State,
    *conditions: object,
    **values: object,
) -> UploadRecord | None:
    """Change an upload's state by compare-and-set; None if it is not as ``upload`` says any more.

    Raises ValueError for a transition the table in ``domain.states`` does not have.
    """
    check(upload.state, following)
    row = connection.execute(
        update(uploads)
        .where(uploads.c.id == upload.id, uploads.c.state == upload.state, *conditions)  # type: ignore[arg-type]
        .values(state=following, **values)
        .returning(*uploads.c)
    ).first()
    return None if row is None else UploadRecord.from_row(row)
