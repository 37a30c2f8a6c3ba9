"""The runner starts what is due, alone or beside others, and stops in good order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.domain.states import State
from app.ingest.drain import Drain
from app.jobs import runner as module
from app.jobs.outbound import OutboundClient
from app.jobs.runner import Runner
from app.jobs.webhooks import WebhookSender
from app.ledger.database import Ledger
from app.ledger.leases import Lease, Leases
from app.ledger.models import deliveries, leases, uploads
from app.ledger.records import UploadRecord
from app.native_threads import in_native_thread
from app.storage.base import Progress, StagedObject
from app.storage.memory import MemoryStorage
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.peer import Peer
from tests.harness.receiver import receiving
from tests.harness.rig import PART_BYTES, TTL_SECONDS, Rig

PATIENCE_SECONDS = 15.0

#: Between two looks of a runner, where a test does not want to wait for a poll.
QUICK_SECONDS = 0.01

#: Made once: reading the system's certificates takes a while.
CLIENT = OutboundClient(True, version="0")

CONTENT = random.randbytes(PART_BYTES)

StartPeer = Callable[..., Peer]


class Gate(MemoryStorage):
    """A storage whose publishing can be held up.

    ``publishing`` counts by appending: in a patched process a semaphore that native
    threads release hangs sooner or later.
    """

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.opened.set()
        self.publishing: list[None] = []

    def publish(
        self, staged: StagedObject, receipts: Mapping[int, str | None], on_progress: Progress
    ) -> str:
        self.publishing.append(None)
        while not self.opened.is_set():  # in a native thread, where no gevent event may block
            time.sleep(0.001)
        return super().publish(staged, receipts, on_progress)


class Running:
    """A runner at work in a thread of its own."""

    def __init__(self, rig: Rig, cleanup_interval_seconds: float = 3600) -> None:
        self.drain = Drain(30)
        self.runner = Runner(
            rig.ledger,
            rig.finalizer,
            rig.sweeper,
            WebhookSender(rig.ledger, rig.clock, CLIENT),
            self.drain,
            cleanup_interval_seconds,
        )
        self.thread = threading.Thread(target=self.runner.run, name="running", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.runner.stop()
        self.join()

    def join(self) -> None:
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive()


@pytest.fixture
def storage() -> Gate:
    return Gate()


@pytest.fixture
def rig(ledger: Ledger, storage: Gate, clock: FakeClock) -> Rig:
    return Rig(ledger, storage, clock, max_concurrent_finalizations=2)


@pytest.fixture
def start(rig: Rig) -> Iterator[Callable[..., Running]]:
    """Start runners that are stopped after the test."""
    started: list[Running] = []

    def start(of: Rig = rig, **options: float) -> Running:
        started.append(Running(of, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runners look often."""
    monkeypatch.setattr(module, "POLL_SECONDS", QUICK_SECONDS)


Start = Callable[..., Running]


