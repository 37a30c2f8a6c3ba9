"""Parts: claimed with a lease, committed with a bit and a receipt in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields

from sqlalchemy import (
    BigInteger,
    Connection,
    Insert,
    Integer,
    bindparam,
    case,
    delete,
    func,
    select,
    update,
)

from app.domain.parts import received_parts, word_and_mask, words_without
from app.domain.states import GONE, State
from app.errors import LeaseLost, UploadNotFound, UploadNotOpen
from app.ledger.dialects import insert
from app.ledger.editions import Editions
from app.ledger.leases import Lease, Leases
from app.ledger.models import bitmap, receipts, uploads
from app.ledger.outbox import EventKind, append_event_once
from app.ledger.prepared import Prepared
from app.ledger.records import ReceiptRecord, UploadRecord
from app.ledger.transactions import Transactions

_SELECT_UPLOAD = Prepared(select(uploads).where(uploads.c.id == bindparam("upload_id")))
_SELECT_RECEIPT = Prepared(
    select(*(receipts.c[field.name] for field in fields(ReceiptRecord))).where(
        receipts.c.upload_id == bindparam("upload_id"), receipts.c.part == bindparam("part")
    )
)
_INSERT_RECEIPT = Prepared(
    receipts.insert().values({column.name: bindparam(column.name) for column in receipts.c})
)

#: An expiry that moves with progress does so in steps of this: the index follows it.
PROLONG_MS = 60_000

#: NULL, which nothing is less than, prolongs nothing.
_PROLONGED_TO_MS = bindparam("prolonged_to_ms", type_=BigInteger)
_CUT_INTO = bindparam("cut_into", type_=Integer)
_COUNT_PART = Prepared(
    update(uploads)
    .where(
        uploads.c.id == bindparam("counted_id"),
        uploads.c.state == State.OPEN,
        uploads.c.part_count == func.coalesce(_CUT_INTO, uploads.c.part_count),
    )
    .values(
        received=uploads.c.received + 1,
        progress_at_ms=bindparam("counted_at_ms"),
        expires_at_ms=case(
            (uploads.c.expires_at_ms < _PROLONGED_TO_MS - PROLONG_MS, _PROLONGED_TO_MS),
            else_=uploads.c.expires_at_ms,
        ),
    )
    .returning(uploads.c.received, uploads.c.part_count, uploads.c.root_id, uploads.c.edition)
)


@dataclass(frozen=True, slots=True)
class PartClaim:
    """The answer to a claim: the upload, and either the lease, the receipt, or neither.

    ``lease``: the part is ours to write. ``receipt``: it has been received
    before. Neither: another request is writing it (``holder`` is its process).
    """

    upload: UploadRecord
    lease: Lease | None = None
    receipt: ReceiptRecord | None = None
    holder: str | None = None


@dataclass(frozen=True, slots=True)
class PartCommit:
    """How many parts of how many an upload has after a commit, and whether that completed it."""

    received: int
    part_count: int
    completed: bool = False


class PartLedger:
    """Claims and commits of parts. Refuses whatever the upload's state forbids."""

    def __init__(
        self, transactions: Transactions, leases: Leases, editions: Editions, dialect: str
    ) -> None:
        self._transactions = transactions
        self._leases = leases
        self._editions = editions
        self._set_bit = Prepared(_set_bit_statement(dialect))

    def claim(
        self, upload_id: str, index: int, now_ms: int, monotonic: Callable[[], float]
    ) -> PartClaim:
        """Try to lease part ``index`` of an open upload.

        Raises UploadNotFound where the upload is unknown, gone, past its time or
        without parts, UploadNotOpen where it is finalizing or finished,
        IndexError where it has no such part.
        """
        claimed_at = monotonic()

        def work(connection: Connection) -> tuple[PartClaim, int | None]:
            upload = open_upload(connection, upload_id, now_ms)
            if upload.part_count is None:  # it is appended to
                raise UploadNotFound
            upload.geometry.span(index)  # raises IndexError
            generation = self._leases.claim(connection, upload_id, str(index))
            if receipt := find_receipt(connection, upload_id, index):
                if generation is not None:
                    self._leases.give_back(connection, generation)
                return PartClaim(upload, receipt=receipt), None
            if generation is None:
                holder = self._leases.holder(connection, upload_id, str(index))
                return PartClaim(upload, holder=holder), None
            return PartClaim(upload), generation

        claim, generation = self._transactions.write(work, durable=False)
        if generation is None:
            return claim
        lease = self._leases.hold(upload_id, str(index), generation, claimed_at)
        return PartClaim(claim.upload, lease=lease)

    def commit(
        self,
        lease: Lease,
        receipt: ReceiptRecord,
        *,
        completes: bool = False,
        replaced: ReceiptRecord | None = None,
        cut_into: int | None = None,
        prolonged_to_ms: int | None = None,
    ) -> PartCommit:
        """Record a part whose bytes are durable: bit, count, receipt, and the lease's end.

        ``completes``: the last part moves the upload to finalizing, due at once
        (or later, see ``editions``); else somebody has to ask for it. ``replaced``:
        the receipt of the bytes that were there before. ``cut_into``: how many parts the upload
        must have, if that may have changed. ``prolonged_to_ms``: the upload expires
        then if it would earlier (in steps of PROLONG_MS). Durable on return.
        Raises LeaseLost, UploadNotFound or UploadNotOpen, and then nothing is
        recorded.
        """
        upload_id, now_ms = lease.upload_id, receipt.received_at_ms

        def work(connection: Connection) -> PartCommit:
            counted = _COUNT_PART.first(
                connection,
                {
                    "counted_id": upload_id,
                    "counted_at_ms": now_ms,
                    "cut_into": cut_into,
                    "prolonged_to_ms": prolonged_to_ms,
                },
            )
            if counted is None:
                open_upload(connection, upload_id, now_ms)
                raise LeaseLost
            is_moved = lease.root_id not in (None, counted["root_id"])
            if is_moved or not self._leases.end(connection, lease):
                raise LeaseLost
            word, mask = word_and_mask(receipt.part)
            bit = {"upload_id": upload_id, "word": word, "bits": mask, "mask": mask}
            if self._set_bit.first(connection, bit) is None:
                raise LeaseLost
            edition = counted["edition"]
            if replaced is not None and replaced.storage_receipt != receipt.storage_receipt:
                edition = self._editions.replaced(connection, upload_id, edition, replaced.edition)
            values = asdict(receipt) | {"upload_id": upload_id, "edition": edition}
            _INSERT_RECEIPT.count(connection, values)
            received, part_count = counted["received"], counted["part_count"]
            completed = received == part_count
            if completed and completes:  # the row is locked by the count
                completed = self._editions.complete(connection, upload_id, edition, now_ms)
            elif completed:
                append_event_once(connection, upload_id, EventKind.COMPLETED, now_ms)
            return PartCommit(received, part_count, completed)

        commit = self._transactions.write(work)
        self._leases.drop(lease)
        return commit

    def forget_all(self, upload: UploadRecord, lease: Lease | None = None) -> None:
        """Clear an open upload whose staged object has vanished: it starts anew, under its id.

        All its leases end, because their holders have written to the object
        that is gone. Does nothing where the upload has moved on. Raises
        LeaseLost where somebody else has cleared it and parts may have come
        again since: that ended the caller's ``lease``.
        """

        def work(connection: Connection) -> None:
            cleared = connection.execute(
                update(uploads)
                .where(
                    uploads.c.id == upload.id,
                    uploads.c.state == State.OPEN,
                    uploads.c.staging_key == upload.staging_key,
                )
                .values(received=0, offset=0, staging_key=None)
            )
            if not cleared.rowcount:
                return
            if lease is not None and not self._leases.is_valid(connection, lease):
                raise LeaseLost
            clear_parts(connection, upload.id, None)
            self._leases.end_all(connection, upload.id)

        self._transactions.write(work)

    def words(self, upload_id: str) -> dict[int, int]:
        """Return the bitmap of an upload, word → bits."""
        return self._transactions.read(lambda connection: read_words(connection, upload_id))

    def receipts(self, upload_id: str) -> list[ReceiptRecord]:
        """Return the receipts of all received parts, in order."""
        return self._transactions.read(lambda connection: _receipts(connection, upload_id))


