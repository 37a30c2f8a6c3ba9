"""Files that change between two tries to send them: when all parts are of the newest one.

A client that sends an edited file again under its old name replaces the parts
that are there one by one, and fills gaps in between. The upload is full then long
before all its parts are of one edition. So editions are counted: the first part
that is replaced by other bytes begins a new one, parts are of the one they came
in, and one that comes again unchanged is of the next one as well. A full upload
is finalized once no part is of an older edition than the upload and nobody is
writing or comparing one, and not before, however long that takes: clients that ask
are told that older parts are missing, clients that do not ask send everything again
when they come back, and what nobody sends again until the upload expires is no file.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import BigInteger, Connection, bindparam, exists, select, update

from app.domain.states import State, check
from app.errors import UploadLocked, UploadNotOpen
from app.ledger.leases import Leases
from app.ledger.models import leases as lease_rows
from app.ledger.models import receipts, uploads
from app.ledger.outbox import EventKind, append_event_once
from app.ledger.prepared import Prepared
from app.ledger.transactions import Transactions

#: For how long a full upload of one edition is left open for a client that was sending
#: a part again, and has gone: the longest pause between two chunks that clients make
#: after failures (README: every 2 s, 30 times).
SETTLE_MS = 60_000

_BEGIN_EDITION = (
    update(uploads).where(uploads.c.id == bindparam("edited_id")).values(edition=bindparam("begun"))
)
_CONFIRM = (
    update(receipts)
    .where(
        receipts.c.upload_id == bindparam("receipt_upload_id"),
        receipts.c.part == bindparam("confirmed_part"),
        receipts.c.edition < bindparam("next_edition"),
    )
    .values(edition=bindparam("next_edition"))
)
_OUTDATED = Prepared(
    select(receipts.c.part)
    .where(
        receipts.c.upload_id == bindparam("receipt_upload_id"),
        receipts.c.edition < bindparam("edition"),
    )
    .limit(1)
)
check(State.OPEN, State.FINALIZING)
_BEGIN_FINALIZING = Prepared(
    update(uploads)
    .where(uploads.c.id == bindparam("full_id"))
    .values(
        state=State.FINALIZING,
        error=None,
        attempts=0,
        progress_bytes=0,
        due_at_ms=bindparam("now_ms"),
    )
)
_LEAVE_OPEN = (
    update(uploads)
    .where(uploads.c.id == bindparam("full_id"))
    .values(due_at_ms=bindparam("settled_at_ms"))
)


class Editions:
    """Editions of the parts of uploads. Methods that take a connection lock no row."""

    def __init__(self, transactions: Transactions, leases: Leases) -> None:
        self._transactions = transactions
        self._leases = leases
        writing = exists().where(lease_rows.c.upload_id == uploads.c.id, leases.live())
        self._written = Prepared(
            select(uploads.c.id).where(uploads.c.id == bindparam("full_id"), writing)
        )
        self._settled = select(uploads.c.id).where(
            uploads.c.state == State.OPEN,
            uploads.c.due_at_ms <= bindparam("now_ms", type_=BigInteger),
            uploads.c.received == uploads.c.part_count,
            ~exists().where(
                receipts.c.upload_id == uploads.c.id, receipts.c.edition < uploads.c.edition
            ),
            ~writing,
        )

    # -- inside a transaction that has locked the upload's row -----------------

    def replaced(self, connection: Connection, upload_id: str, edition: int, of_part: int) -> int:
        """Note that a part has been replaced by other bytes; return the upload's edition now.

        ``edition`` is the upload's until now, ``of_part`` the one of the old bytes.
        """
        if of_part < edition:
            return edition  # begun by another part
        connection.execute(_BEGIN_EDITION, {"edited_id": upload_id, "begun": of_part + 1})
        return of_part + 1

    def confirmed(self, connection: Connection, upload_id: str, part: int, edition: int) -> None:
        """Note that a part has come again unchanged while ``edition`` was the upload's."""
        connection.execute(
            _CONFIRM,
            {
                "receipt_upload_id": upload_id,
                "confirmed_part": part,
                "next_edition": edition + 1,
            },
        )

    def complete(self, connection: Connection, upload_id: str, edition: int, now_ms: int) -> bool:
        """Move a full upload of ``edition`` to finalizing; False if it has to be left open."""
        full = {"full_id": upload_id}
        if _OUTDATED.first(connection, {"receipt_upload_id": upload_id, "edition": edition}):
            return False  # the part that is outdated ends this when it comes again
        if self._written.first(connection, full):
            connection.execute(_LEAVE_OPEN, full | {"settled_at_ms": now_ms + SETTLE_MS})
            return False
        _begin_finalizing(connection, upload_id, now_ms)
        return True

    def require_settled(self, connection: Connection, upload_id: str, edition: int) -> None:
        """Raise unless a full upload of ``edition`` may be finalized, whoever asks for it.

        UploadNotOpen where parts are of an older edition, UploadLocked while a
        part is being written or compared: it may tell of another edition.
        """
        if _OUTDATED.first(connection, {"receipt_upload_id": upload_id, "edition": edition}):
            raise UploadNotOpen(
                State.OPEN,
                "be finalized; the file was edited while it was sent, and parts are of the "
                "former edition: send it all again, or cancel it",
            )
        if self._written.first(connection, {"full_id": upload_id}):
            raise UploadLocked

    # -- a transaction of its own ----------------------------------------------

    def complete_settled(self, now_ms: int) -> Collection[str]:
        """Move full uploads of one edition that have been left alone for a while to finalizing."""
        now = {"now_ms": now_ms}
        if not self._transactions.read(lambda tx: tx.execute(self._settled, now).first()):
            return ()

        def work(connection: Connection) -> list[str]:
            settled = [row.id for row in connection.execute(self._settled.with_for_update(), now)]
            for upload_id in settled:
                _begin_finalizing(connection, upload_id, now_ms)
            return settled

        return self._transactions.write(work)


def _begin_finalizing(connection: Connection, upload_id: str, now_ms: int) -> None:
    append_event_once(connection, upload_id, EventKind.COMPLETED, now_ms)
    _BEGIN_FINALIZING.count(connection, {"full_id": upload_id, "now_ms": now_ms})
