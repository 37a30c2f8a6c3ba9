"""Events and the deliveries they cause, written in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from sqlalchemy import BigInteger, Connection, bindparam, exists, func, select, update
from sqlalchemy.sql.elements import ColumnElement

from app.ledger.leases import Lease, Leases
from app.ledger.models import deliveries, events, webhooks
from app.ledger.models import leases as lease_rows
from app.ledger.prepared import Prepared
from app.ledger.records import DeliveryRecord
from app.ledger.transactions import Transactions


class EventKind(StrEnum):
    """What may happen to an upload; the names are the reference systems'."""

    CREATED = "created"
    CHUNK_RECEIVED = "chunk_received"
    COMPLETED = "completed"
    PROCESSING_STARTED = "processing_started"
    FINALIZED = "finalized"
    PROCESSING_FAILED = "processing_failed"
    ABANDONED = "abandoned"
    DELETED = "deleted"
    RETRY_QUEUED = "retry_queued"


_INSERT_EVENT = Prepared(
    events.insert()
    .values({name: bindparam(name) for name in ("upload_id", "kind", "message", "created_at_ms")})
    .returning(events.c.id)
)
_SELECT_EVENT = Prepared(
    select(events.c.id)
    .where(
        events.c.upload_id == bindparam("event_of"),
        events.c.kind == bindparam("event_kind"),
    )
    .limit(1)
)
_later = events.alias()
_SELECT_STARTED = Prepared(
    select(events.c.id)
    .where(
        events.c.upload_id == bindparam("event_of"),
        events.c.kind == EventKind.PROCESSING_STARTED,
        events.c.created_at_ms >= bindparam("queued_at_ms", type_=BigInteger),
        ~exists().where(
            _later.c.upload_id == events.c.upload_id,
            _later.c.kind == EventKind.PROCESSING_FAILED,
            _later.c.id > events.c.id,
        ),
    )
    .limit(1)
)

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"

#: Leases that keep two runners from sending the same delivery guard no upload.
_DELIVERY_LEASE = "delivery"


def append_event(
    connection: Connection, upload_id: str, kind: EventKind, now_ms: int, message: str | None = None
) -> int:
    """Record an event as part of the caller's transaction; return its id."""
    values = {"upload_id": upload_id, "kind": kind, "message": message, "created_at_ms": now_ms}
    inserted = _INSERT_EVENT.first(connection, values)
    assert inserted is not None, "an insert returns its row"
    return int(inserted["id"])


def append_event_once(connection: Connection, upload_id: str, kind: EventKind, now_ms: int) -> None:
    """Record an event that an upload can have only once in its life."""
    values = {"event_of": upload_id, "event_kind": kind}
    if _SELECT_EVENT.first(connection, values) is None:
        append_event(connection, upload_id, kind, now_ms)


def append_started(connection: Connection, upload_id: str, queued_at_ms: int, now_ms: int) -> None:
    """Record that finalizing has begun, unless whoever began it since it was queued has died."""
    values = {"event_of": upload_id, "queued_at_ms": queued_at_ms}
    if _SELECT_STARTED.first(connection, values) is None:
        append_event(connection, upload_id, EventKind.PROCESSING_STARTED, now_ms)


def queue_delivery(
    connection: Connection, upload_id: str, event_id: int, url: str, payload: str, now_ms: int
) -> None:
    """Queue a POST of ``payload`` to an upload's own webhook, due at once."""
    connection.execute(
        deliveries.insert().values(
            upload_id=upload_id,
            event_id=event_id,
            url=url,
            payload=payload,
            state=PENDING,
            attempts=0,
            due_at_ms=now_ms,
            created_at_ms=now_ms,
        )
    )


class Outbox:
    """What the webhook job needs: due deliveries, each claimed by one runner, and outcomes."""

    def __init__(self, transactions: Transactions, leases: Leases) -> None:
        self._transactions = transactions
        self._leases = leases

    def claim_due(
        self, now_ms: int, limit: int, monotonic: Callable[[], float]
    ) -> list[tuple[DeliveryRecord, Lease]]:
        """Claim up to ``limit`` deliveries whose time has come, oldest first."""
        claimed_at = monotonic()
        due = (deliveries.c.state == PENDING) & (deliveries.c.due_at_ms <= now_ms)
        if not self._transactions.read(
            lambda connection: connection.execute(select(deliveries.c.id).where(due)).first()
        ):
            return []

        def work(connection: Connection) -> list[tuple[DeliveryRecord, int]]:
            claimed: list[tuple[DeliveryRecord, int]] = []
            for delivery_id, upload_id in _oldest(connection, due, limit):
                generation = self._leases.claim(connection, upload_id, _lease_key(delivery_id))
                if generation is None:
                    continue
                record = _load(connection, due & (deliveries.c.id == delivery_id))
                if record is None:  # sent and ended just before
                    self._leases.give_back(connection, generation)
                else:
                    claimed.append((record, generation))
                if len(claimed) == limit:
                    break
            return claimed

        return [
            (
                record,
                self._leases.hold(record.upload_id, _lease_key(record.id), generation, claimed_at),
            )
            for record, generation in self._transactions.write(work, durable=False)
        ]

    def record_attempt(
        self,
        delivery: DeliveryRecord,
        lease: Lease,
        *,
        now_ms: int,
        status_code: int | None,
        response_body: str | None,
        error: str | None,
        next_due_at_ms: int | None,
        delivered: bool,
    ) -> None:
        """Store the outcome of one attempt; ``next_due_at_ms`` None ends the delivery.

        An attempt whose lease was lost counts only if it delivered: another
        runner is at it, and its own outcome is the one to record.
        """
        ended = delivered or next_due_at_ms is None
        state = DELIVERED if delivered else FAILED if ended else PENDING

        def work(connection: Connection) -> None:
            if not self._leases.end(connection, lease) and not delivered:
                return
            connection.execute(
                update(deliveries)
                .where(deliveries.c.id == delivery.id, deliveries.c.state == PENDING)
                .values(
                    state=state,
                    attempts=delivery.attempts + 1,
                    due_at_ms=next_due_at_ms if next_due_at_ms is not None else now_ms,
                    status_code=status_code,
                    response_body=response_body,
                    error=error,
                    finished_at_ms=now_ms if ended else None,
                )
            )

        self._transactions.write(work)
        self._leases.drop(lease)


def _lease_key(delivery_id: int) -> str:
    return f"{_DELIVERY_LEASE} {delivery_id}"


def _oldest(
    connection: Connection, due: ColumnElement[bool], limit: int
) -> Sequence[tuple[int, str]]:
    """Return id and upload id of the oldest, and as many more as may be leased already."""
    leased = select(func.count()).where(lease_rows.c.key.startswith(_DELIVERY_LEASE))
    rows = connection.execute(
        select(deliveries.c.id, deliveries.c.upload_id)
        .where(due)
        .order_by(deliveries.c.due_at_ms, deliveries.c.id)
        .limit(limit + connection.execute(leased).scalar_one())
    )
    return [(row.id, row.upload_id) for row in rows]


def _load(connection: Connection, chosen: ColumnElement[bool]) -> DeliveryRecord | None:
    row = connection.execute(
        select(deliveries, webhooks.c.secret)
        .outerjoin(webhooks, deliveries.c.webhook_id == webhooks.c.id)
        .where(chosen)
    ).first()
    if row is None:
        return None
    return DeliveryRecord(row.id, row.upload_id, row.url, row.payload, row.secret, row.attempts)
