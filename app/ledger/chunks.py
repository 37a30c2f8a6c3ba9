"""Uploads that clients know by names of their own: found, made once, and their parts replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import (
    BigInteger,
    Connection,
    Executable,
    Integer,
    bindparam,
    delete,
    exists,
    select,
    update,
)

from app.domain.parts import word_and_mask
from app.domain.states import GONE, State
from app.errors import LeaseLost, PartCountMismatch, UploadNotFound
from app.ledger.dialects import insert
from app.ledger.editions import Editions
from app.ledger.leases import CREATE, Lease, Leases
from app.ledger.models import aliases, bitmap, receipts, uploads
from app.ledger.parts import PartClaim, find_receipt, open_upload
from app.ledger.prepared import Prepared
from app.ledger.records import AliasKey, NewUpload, UploadRecord
from app.ledger.room import take_turns
from app.ledger.transactions import Transactions
from app.ledger.uploads import find, insert_to_be_staged

_NAMED = (
    aliases.c.namespace == bindparam("namespace"),
    aliases.c.owner == bindparam("owner"),
    aliases.c.client_key == bindparam("client_key"),
)
_SELECT_NAMED = Prepared(
    select(uploads).join(aliases, aliases.c.upload_id == uploads.c.id).where(*_NAMED)
)
_SELECT_WITH_PART = (
    select(uploads, bitmap.c.bits, receipts.c.edition.label("part_edition"))
    .join(aliases, aliases.c.upload_id == uploads.c.id)
    .outerjoin(bitmap, (bitmap.c.upload_id == uploads.c.id) & (bitmap.c.word == bindparam("word")))
    .outerjoin(
        receipts, (receipts.c.upload_id == uploads.c.id) & (receipts.c.part == bindparam("part"))
    )
    .where(*_NAMED)
)
_UNCOUNT_PART = (
    update(uploads)
    .where(uploads.c.id == bindparam("counted_id"), uploads.c.state == State.OPEN)
    .values(received=uploads.c.received - 1)
    .returning(uploads.c.edition)
)
_MASK = bindparam("mask", type_=BigInteger)
_CLEAR_BIT = (
    update(bitmap)
    .where(
        bitmap.c.upload_id == bindparam("bit_upload_id"),
        bitmap.c.word == bindparam("bit_word"),
        bitmap.c.bits.op("&")(_MASK) != 0,
    )
    .values(bits=bitmap.c.bits - _MASK)
)
_RECUT = (
    update(uploads)
    .where(
        uploads.c.id == bindparam("cut_id"),
        uploads.c.state == State.OPEN,
        uploads.c.part_count == bindparam("old_count"),
        # Whoever records a part meanwhile changes this, and locks the row.
        uploads.c.received == bindparam("known_received"),
        ~exists().where(
            receipts.c.upload_id == uploads.c.id,
            receipts.c.part >= bindparam("old_count", type_=Integer) - 1,
        ),
    )
    .values(part_count=bindparam("new_count"))
    .returning(*uploads.c)
)
_DELETE_RECEIPT = (
    delete(receipts)
    .where(
        receipts.c.upload_id == bindparam("receipt_upload_id"), receipts.c.part == bindparam("part")
    )
    .returning(receipts.c.edition)
)


class ChunkLedger:
    """Aliases and what hangs on them. ``grace_ms``: how long a complete upload keeps its alias."""

    def __init__(
        self, transactions: Transactions, leases: Leases, editions: Editions, dialect: str
    ) -> None:
        self._transactions = transactions
        self._leases = leases
        self._editions = editions
        self._point_alias = _point_alias_statement(dialect)

    def look(
        self, alias: AliasKey, index: int, now_ms: int, grace_ms: int
    ) -> tuple[UploadRecord, bool] | None:
        """Return the living upload behind an alias, and whether it has part ``index``.

        A part of an older edition of an edited file is not had: it has to come again.
        """
        word, mask = word_and_mask(index)
        asked = {**_names(alias), "word": word, "part": index}
        row = self._transactions.read(
            lambda connection: connection.execute(_SELECT_WITH_PART, asked).first()
        )
        if row is None:
            return None
        upload = UploadRecord.from_row(row)
        if not _is_living(upload, now_ms, grace_ms):
            return None
        is_older = upload.state is State.OPEN and (row.part_edition or 0) < upload.edition
        return upload, bool((row.bits or 0) & mask) and not is_older

    def get_or_create(
        self,
        alias: AliasKey,
        new: NewUpload,
        *,
        grace_ms: int,
        room_bytes: int | None,
        monotonic: Callable[[], float],
    ) -> tuple[UploadRecord, Lease | None]:
        """Return the living upload behind an alias; else make ``new`` the one, with its lease.

        The ``create`` lease tells that the upload is new. However many processes
        ask at once, one upload is made. Raises StorageFull as ``UploadLedger.create``.
        """
        claimed_at = monotonic()

        def work(connection: Connection) -> tuple[UploadRecord, int | None]:
            # On PostgreSQL only statements after this one see what those who had
            # the turn before have made.
            take_turns(connection)
            known = _named(connection, alias)
            if known is not None and _is_living(known, new.created_at_ms, grace_ms):
                return known, None
            generation = insert_to_be_staged(connection, self._leases, new, room_bytes)
            connection.execute(self._point_alias, {**_names(alias), "upload_id": new.id})
            made = find(connection, new.id)
            assert made is not None
            return made, generation

        upload, generation = self._transactions.write(work)
        if generation is None:
            return upload, None
        return upload, self._leases.hold(new.id, CREATE, generation, claimed_at)

    def claim(
        self,
        alias: AliasKey,
        index: int,
        part_count: int | None,
        now_ms: int,
        grace_ms: int,
        monotonic: Callable[[], float],
    ) -> PartClaim | None:
        """Try to lease part ``index`` of the upload behind an alias; None where none lives.

        Other than ``PartLedger.claim`` it leases a part that has been received,
        too: it may be replaced. A receipt without a lease means that the upload
        takes no parts any more. ``part_count`` is what the client has told, if
        it has: an upload that was made before anything told is cut anew, unless
        its last part has come. Raises PartCountMismatch, and IndexError where
        it has no such part.
        """
        claimed_at = monotonic()

        def work(connection: Connection) -> tuple[PartClaim, int | None] | None:
            upload = _named(connection, alias)
            if upload is None or not _is_living(upload, now_ms, grace_ms):
                return None
            if part_count not in (None, upload.part_count):
                upload = _recut(connection, upload, part_count)
            upload.geometry.span(index)  # raises IndexError
            if upload.state is not State.OPEN:
                return PartClaim(upload, receipt=find_receipt(connection, upload.id, index)), None
            generation = self._leases.claim(connection, upload.id, str(index))
            if generation is None:
                holder = self._leases.holder(connection, upload.id, str(index))
                return PartClaim(upload, holder=holder), None
            return PartClaim(upload, receipt=find_receipt(connection, upload.id, index)), generation

        claimed = self._transactions.write(work, durable=False)
        if claimed is None:
            return None
        claim, generation = claimed
        if generation is None:
            return claim
        lease = self._leases.hold(claim.upload.id, str(index), generation, claimed_at)
        return PartClaim(claim.upload, lease=lease, receipt=claim.receipt)

    def confirm(self, lease: Lease, index: int, now_ms: int) -> UploadRecord:
        """Note that a received part has come again unchanged, which ends the lease.

        Returns the upload as it is then: finalizing, if nothing else kept it open.
        Raises LeaseLost, or UploadNotFound where it has gone.
        """
        upload_id = lease.upload_id

        def work(connection: Connection) -> UploadRecord:
            upload = find(connection, upload_id, locked=True)
            if upload is None or upload.state in GONE:
                raise UploadNotFound
            if not self._leases.end(connection, lease):
                raise LeaseLost
            if upload.state is State.OPEN:
                self._editions.confirmed(connection, upload_id, index, upload.edition)
                if upload.received == upload.part_count and self._editions.complete(
                    connection, upload_id, upload.edition, now_ms
                ):
                    return replace(upload, state=State.FINALIZING)
            return upload

        upload = self._transactions.write(work)
        self._leases.drop(lease)
        return upload

    def withdraw(self, lease: Lease, index: int, now_ms: int, *, differs: bool) -> None:
        """Forget a received part whose bytes are about to be replaced; durable on return.

        ``differs``: by others, that is known. Raises LeaseLost, UploadNotFound or
        UploadNotOpen, and then nothing has changed.
        """

        def work(connection: Connection) -> None:
            upload_id = lease.upload_id
            uncounted = connection.execute(_UNCOUNT_PART, {"counted_id": upload_id}).first()
            if uncounted is None:
                open_upload(connection, upload_id, now_ms)
                raise LeaseLost
            word, mask = word_and_mask(index)
            bit = {"bit_upload_id": upload_id, "bit_word": word, "mask": mask}
            if not (
                self._leases.is_valid(connection, lease)
                and connection.execute(_CLEAR_BIT, bit).rowcount
            ):
                raise LeaseLost
            part = {"receipt_upload_id": upload_id, "part": index}
            of_part = connection.execute(_DELETE_RECEIPT, part).scalar_one()
            if differs:
                self._editions.replaced(connection, upload_id, uncounted.edition, of_part)

        self._transactions.write(work)


def _named(connection: Connection, alias: AliasKey) -> UploadRecord | None:
    row = _SELECT_NAMED.first(connection, _names(alias))
    return None if row is None else UploadRecord.from_columns(row)


def _recut(connection: Connection, upload: UploadRecord, part_count: int) -> UploadRecord:
    """Cut the last part of an upload in two, if it has not come: all others stay as they are.

    Raises PartCountMismatch.
    """
    assert upload.part_count is not None
    row = None
    if part_count == upload.part_count + 1:
        cut = {"cut_id": upload.id, "old_count": upload.part_count, "new_count": part_count}
        row = connection.execute(_RECUT, {**cut, "known_received": upload.received}).first()
    if row is None:
        raise PartCountMismatch
    return UploadRecord.from_row(row)


def _is_living(upload: UploadRecord, now_ms: int, grace_ms: int) -> bool:
    """Tell whether an alias still leads to its upload, or is free for another one."""
    if upload.state is State.COMPLETE:
        return (upload.completed_at_ms or 0) + grace_ms > now_ms
    return upload.state not in GONE and not upload.has_expired(now_ms)


def _names(alias: AliasKey) -> dict[str, str]:
    return {
        "namespace": alias.namespace,
        "owner": alias.owner,
        "client_key": alias.client_key,
    }


def _point_alias_statement(dialect: str) -> Executable:
    upsert = insert(dialect, aliases).values(
        namespace=bindparam("namespace"),
        owner=bindparam("owner"),
        client_key=bindparam("client_key"),
        upload_id=bindparam("upload_id"),
    )
    return upsert.on_conflict_do_update(
        index_elements=["namespace", "owner", "client_key"],
        set_={"upload_id": upsert.excluded.upload_id},
    )
