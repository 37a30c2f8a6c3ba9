"""Webhooks: due deliveries are sent, retried after 1 s and 4 s, and their outcome recorded."""

from __future__ import annotations

import structlog

from app import metrics
from app.domain.clock import Clock
from app.jobs.outbound import OutboundClient
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.records import DeliveryRecord

log = structlog.get_logger(__name__)

#: Pauses before the second and the third try, as the reference systems have them.
RETRY_AFTER_SECONDS = (1, 4)

#: Deliveries sent at the same time by a process.
AT_ONCE = 32


class WebhookSender:
    """Sends what the outbox holds."""

    def __init__(self, ledger: Ledger, clock: Clock, client: OutboundClient) -> None:
        self._ledger = ledger
        self._clock = clock
        self._client = client

    def claim(self, at_most: int) -> list[tuple[DeliveryRecord, Lease]]:
        """Claim up to ``at_most`` deliveries that are due."""
        return self._ledger.outbox.claim_due(self._clock.now_ms(), at_most, self._clock.monotonic)

    def send(self, delivery: DeliveryRecord, lease: Lease) -> None:
        """Try a claimed delivery once and record how it went."""
        try:
            outcome = self._client.post_json(
                delivery.url, delivery.payload.encode(), {}, secret=delivery.secret
            )
            now_ms = self._clock.now_ms()
            retries_left = delivery.attempts < len(RETRY_AFTER_SECONDS)
            next_due_at_ms = None
            if not outcome.ok and retries_left:
                next_due_at_ms = now_ms + RETRY_AFTER_SECONDS[delivery.attempts] * 1000
            self._ledger.outbox.record_attempt(
                delivery,
                lease,
                now_ms=now_ms,
                status_code=outcome.status,
                response_body=outcome.body,
                error=outcome.error,
                next_due_at_ms=next_due_at_ms,
                delivered=outcome.ok,
            )
        finally:
            self._ledger.leases.release(lease)
        metrics.deliveries_total.labels("delivered" if outcome.ok else "failed").inc()
        log.info(
            "webhook.attempt",
            upload_id=delivery.upload_id,
            delivered=outcome.ok,
            status=outcome.status,
            error=outcome.error,
            attempt=delivery.attempts + 1,
        )