def open_upload(connection: Connection, upload_id: str, now_ms: int) -> UploadRecord:
    """Return an open upload, else raise UploadNotFound or UploadNotOpen."""
    row = _SELECT_UPLOAD.first(connection, {"upload_id": upload_id})
    if row is None:
        raise UploadNotFound
    upload = UploadRecord.from_columns(row)
    if upload.state in GONE or upload.has_expired(now_ms):
        raise UploadNotFound
    if upload.state is not State.OPEN:
        raise UploadNotOpen(upload.state, "take parts")
    return upload


def read_words(connection: Connection, upload_id: str) -> dict[int, int]:
    """Return the bitmap of an upload, word → bits."""
    rows = connection.execute(
        select(bitmap.c.word, bitmap.c.bits).where(bitmap.c.upload_id == upload_id)
    )
    return {row.word: row.bits for row in rows}


def clear_parts(connection: Connection, upload_id: str, lost: Iterable[int] | None) -> int:
    """Forget parts that the storage has lost (None: all); return how many are left."""
    words = read_words(connection, upload_id)
    kept = {} if lost is None else words_without(words, lost)
    left = set(received_parts(kept))
    connection.execute(delete(bitmap).where(bitmap.c.upload_id == upload_id))
    for word, bits in kept.items():
        connection.execute(bitmap.insert().values(upload_id=upload_id, word=word, bits=bits))
    gone = [part for part in received_parts(words) if part not in left]
    for part in gone:
        connection.execute(
            delete(receipts).where(receipts.c.upload_id == upload_id, receipts.c.part == part)
        )
    return len(left)


def _set_bit_statement(dialect: str) -> Insert:
    """Set a part's bit by one atomic upsert, which returns no row if it was set already.

    What an INSERT returns tells; its ``rowcount`` is -1 with psycopg.
    """
    bits = bitmap.c.bits
    upsert = insert(dialect, bitmap).values(
        upload_id=bindparam("upload_id"), word=bindparam("word"), bits=bindparam("bits")
    )
    return upsert.on_conflict_do_update(
        index_elements=["upload_id", "word"],
        set_={"bits": bits.op("|")(upsert.excluded.bits)},
        where=bits.op("&")(bindparam("mask", type_=BigInteger)) == 0,
    ).returning(bits)


def find_receipt(connection: Connection, upload_id: str, index: int) -> ReceiptRecord | None:
    """Return the receipt of a part, None while it is not received."""
    row = _SELECT_RECEIPT.first(connection, {"upload_id": upload_id, "part": index})
    return None if row is None else ReceiptRecord(**row)


def _receipts(connection: Connection, upload_id: str) -> list[ReceiptRecord]:
    rows = connection.execute(
        select(receipts).where(receipts.c.upload_id == upload_id).order_by(receipts.c.part)
    )
    return [_receipt_record(row) for row in rows]


def _receipt_record(row: object) -> ReceiptRecord:
    values = dict(row._mapping)  # type: ignore[attr-defined]  # sqlalchemy.Row
    del values["upload_id"]
    return ReceiptRecord(**values)
