"""The outbox: what happened and whom to tell, written with the change itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Connection

from app.domain.clock import Clock
from app.ledger.database import Ledger
from app.ledger.leases import LEASE_MS, Lease
from app.ledger.models import deliveries, events, leases, webhooks
from app.ledger.outbox import (
    DELIVERED,
    FAILED,
    PENDING,
    EventKind,
    append_event,
    append_event_once,
    queue_delivery,
)
from app.ledger.records import DeliveryRecord, UploadRecord
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.peer import Peer
from tests.harness.rig import Rig

URL = "https://example.com/hook"

StartPeer = Callable[..., Peer]


@pytest.fixture
def upload(rig: Rig) -> UploadRecord:
    return rig.create()


def queue(rig: Rig, upload: UploadRecord, payload: str = "{}") -> None:
    """Queue a delivery of an event that is written with it."""

    def work(connection: Connection) -> None:
        now_ms = rig.clock.now_ms()
        event_id = append_event(connection, upload.id, EventKind.FINALIZED, now_ms)
        queue_delivery(connection, upload.id, event_id, URL, payload, now_ms)

    rig.ledger.transactions.write(work)


def claim(rig: Rig, at_most: int = 10) -> list[tuple[DeliveryRecord, Lease]]:
    return rig.ledger.outbox.claim_due(rig.clock.now_ms(), at_most, rig.clock.monotonic)


def payloads(claimed: list[tuple[DeliveryRecord, Lease]]) -> list[str]:
    return [delivery.payload for delivery, _ in claimed]


def record(
    rig: Rig,
    claimed: tuple[DeliveryRecord, Lease],
    *,
    delivered: bool = False,
    next_due_at_ms: int | None = None,
) -> None:
    rig.ledger.outbox.record_attempt(
        *claimed,
        now_ms=rig.clock.now_ms(),
        status_code=200 if delivered else 503,
        response_body="answer",
        error=None if delivered else "no",
        next_due_at_ms=next_due_at_ms,
        delivered=delivered,
    )


@pytest.fixture
def other(database: Database, rig: Rig) -> Rig:
    """Another process's view of the same ledger."""
    return Rig(database.ledger(), rig.storage, rig.clock)


# Events