def wait_until(fact: Callable[[], object]) -> None:
    """Wait for what a runner's threads do; the deadline makes a hang a failure."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not fact():
        assert time.monotonic() < give_up_at, "it never happened"
        time.sleep(0.005)


def wait_for_state(rig: Rig, upload: UploadRecord, state: State) -> None:
    wait_until(lambda: rig.state(upload) is state)


def test_what_was_left_open_in_case_more_came_is_finalized_when_nothing_does(
    rig: Rig, start: Start, database: Database, quick: None
) -> None:
    upload = rig.fill(CONTENT)
    database.change(uploads, due_at_ms=rig.clock.now_ms())
    start()
    wait_for_state(rig, upload, State.COMPLETE)
    assert rig.events(upload).count("completed") == 1


def test_what_is_queued_is_finalized_at_once_when_the_runner_is_woken(
    rig: Rig, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", PATIENCE_SECONDS)  # a poll would be too late
    running = start()
    for _ in range(3):
        upload = rig.queue(CONTENT)
        running.runner.wake()
        wait_for_state(rig, upload, State.COMPLETE)


def test_what_another_process_queued_is_found_by_looking(
    rig: Rig, start: Start, quick: None
) -> None:
    start()
    wait_for_state(rig, rig.queue(CONTENT), State.COMPLETE)


def test_what_was_queued_before_the_start_is_finalized(rig: Rig, start: Start) -> None:
    queued = [rig.queue(CONTENT) for _ in range(5)]
    start()
    for upload in queued:
        wait_for_state(rig, upload, State.COMPLETE)


def test_what_a_dead_process_was_finalizing_is_resumed_at_the_start(
    ledger: Ledger, database: Database, start: Start, start_peer: StartPeer, rig: Rig
) -> None:
    upload = rig.queue(CONTENT)
    peer = start_peer(database)
    database.change(uploads, root_id=peer.do("root_id"))
    assert peer.do("claim_finalizing", 1) == upload.id
    peer.kill()
    database.change(uploads, root_id=rig.storage.root_id)
    start()
    wait_for_state(rig, upload, State.COMPLETE)


def test_not_more_run_at_a_time_than_allowed(
    rig: Rig, storage: Gate, start: Start, quick: None, database: Database
) -> None:
    storage.opened.clear()
    queued = [rig.queue(CONTENT) for _ in range(4)]
    other = Rig(database.ledger(), storage, rig.clock, max_concurrent_finalizations=2)
    start()
    start(other)
    wait_until(lambda: len(storage.publishing) >= 2)
    assert rig.ledger.finalizing.running() == 2
    assert not other.finalize()
    assert len(storage.publishing) == 2
    storage.opened.set()
    for upload in queued:
        wait_for_state(rig, upload, State.COMPLETE)
    assert sum(rig.events(upload).count("finalized") for upload in queued) == 4


def test_a_runner_that_is_stopped_finishes_what_it_has_begun(
    rig: Rig, storage: Gate, start: Start
) -> None:
    storage.opened.clear()
    upload = rig.queue(CONTENT)
    running = start()
    wait_until(lambda: storage.publishing)
    running.runner.stop()
    late = rig.queue(CONTENT)
    running.runner.wake()
    storage.opened.set()
    running.join()
    assert rig.state(upload) is State.COMPLETE
    assert rig.state(late) is State.FINALIZING


def test_a_process_that_is_draining_begins_nothing_more(
    rig: Rig, start: Start, quick: None
) -> None:
    running = start()
    running.drain.begin()
    running.join()
    upload = rig.queue(CONTENT)
    running.runner.wake()
    assert rig.state(upload) is State.FINALIZING


def test_webhooks_are_sent(rig: Rig, start: Start, quick: None, database: Database) -> None:
    with receiving() as receiver:
        start()
        upload = rig.queue(CONTENT, webhook_url=receiver.url)
        assert receiver.next_call().document["file_id"] == upload.id
        wait_until(lambda: database.rows(deliveries)[0].state == "delivered")


def test_a_slow_receiver_does_not_hold_up_the_others(
    rig: Rig, start: Start, quick: None, database: Database
) -> None:
    answered = threading.Event()

    def answer_late(_: int) -> int:
        answered.wait(PATIENCE_SECONDS)
        return 200

    with receiving(answer_late) as slow, receiving() as brisk:
        rig.queue(CONTENT, webhook_url=slow.url)
        rig.finalize()
        rig.queue(CONTENT, webhook_url=brisk.url)
        rig.finalize()
        start()
        slow.next_call()
        brisk.next_call()
        answered.set()
        wait_until(lambda: {row.state for row in database.rows(deliveries)} == {"delivered"})


def test_what_has_ended_is_swept_again_and_again(
    rig: Rig, start: Start, clock: FakeClock, quick: None
) -> None:
    start(cleanup_interval_seconds=QUICK_SECONDS)
    for _ in range(2):
        upload = rig.create()
        clock.advance(TTL_SECONDS)
        wait_for_state(rig, upload, State.EXPIRED)


def test_leases_of_the_dead_are_freed_at_the_start(
    rig: Rig, start: Start, database: Database, start_peer: StartPeer
) -> None:
    upload = rig.create()
    peer = start_peer(database)
    assert peer.do("claim_part", upload.id, 0)
    peer.kill()
    start()
    wait_until(lambda: database.rows(leases) == [])


def test_a_ledger_that_fails_for_a_while_does_not_end_the_runner(
    rig: Rig, start: Start, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are away, which no code expects; then they are back."""
    with capture_logs() as log:
        upload = rig.queue(CONTENT)
        rename(rig, "uploads", "elsewhere")
        start(cleanup_interval_seconds=QUICK_SECONDS)
        troubled = {"job.postponed", "job.bug"}
        wait_until(lambda: troubled & {line["event"] for line in log})
        rename(rig, "elsewhere", "uploads")
        wait_for_state(rig, upload, State.COMPLETE)


def rename(rig: Rig, table: str, name: str) -> None:
    rig.ledger.transactions.write(
        lambda tx: tx.exec_driver_sql(f"ALTER TABLE {table} RENAME TO {name}")
    )


def test_a_failure_in_a_finalizing_thread_is_logged_and_its_place_is_free_again(
    rig: Rig, start: Start, quick: None, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    rig.queue(CONTENT)

    def break_down(*_: object) -> None:
        raise ZeroDivisionError

    with capture_logs() as log, monkeypatch.context() as broken:
        broken.setattr(rig.finalizer, "finalize", break_down)
        start()
        wait_until(lambda: "job.bug" in [line["event"] for line in log])
    wait_for_state(rig, rig.queue(CONTENT), State.COMPLETE)


def test_what_is_claimed_by_a_native_thread_is_held_by_none(
    ledger: Ledger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a patched process a native thread records the last byte; what renews is gevent's."""
    rig = Rig(ledger, MemoryStorage(), clock)
    held: list[tuple[str, bool]] = []
    recorded: list[bool] = []
    hold, end = Leases.hold, Leases.end

    def holding(self: Leases, upload_id: str, key: str, *arguments: Any) -> Lease:
        held.append((key, in_native_thread()))
        return hold(self, upload_id, key, *arguments)

    def ending(self: Leases, *arguments: Any) -> bool:
        recorded.append(in_native_thread())
        return end(self, *arguments)

    monkeypatch.setattr(Leases, "hold", holding)
    monkeypatch.setattr(Leases, "end", ending)
    handed: list[UploadRecord] = []
    rig.service.jobs.finalize = lambda upload, _lease: handed.append(upload)
    upload = rig.create_appended(CONTENT, len(CONTENT))
    # On PostgreSQL the runner claims it, later.
    claimed = [upload.id] if ledger.leases.on_sqlite else []
    assert [made.id for made in handed] == claimed
    assert held[:2] == [("create", False), ("append", False)]
    assert held[2:] == [("finalize", False) for _ in claimed]
    assert recorded[-1] is ledger.transactions.from_native_threads
