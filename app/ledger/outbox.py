"""Events and the deliveries they cause, written in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from sqlalchemy import Connection, select, update

from app.ledger.leases import Lease, Leases
from app.ledger.models import deliveries, events, webhooks
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


PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"

#: Leases that keep two runners from sending the same delivery guard no upload.
_DELIVERY_LEASE = "delivery"


def append_event(
    connection: Connection, upload_id: str, kind: EventKind, now_ms: int, message: str | None = None
) -> int:
    """Record an event as part of the caller's transaction; return its id."""
    inserted = connection.execute(
        events.insert().values(
            upload_id=upload_id, kind=kind, message=message, created_at_ms=now_ms
        )
    )
    (event_id,) = inserted.inserted_primary_key or (0,)
    return int(event_id)


def append_event_once(connection: Connection, upload_id: str, kind: EventKind, now_ms: int) -> None:
    """Record an event that an upload can have only once in its life."""
    known = connection.execute(
        select(events.c.id).where(events.c.upload_id == upload_id, events.c.kind == kind).limit(1)
    )
    if known.first() is None:
        append_event(connection, upload_id, kind, now_ms)


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

        def work(connection: Connection) -> list[tuple[DeliveryRecord, int]]:
            rows = connection.execute(
                select(deliveries, webhooks.c.secret)
                .outerjoin(webhooks, deliveries.c.webhook_id == webhooks.c.id)
                .where(deliveries.c.state == PENDING, deliveries.c.due_at_ms <= now_ms)
                .order_by(deliveries.c.due_at_ms)
                .limit(limit)
            ).all()
            claimed = []
            for row in rows:
                key = f"{_DELIVERY_LEASE} {row.id}"
                generation = self._leases.claim(connection, row.upload_id, key)
                if generation is not None:
                    record = DeliveryRecord(
                        row.id, row.upload_id, row.url, row.payload, row.secret, row.attempts
                    )
                    claimed.append((record, generation))
            return claimed

        claimed = self._transactions.write(work, durable=False) if self._any_due(now_ms) else []
        return [
            (
                record,
                self._leases.hold(
                    record.upload_id, f"{_DELIVERY_LEASE} {record.id}", generation, claimed_at
                ),
            )
            for record, generation in claimed
        ]

    def _any_due(self, now_ms: int) -> bool:
        due = select(deliveries.c.id).where(
            deliveries.c.state == PENDING, deliveries.c.due_at_ms <= now_ms
        )
        return self._transactions.read(
            lambda connection: connection.execute(due.limit(1)).first() is not None
        )

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
        """Store the outcome of one attempt; ``next_due_at_ms`` None ends the delivery."""
        ended = delivered or next_due_at_ms is None
        state = DELIVERED if delivered else FAILED if ended else PENDING

        def work(connection: Connection) -> None:
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
            self._leases.end(connection, lease)

        self._transactions.write(work)
        self._leases.drop(lease)
