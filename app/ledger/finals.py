"""When uploads that are made of others can be made.

A final upload waits, open, until each of its partial ones is full; the commit
that fills the last one moves it to finalizing. One that lost a partial is moved
too: finalizing tells why it cannot be made. These functions are part of the
caller's transaction, which has locked its partial one; finals are locked after
it, in the order of their ids.

What waits and what it waits for expire together: a final upload is of no use
without all of its partial ones, and clients fill them one after the other. And
they lie together: a final upload is made on the root that has the first bytes
of any of its partial ones, and none gets any on another root then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from sqlalchemy import BigInteger, Connection, Exists, bindparam, exists, select, update
from sqlalchemy.orm import aliased

from app.domain.states import State, check
from app.errors import WrongRoot
from app.ledger.models import concatenations, uploads
from app.ledger.outbox import EventKind, append_event_once
from app.ledger.records import PARTIAL, UploadRecord

#: Partial ones get the time of what waits for them when theirs is so much shorter;
#: else every progress of one would write the rows of all others.
_LAG_MS = 60_000

_FINALS_OF = (
    select(concatenations.c.final_id)
    .where(concatenations.c.partial_id == bindparam("partial_id"))
    .distinct()
)

_WAITING_FINALS = select(uploads.c.id).where(
    uploads.c.id.in_(_FINALS_OF), uploads.c.state == State.OPEN
)

_PROLONG_FINALS = (
    update(uploads)
    .where(
        uploads.c.id.in_(_FINALS_OF),
        uploads.c.state == State.OPEN,
        uploads.c.expires_at_ms < bindparam("new_expires_at_ms", type_=BigInteger),
    )
    .values(expires_at_ms=bindparam("new_expires_at_ms", type_=BigInteger))
)

_PARTIAL = uploads.alias("partial")

_BYTES_ELSEWHERE = (
    select(_PARTIAL.c.id)
    .join(concatenations, concatenations.c.partial_id == _PARTIAL.c.id)
    .where(
        concatenations.c.final_id.in_(_WAITING_FINALS),
        _PARTIAL.c.offset > 0,
        _PARTIAL.c.root_id != bindparam("own_root_id"),
    )
    .limit(1)
)

#: A row that another transaction has locked is skipped: two that lock each other's
#: would be ended, and one that is being filled is given its time by that.
_PROLONG_PARTIALS = (
    update(uploads)
    .where(
        uploads.c.id.in_(
            select(_PARTIAL.c.id)
            .join(concatenations, concatenations.c.partial_id == _PARTIAL.c.id)
            .where(
                concatenations.c.final_id.in_(bindparam("final_ids", expanding=True)),
                _PARTIAL.c.state == State.OPEN,
                _PARTIAL.c.expires_at_ms < bindparam("too_early_ms", type_=BigInteger),
            )
            .with_for_update(of=_PARTIAL, skip_locked=True)
        )
    )
    .values(expires_at_ms=bindparam("new_expires_at_ms", type_=BigInteger))
)

_PARTIALS_OF = (
    select(concatenations.c.partial_id)
    .where(concatenations.c.final_id == bindparam("final_id"))
    .order_by(concatenations.c.position)
)

check(State.OPEN, State.FINALIZING)
_START = (
    update(uploads)
    .where(uploads.c.id == bindparam("final_id"), uploads.c.state == State.OPEN)
    .values(
        state=State.FINALIZING,
        due_at_ms=bindparam("now_ms", type_=BigInteger),
        attempts=0,
        progress_bytes=0,
        error=None,
    )
)


def start_finals_of(connection: Connection, partial_id: str, now_ms: int) -> None:
    """Move the final uploads that waited for this partial one, if they wait for no other."""
    final_ids = connection.execute(_FINALS_OF, {"partial_id": partial_id}).scalars().all()
    if final_ids:
        start_finals(connection, final_ids, now_ms)


def follow(connection: Connection, partial: UploadRecord, offset: int, expires_at_ms: int) -> None:
    """Have final uploads that wait for a partial one follow its progress to ``offset``.

    They live as long, and are made where its bytes are. ``partial`` is as it was
    before. Raises WrongRoot with its first bytes where others that will be joined with
    it have theirs on another root.
    """
    if offset and not partial.offset:
        _gather(connection, partial)
    if expires_at_ms > partial.expires_at_ms:
        prolong_finals_of(connection, partial.id, expires_at_ms)


def _gather(connection: Connection, partial: UploadRecord) -> None:
    # All of them are locked: another of their partial ones may get its first bytes now.
    locked = _WAITING_FINALS.order_by(uploads.c.id).with_for_update()
    final_ids = connection.execute(locked, {"partial_id": partial.id}).scalars().all()
    if final_ids:
        require_bytes_nowhere_else(connection, partial)
        here = update(uploads).values(root_id=partial.root_id)
        connection.execute(here.where(uploads.c.id.in_(final_ids)))


def require_bytes_nowhere_else(connection: Connection, partial: UploadRecord) -> None:
    """Raise WrongRoot where what will be joined with a partial upload has bytes on another root."""
    names = {"partial_id": partial.id, "own_root_id": partial.root_id}
    if connection.execute(_BYTES_ELSEWHERE, names).first() is not None:
        raise WrongRoot


def prolong_finals_of(connection: Connection, partial_id: str, expires_at_ms: int) -> None:
    """Let waiting final uploads live as long as a partial one that is being filled, and with
    them the others that they wait for."""
    names = {"partial_id": partial_id, "new_expires_at_ms": expires_at_ms}
    if not connection.execute(_PROLONG_FINALS, names).rowcount:
        return
    final_ids = connection.execute(_WAITING_FINALS, names).scalars().all()
    prolong_partials_of(connection, final_ids, expires_at_ms)


def prolong_partials_of(
    connection: Connection, final_ids: Sequence[str], expires_at_ms: int
) -> None:
    """Let partial uploads live as long as these final ones, which wait for them."""
    values = {
        "final_ids": final_ids,
        "too_early_ms": expires_at_ms - _LAG_MS,
        "new_expires_at_ms": expires_at_ms,
    }
    connection.execute(_PROLONG_PARTIALS, values)


def is_needed() -> Exists:
    """Return the condition that a row of ``uploads`` belongs to a final one still to be made."""
    final = aliased(uploads)
    return exists().where(
        concatenations.c.partial_id == uploads.c.id,
        concatenations.c.final_id == final.c.id,
        final.c.state.in_([State.OPEN, State.FINALIZING]),
    )


def start_finals(connection: Connection, final_ids: Sequence[str], now_ms: int) -> None:
    """Move those of these final uploads to finalizing that can be made now, or never."""
    waiting = select(uploads.c.id).where(uploads.c.id.in_(final_ids), uploads.c.state == State.OPEN)
    locked = connection.execute(waiting.order_by(uploads.c.id).with_for_update())
    for final_id in locked.scalars().all():
        partials = partials_of(connection, final_id)
        lost = not all(map(can_be_joined, partials))
        if lost or all(partial.is_full for partial in partials if partial):
            connection.execute(_START, {"final_id": final_id, "now_ms": now_ms})
            if not lost:
                append_event_once(connection, final_id, EventKind.COMPLETED, now_ms)


def common_root_id(partials: Sequence[UploadRecord]) -> str:
    """Return the root on which the bytes of partial uploads are; any where there are none yet.

    Raises WrongRoot where they are on several.
    """
    with_bytes = [partial for partial in partials if partial.offset] or partials[:1]
    root_ids = {partial.root_id for partial in with_bytes}
    if len(root_ids) > 1:
        raise WrongRoot
    return root_ids.pop()


def can_be_joined(partial: UploadRecord | None) -> TypeGuard[UploadRecord]:
    """Tell whether a partial upload is there to be joined, full or not yet."""
    return partial is not None and partial.state is State.OPEN and partial.concat == PARTIAL


def partials_of(connection: Connection, final_id: str) -> Sequence[UploadRecord | None]:
    """Return what a final upload is made of, in order; None for one whose row is gone."""
    named = connection.execute(_PARTIALS_OF, {"final_id": final_id})
    return find_all(connection, named.scalars().all())


def find_all(
    connection: Connection, upload_ids: Sequence[str], *, locked: bool = False
) -> Sequence[UploadRecord | None]:
    """Return uploads in the order of their ids as given, None for each that is unknown."""
    chosen = select(uploads).where(uploads.c.id.in_(upload_ids)).order_by(uploads.c.id)
    rows = connection.execute(chosen.with_for_update() if locked else chosen).all()
    found = {row.id: UploadRecord.from_row(row) for row in rows}
    return [found.get(upload_id) for upload_id in upload_ids]