def test_an_event_exists_only_if_its_change_does(
    ledger: Ledger, database: Database, upload: UploadRecord
) -> None:
    before = database.rows(events)

    def work(connection: Connection) -> None:
        append_event(connection, upload.id, EventKind.FINALIZED, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ledger.transactions.write(work)
    assert database.rows(events) == before


def test_an_event_has_an_id_that_grows(ledger: Ledger, upload: UploadRecord) -> None:
    ids = [
        ledger.transactions.write(
            lambda tx: append_event(tx, upload.id, EventKind.PROCESSING_FAILED, 1, "why")
        )
        for _ in range(3)
    ]
    assert ids == sorted(set(ids))


def test_what_happens_once_is_recorded_once(rig: Rig, upload: UploadRecord) -> None:
    for _ in range(2):
        rig.ledger.transactions.write(
            lambda tx: append_event_once(tx, upload.id, EventKind.COMPLETED, 1)
        )
    assert rig.events(upload) == ["created", "completed"]


# Claiming


def test_a_queued_delivery_is_due_at_once(rig: Rig, upload: UploadRecord) -> None:
    queue(rig, upload, '{"name": "ö"}')
    ((delivery, lease),) = claim(rig)
    assert delivery == DeliveryRecord(delivery.id, upload.id, URL, '{"name": "ö"}', None, 0)
    assert lease.upload_id == upload.id


def test_nothing_due_costs_no_write(rig: Rig, database: Database, upload: UploadRecord) -> None:
    assert claim(rig) == []
    assert database.rows(leases) == []


def test_deliveries_are_claimed_oldest_first_and_not_more_than_wanted(
    rig: Rig, upload: UploadRecord, clock: FakeClock
) -> None:
    for number in range(4):
        queue(rig, upload, str(number))
        clock.advance(1)
    assert payloads(claim(rig, 3)) == ["0", "1", "2"]
    assert payloads(claim(rig, 3)) == ["3"]
    assert claim(rig, 3) == []


def test_a_claimed_delivery_is_nobody_elses(rig: Rig, other: Rig, upload: UploadRecord) -> None:
    queue(rig, upload)
    claim(rig)
    assert claim(other) == []


def test_those_that_others_send_hide_none_that_are_due(
    rig: Rig, other: Rig, upload: UploadRecord
) -> None:
    for number in range(4):
        queue(rig, upload, str(number))
    assert payloads(claim(rig, 2)) == ["0", "1"]
    assert payloads(claim(other, 2)) == ["2", "3"]


def test_a_delivery_whose_sender_hangs_is_claimed_when_its_lease_runs_out(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    queue(rig, upload)
    claim(rig)
    database.age_leases(LEASE_MS / 1000)
    assert len(claim(other)) == 1


def test_a_delivery_whose_sender_died_is_claimed_at_once(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    queue(rig, upload)
    peer = start_peer(database)
    rig.clock = Clock()  # the peer's
    assert len(peer.do("claim_deliveries", 10)) == 1
    assert claim(rig) == []
    peer.kill()
    assert len(claim(rig)) == 1


def test_a_delivery_of_a_subscription_has_its_secret(
    rig: Rig, upload: UploadRecord, database: Database
) -> None:
    queue(rig, upload)
    with database.by_hand.begin() as connection:
        connection.execute(
            webhooks.insert().values(
                name="all", url=URL, secret="s3cret", kinds=["finalized"], created_at_ms=1
            )
        )
    (hook,) = database.rows(webhooks)
    database.change(deliveries, webhook_id=hook.id)
    ((delivery, lease),) = claim(rig)
    assert delivery.secret == "s3cret"
    rig.ledger.leases.release(lease)
    with database.by_hand.begin() as connection:
        connection.execute(webhooks.delete())
    ((delivery, lease),) = claim(rig)
    assert delivery.secret is None


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_delivery_that_ends_while_another_claims_it_is_not_sent_again(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    queue(rig, upload)
    (claimed,) = claim(rig)
    sent = lambda: record(rig, claimed, delivered=True)  # noqa: E731
    database.before(other.ledger, "INSERT INTO leases", sent)
    assert claim(other) == []
    assert database.rows(leases) == []


# Outcomes


def test_a_delivered_one_is_done(rig: Rig, upload: UploadRecord, database: Database) -> None:
    queue(rig, upload)
    (claimed,) = claim(rig)
    record(rig, claimed, delivered=True)
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts, row.status_code) == (DELIVERED, 1, 200)
    assert (row.response_body, row.error) == ("answer", None)
    assert row.finished_at_ms == rig.clock.now_ms()
    assert database.rows(leases) == []
    assert claim(rig) == []


def test_one_that_failed_is_due_when_it_was_said(
    rig: Rig, upload: UploadRecord, database: Database, clock: FakeClock
) -> None:
    queue(rig, upload)
    (claimed,) = claim(rig)
    record(rig, claimed, next_due_at_ms=clock.now_ms() + 1000)
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts, row.status_code, row.error) == (PENDING, 1, 503, "no")
    assert row.finished_at_ms is None
    clock.advance(0.999)
    assert claim(rig) == []
    clock.advance(0.001)
    ((again, _),) = claim(rig)
    assert again.attempts == 1


def test_one_that_is_given_up_is_not_tried_again(
    rig: Rig, upload: UploadRecord, database: Database, clock: FakeClock
) -> None:
    queue(rig, upload)
    (claimed,) = claim(rig)
    record(rig, claimed)
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts) == (FAILED, 1)
    assert row.finished_at_ms == clock.now_ms()
    clock.advance(10**6)
    assert claim(rig) == []


def test_the_failure_of_an_overtaken_sender_does_not_count(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    queue(rig, upload)
    (slow,) = claim(rig)
    database.age_leases(LEASE_MS / 1000)
    (quick,) = claim(other)
    record(rig, slow)
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts) == (PENDING, 0)
    record(other, quick, delivered=True)
    record(rig, slow)
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts) == (DELIVERED, 1)


def test_the_success_of_an_overtaken_sender_spares_the_receiver_another(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    queue(rig, upload)
    (slow,) = claim(rig)
    database.age_leases(LEASE_MS / 1000)
    (quick,) = claim(other)
    record(rig, slow, delivered=True)
    record(other, quick)
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts, row.status_code) == (DELIVERED, 1, 200)
    assert claim(other) == []
