"""Webhooks reach a real receiver, on schedule, once, and their outcome is on record."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Barrier, Thread

import pytest

from app.jobs.outbound import OutboundClient
from app.jobs.webhooks import AT_ONCE, WebhookSender
from app.ledger.models import deliveries, leases, webhooks
from app.ledger.records import UploadRecord
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.peer import Peer
from tests.harness.ports import free_port
from tests.harness.receiver import receiving
from tests.harness.rig import Rig

StartPeer = Callable[..., Peer]


#: Made once: reading the system's certificates takes a while.
CLIENT = OutboundClient(True, version="0")


def sender(rig: Rig) -> WebhookSender:
    return WebhookSender(rig.ledger, rig.clock, CLIENT)


def finished(rig: Rig, url: str) -> UploadRecord:
    """Finalize an upload that wants its webhook at ``url``."""
    upload = rig.queue(webhook_url=url)
    assert rig.finalize()
    return rig.record(upload.id)


def send_due(rig: Rig) -> int:
    """Send what is due; return how much that was."""
    sending = sender(rig)
    claimed = sending.claim(AT_ONCE)
    for claim in claimed:
        sending.send(*claim)
    return len(claimed)


def test_a_finished_upload_is_announced(rig: Rig, database: Database) -> None:
    with receiving() as receiver:
        upload = finished(rig, receiver.url)
        assert send_due(rig) == 1
        call = receiver.next_call()
    assert call.headers["content-type"] == "application/json"
    assert call.document["event"] == "upload.complete"
    assert call.document["file_id"] == upload.id
    assert call.document["total_size"] == upload.length
    assert call.document["final_path"] == rig.storage.location(upload.final_key or "")
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts, row.status_code) == ("delivered", 1, 200)
    assert (row.response_body, row.error) == ("answer", None)
    assert row.upload_id == upload.id
    assert database.rows(leases) == []


def test_an_upload_without_a_webhook_is_announced_to_nobody(rig: Rig, database: Database) -> None:
    rig.queue()
    rig.finalize()
    assert database.rows(deliveries) == []


def test_a_failed_delivery_is_tried_again_after_one_second_and_after_four(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    with receiving(lambda _: 500) as receiver:
        finished(rig, receiver.url)
        for pause_seconds, attempts in ((1, 1), (4, 2)):
            assert send_due(rig) == 1
            (row,) = database.rows(deliveries)
            assert (row.state, row.attempts, row.status_code) == ("pending", attempts, 500)
            assert "answered 500" in row.error
            clock.advance(pause_seconds - 0.001)
            assert send_due(rig) == 0
            clock.advance(0.001)
        assert send_due(rig) == 1
        assert [receiver.next_call() for _ in range(3)]
        clock.advance(10**6)
        assert send_due(rig) == 0
        assert not receiver.has_more
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts, row.status_code) == ("failed", 3, 500)
    assert row.response_body == "answer"
    assert row.finished_at_ms is not None


def test_a_delivery_that_succeeds_at_last_is_not_sent_again(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    with receiving(lambda number: 503 if number < 2 else 204) as receiver:
        finished(rig, receiver.url)
        for pause_seconds in (1, 4, 10**6):
            assert send_due(rig) == 1
            clock.advance(pause_seconds)
            if database.rows(deliveries)[0].state == "delivered":
                break
        assert send_due(rig) == 0
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts, row.status_code, row.error) == ("delivered", 3, 204, None)


def test_a_receiver_that_is_not_there_is_on_record(rig: Rig, database: Database) -> None:
    finished(rig, f"http://127.0.0.1:{free_port()}/")
    send_due(rig)
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts, row.status_code) == ("pending", 1, None)
    assert "refused" in row.error


def test_a_subscriptions_secret_signs_its_deliveries(rig: Rig, database: Database) -> None:
    with receiving() as receiver:
        finished(rig, receiver.url)
        with database.by_hand.begin() as connection:
            connection.execute(
                webhooks.insert().values(
                    name="all", url=receiver.url, secret="s3cret", kinds=[], created_at_ms=1
                )
            )
        database.change(deliveries, webhook_id=database.rows(webhooks)[0].id)
        send_due(rig)
        assert receiver.next_call().headers["x-hub-signature-256"].startswith("sha256=")


def test_a_file_name_of_any_script_arrives(rig: Rig) -> None:
    with receiving() as receiver:
        upload = rig.queue(webhook_url=receiver.url, filename="фильм «1».mp4")
        rig.finalize()
        send_due(rig)
        document = receiver.next_call().document
    assert (document["file_id"], document["filename"]) == (upload.id, "фильм «1».mp4")


def test_two_runners_never_send_the_same_delivery(rig: Rig, database: Database) -> None:
    count = 12
    with receiving() as receiver:
        for _ in range(count):
            finished(rig, receiver.url)
        rigs = [rig, Rig(database.ledger(), rig.storage, rig.clock)]
        _send_at_once(rigs)
        calls = [receiver.next_call() for _ in range(count)]
        assert not receiver.has_more
    assert len({json.dumps(call.document) for call in calls}) == count
    assert {row.state for row in database.rows(deliveries)} == {"delivered"}


def _send_at_once(rigs: list[Rig]) -> None:
    barrier = Barrier(len(rigs))

    def send_all(rig: Rig) -> None:
        sending = sender(rig)
        barrier.wait()
        while claimed := sending.claim(2):
            for claim in claimed:
                sending.send(*claim)

    threads = [Thread(target=send_all, args=(rig,)) for rig in rigs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_restart_goes_on_where_the_dead_process_was(
    rig: Rig, database: Database, start_peer: StartPeer, clock: FakeClock
) -> None:
    with receiving(lambda number: 500 if number == 0 else 200) as receiver:
        finished(rig, receiver.url)
        assert send_due(rig) == 1  # fails
        clock.advance(1)
        database.change(deliveries, due_at_ms=1)  # by the peer's clock, too
        peer: Peer = start_peer(database)
        assert len(peer.do("claim_deliveries", 10)) == 1
        assert send_due(rig) == 0
        peer.kill()
        assert send_due(rig) == 1
        assert len([receiver.next_call() for _ in range(2)]) == 2
    (row,) = database.rows(deliveries)
    assert (row.state, row.attempts) == ("delivered", 2)


def test_a_sender_that_breaks_gives_its_delivery_back(
    rig: Rig, database: Database, clock: FakeClock
) -> None:
    finished(rig, f"http://127.0.0.1:{free_port()}/")
    sending = sender(rig)
    (claim,) = sending.claim(1)
    database.change(deliveries, state="unheard of")  # nothing is pending any more
    sending.send(*claim)
    assert database.rows(leases) == []
    with pytest.raises(AttributeError):
        sending.send(None, claim[1])  # type: ignore[arg-type]
