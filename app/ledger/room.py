"""Room on a root: what open uploads have announced is taken, whether it has come or not."""

from __future__ import annotations

from sqlalchemy import Connection, and_, func, or_, select

from app.domain.states import State
from app.errors import StorageFull
from app.ledger.models import instance, uploads
from app.ledger.records import FINAL

# SQLite knows no FOR UPDATE and needs none: SQLAlchemy leaves it out there.
_LOCK_INSTANCE = select(instance.c.id).with_for_update()


def take_turns(connection: Connection) -> None:
    """Wait for every other transaction that has called this: for counting before acting.

    On SQLite write transactions take turns anyway.
    """
    connection.execute(_LOCK_INSTANCE)


def require_room(connection: Connection, root_id: str, length: int | None, room_bytes: int) -> None:
    """Raise StorageFull unless ``length`` bytes fit in ``room_bytes`` beside what is announced."""
    take_turns(connection)  # or two would find the same room
    announced = count_unreceived_bytes(connection, root_id)
    if (length or 0) > room_bytes - announced:
        raise StorageFull


def count_unreceived_bytes(connection: Connection, root_id: str) -> int:
    """Return the bytes that uploads on a root have announced and that are not there yet.

    One that is made of others has none of its own before it is finished.
    """
    received_bytes = uploads.c.received * func.coalesce(uploads.c.part_size, 0) + uploads.c.offset
    missing = func.coalesce(uploads.c.length, 0) - received_bytes
    joining = and_(uploads.c.state == State.FINALIZING, uploads.c.concat == FINAL)
    total = connection.execute(
        select(func.sum(missing)).where(
            uploads.c.root_id == root_id,
            or_(uploads.c.state == State.OPEN, joining),
            missing > 0,
        )
    ).scalar_one()
    return int(total or 0)
