"""Finalizing: from all parts received to one file under its name, through every kind of trouble."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.domain.parts import received_parts
from app.domain.states import State
from app.errors import LonghaulError, PartsLost, StorageFull, StorageUnavailable
from app.jobs import finalize
from app.ledger.database import Ledger
from app.ledger.leases import LEASE_MS, Lease
from app.ledger.models import bitmap, deliveries, events, leases, receipts, uploads
from app.ledger.records import UploadRecord
from app.storage.base import Progress, StagedObject, Storage
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.uploads.staging import staged_object
from tests.harness.clock import FakeClock
from tests.harness.databases import Database, forget_leases
from tests.harness.peer import Peer
from tests.harness.rig import PART_BYTES, TTL_SECONDS, Rig

#: How long a test waits for what a thread does about once a second.
PATIENCE_SECONDS = 10.0

CONTENT = random.randbytes(2 * PART_BYTES + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
WRONG_SHA256 = hashlib.sha256(b"something else").hexdigest()

StartPeer = Callable[..., Peer]


@pytest.fixture
def rig(ledger: Ledger, storage: Storage, clock: FakeClock) -> Rig:
    """Ledger and jobs on each kind of storage."""
    return Rig(ledger, storage, clock)


class Meddler(MemoryStorage):
    """A storage where something happens while it publishes or discards an object."""

    capabilities = replace(MemoryStorage.capabilities, publishing_moves_no_bytes=False)

    def __init__(self) -> None:
        super().__init__()
        self.before_publish: Callable[[Progress], None] = lambda _: None
        self.after_publish: Callable[[], None] = lambda: None
        self.before_discard: Callable[[], None] = lambda: None

    def publish(
        self, staged: StagedObject, receipts: Mapping[int, str | None], on_progress: Progress
    ) -> str:
        self.before_publish(on_progress)
        key = super().publish(staged, receipts, on_progress)
        self.after_publish()
        return key

    def discard(self, staged: StagedObject) -> None:
        self.before_discard()
        super().discard(staged)


@pytest.fixture
def meddler() -> Meddler:
    return Meddler()


@pytest.fixture
def meddled(ledger: Ledger, meddler: Meddler, clock: FakeClock) -> Rig:
    """Ledger and jobs on a storage where something happens."""
    return Rig(ledger, meddler, clock)


def raising(error: Exception) -> Callable[..., None]:
    def meddle(*_: object) -> None:
        raise error

    return meddle


class Outage:
    """Puts a storage out of reach until it is ended."""

    def __init__(self, storage: Storage, root: Path) -> None:
        self._storage, self._root = storage, root
        self._away = root.with_name("unplugged")
        if isinstance(storage, MemoryStorage):
            storage.available = False
        else:
            root.rename(self._away)

    def end(self) -> None:
        if isinstance(self._storage, MemoryStorage):
            self._storage.available = True
        else:
            self._away.rename(self._root)


def assert_finished(rig: Rig, upload: UploadRecord, content: bytes = CONTENT) -> None:
    """Fail unless an upload is complete, stored whole, and nothing else is left of it."""
    done = rig.record(upload.id)
    assert done.state is State.COMPLETE
    assert rig.read(done.final_key) == content
    assert done.staging_key is None
    assert not rig.is_staged(upload)
    assert (done.error, done.due_at_ms) == (None, None)
    assert done.progress_bytes == len(content)
    happened = rig.events(upload)
    assert happened.count("completed") == 1
    assert happened.count("finalized") == 1


# All is well


def test_a_full_upload_becomes_one_file_under_its_name(
    rig: Rig, database: Database, clock: FakeClock
) -> None:
    upload = rig.queue(CONTENT, filename="videos/2024/movie.mp4")
    assert rig.is_staged(upload)
    clock.advance(5)
    assert rig.finalize()
    assert_finished(rig, upload)
    done = rig.record(upload.id)
    assert done.final_key == f"videos/2024/{upload.id}_movie.mp4"
    assert done.completed_at_ms == clock.now_ms()
    assert rig.events(upload) == ["created", "completed", "processing_started", "finalized"]
    assert database.rows(leases) == []


def test_an_empty_file_is_a_file(rig: Rig) -> None:
    upload = rig.queue(b"")
    assert rig.finalize()
    assert_finished(rig, upload, b"")


def test_what_was_promised_is_compared_with_the_whole_file(rig: Rig) -> None:
    upload = rig.queue(CONTENT, checksum_sha256=SHA256)
    assert rig.finalize()
    assert_finished(rig, upload)


def test_bytes_that_nobody_acknowledged_do_not_count(rig: Rig) -> None:
    """A request that was killed after writing and before recording leaves them."""
    upload = rig.queue(CONTENT, checksum_sha256=SHA256)
    with rig.storage.writer(staged_object(upload), 9, len(CONTENT), 3) as writer:
        writer.write(memoryview(b"xyz"))
        writer.commit(durable=False)
    assert rig.finalize()
    assert_finished(rig, upload)


def test_a_large_file_is_verified_in_several_goes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finalize, "VERIFY_BYTES", 500)
    monkeypatch.setattr(finalize, "_READ_BYTES", 100)
    upload = rig.queue(CONTENT, checksum_sha256=SHA256)
    assert rig.finalize()
    assert_finished(rig, upload)


def test_what_has_been_due_longest_comes_first(rig: Rig, clock: FakeClock) -> None:
    queued = []
    for _ in range(3):
        queued.append(rig.queue(CONTENT))
        clock.advance(1)
    for upload in queued:
        assert rig.finalize()
        assert rig.state(upload) is State.COMPLETE
    assert not rig.finalize()


def test_nothing_to_do_costs_no_write(rig: Rig, database: Database) -> None:
    rig.fill(CONTENT)
    assert not rig.finalize()
    assert database.rows(leases) == []


def test_a_webhook_is_queued_with_the_end(rig: Rig, database: Database) -> None:
    upload = rig.queue(CONTENT, webhook_url="https://example.com/hook")
    rig.finalize()
    (row,) = database.rows(deliveries)
    assert (row.upload_id, row.url, row.state) == (upload.id, "https://example.com/hook", "pending")
    assert rig.storage.location(rig.record(upload.id).final_key or "") in row.payload


def test_uploads_of_another_root_are_left_to_those_who_have_it(
    rig: Rig, database: Database
) -> None:
    upload = rig.queue(CONTENT)
    database.change(uploads, root_id="another root")
    assert not rig.finalize()
    assert rig.state(upload) is State.FINALIZING


# What no retry heals


def test_a_wrong_checksum_fails_and_everything_is_kept(
    rig: Rig, database: Database, clock: FakeClock
) -> None:
    upload = rig.queue(CONTENT, checksum_sha256=WRONG_SHA256)
    clock.advance(TTL_SECONDS - 1)
    rig.finalize()
    failed = rig.record(upload.id)
    assert failed.state is State.FAILED
    assert SHA256 in (failed.error or "")
    assert WRONG_SHA256 in (failed.error or "")
    assert failed.expires_at_ms == clock.now_ms() + TTL_SECONDS * 1000
    assert failed.received == failed.part_count
    assert rig.is_staged(upload)
    assert not rig.has(upload.target_key)
    assert rig.events(upload)[-2:] == ["processing_started", "processing_failed"]
    assert [row.message for row in database.rows(events)][-1] == failed.error
    assert database.rows(leases) == []
    assert not rig.finalize()


def test_an_expiry_that_is_later_is_not_moved_forward(rig: Rig, database: Database) -> None:
    upload = rig.queue(CONTENT, checksum_sha256=WRONG_SHA256)
    later_ms = rig.clock.now_ms() + 10 * int(TTL_SECONDS) * 1000
    database.change(uploads, expires_at_ms=later_ms)
    rig.finalize()
    assert rig.record(upload.id).expires_at_ms == later_ms


def test_what_has_failed_can_be_tried_again(rig: Rig, database: Database) -> None:
    upload = rig.queue(CONTENT, checksum_sha256=WRONG_SHA256)
    rig.finalize()
    database.change(uploads, checksum_sha256=SHA256)
    rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    rig.finalize()
    assert_finished(rig, upload)
    assert rig.events(upload)[2:] == [
        "processing_started",
        "processing_failed",
        "retry_queued",
        "processing_started",
        "finalized",
    ]


def test_a_name_that_is_taken_fails_and_overwrites_nothing(rig: Rig) -> None:
    upload, other = rig.queue(CONTENT), rig.create(4)
    same_name = StagedObject(other.id, 4, upload.target_key, other.root_id, other.staging_key)
    with rig.storage.writer(same_name, 0, 0, 4) as writer:
        writer.write(memoryview(b"mine"))
        writer.commit(durable=False)
    rig.storage.publish(same_name, {}, lambda *_: None)
    rig.finalize()
    failed = rig.record(upload.id)
    assert failed.state is State.FAILED
    assert "exists already" in (failed.error or "")
    assert rig.read(upload.target_key) == b"mine"
    assert rig.is_staged(upload)


# Lost parts


def test_an_upload_whose_bytes_are_gone_is_open_again_and_can_be_sent_anew(
    rig: Rig, database: Database, clock: FakeClock
) -> None:
    upload = rig.queue(CONTENT)
    rig.storage.discard(staged_object(upload))
    clock.advance(60)
    rig.finalize()
    again = rig.record(upload.id)
    assert (again.state, again.received, again.staging_key) == (State.OPEN, 0, None)
    assert "send the missing parts again" in (again.error or "")
    assert again.expires_at_ms == clock.now_ms() + TTL_SECONDS * 1000
    assert database.rows(bitmap) == []
    assert database.rows(receipts) == []
    assert database.rows(leases) == []
    for index in range(again.geometry.part_count):
        rig.put(again, index, CONTENT)
    rig.ledger.uploads.queue_finalize(upload.id, clock.now_ms())
    rig.finalize()
    assert_finished(rig, upload)


def test_a_promised_checksum_does_not_turn_lost_bytes_into_a_failure(rig: Rig) -> None:
    upload = rig.queue(CONTENT, checksum_sha256=SHA256)
    rig.storage.discard(staged_object(upload))
    rig.finalize()
    assert rig.state(upload) is State.OPEN


def test_a_file_that_was_cut_short_has_lost_parts(
    ledger: Ledger, local: LocalStorage, root: Path, clock: FakeClock
) -> None:
    rig = Rig(ledger, local, clock)
    for promised in (None, SHA256):
        upload = rig.queue(CONTENT, checksum_sha256=promised)
        assert upload.staging_key is not None
        with (root / upload.staging_key).open("r+b") as file:
            file.truncate(len(CONTENT) - 1)
        rig.finalize()
        assert rig.state(upload) is State.OPEN


def test_only_lost_parts_are_asked_for_again(meddled: Rig, meddler: Meddler) -> None:
    rig, upload = meddled, meddled.queue(CONTENT)
    meddler.before_publish = raising(PartsLost([1]))
    rig.finalize()
    again = rig.record(upload.id)
    assert (again.state, again.received) == (State.OPEN, 2)
    assert again.staging_key == upload.staging_key
    assert list(received_parts(rig.ledger.parts.words(upload.id))) == [0, 2]
    assert [found.part for found in rig.ledger.parts.receipts(upload.id)] == [0, 2]
    meddler.before_publish = lambda _: None
    rig.put(again, 1, CONTENT)
    rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    rig.finalize()
    assert_finished(rig, upload)


def test_a_count_is_not_believed_without_the_bits(rig: Rig, database: Database) -> None:
    upload = rig.queue(CONTENT)
    database.change(bitmap, bits=0b101)
    rig.finalize()
    again = rig.record(upload.id)
    assert (again.state, again.received) == (State.OPEN, 2)
    assert not rig.has(upload.target_key)


def test_an_upload_that_was_never_staged_is_not_stuck(rig: Rig, database: Database) -> None:
    upload = rig.queue(b"")
    rig.storage.discard(staged_object(upload))
    database.change(uploads, staging_key=None)
    rig.finalize()
    assert rig.state(upload) is State.OPEN
    rig.staging.ensure(rig.record(upload.id))
    rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    rig.finalize()
    assert_finished(rig, upload, b"")


# Trouble that passes


def test_while_the_storage_is_down_an_upload_waits_with_growing_pauses(
    rig: Rig, root: Path, clock: FakeClock, database: Database
) -> None:
    upload = rig.queue(CONTENT, checksum_sha256=SHA256)
    outage = Outage(rig.storage, root)
    for attempt, pause_seconds in enumerate((1, 2, 4, 8), start=1):
        assert rig.finalize()
        waiting = rig.record(upload.id)
        assert (waiting.state, waiting.attempts) == (State.FINALIZING, attempt)
        assert waiting.due_at_ms == clock.now_ms() + pause_seconds * 1000
        assert waiting.error
        assert str(root) not in waiting.error
        assert database.rows(leases) == []
        clock.advance(pause_seconds - 0.001)
        assert not rig.finalize()
        clock.advance(0.001)
    outage.end()
    assert rig.finalize()
    assert_finished(rig, upload)
    assert rig.events(upload) == ["created", "completed", "processing_started", "finalized"]


def test_an_outage_of_days_costs_nothing(rig: Rig, root: Path, clock: FakeClock) -> None:
    upload = rig.queue(CONTENT)
    outage = Outage(rig.storage, root)
    for _ in range(20):
        rig.finalize()
        clock.advance(finalize.MAX_BACKOFF_SECONDS)
    assert rig.record(upload.id).attempts == 20
    clock.advance(10 * TTL_SECONDS)
    outage.end()
    assert rig.sweep() == []
    rig.finalize()
    assert_finished(rig, upload)


def test_pauses_have_a_limit(rig: Rig, root: Path, clock: FakeClock, database: Database) -> None:
    upload = rig.queue(CONTENT)
    database.change(uploads, attempts=10_000)
    Outage(rig.storage, root)
    rig.finalize()
    assert rig.record(upload.id).due_at_ms == clock.now_ms() + 300_000


@pytest.mark.parametrize(
    "trouble",
    [StorageFull(), StorageUnavailable(), OSError("a vendor's"), ZeroDivisionError("a bug")],
    ids=lambda trouble: type(trouble).__name__,
)
def test_whatever_publishing_raises_the_upload_stays_due(
    meddled: Rig, meddler: Meddler, clock: FakeClock, trouble: Exception
) -> None:
    rig, upload = meddled, meddled.queue(CONTENT)
    meddler.before_publish = raising(trouble)
    with capture_logs() as log:
        rig.finalize()
    assert (rig.state(upload), rig.record(upload.id).attempts) == (State.FINALIZING, 1)
    is_bug = not isinstance(trouble, StorageFull | StorageUnavailable)
    assert ("finalize.bug" in [line["event"] for line in log]) is is_bug
    assert str(trouble) not in (rig.record(upload.id).error or "") or not is_bug
    meddler.before_publish = lambda _: None
    clock.advance(1)
    rig.finalize()
    assert_finished(rig, upload)


class BadSector(io.RawIOBase):
    """A file that can be opened and not read."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_a_disk_that_cannot_be_read_is_waited_for(
    meddled: Rig, meddler: Meddler, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, upload = meddled, meddled.queue(CONTENT, checksum_sha256=SHA256)
    with monkeypatch.context() as broken, capture_logs() as log:
        broken.setattr(meddler, "stat", lambda _: None)
        broken.setattr(meddler, "open", lambda _: io.BufferedReader(BadSector()))
        rig.finalize()
    assert "finalize.bug" not in [line["event"] for line in log]
    assert (rig.state(upload), rig.record(upload.id).attempts) == (State.FINALIZING, 1)
    clock.advance(1)
    rig.finalize()
    assert_finished(rig, upload)


@pytest.mark.parametrize("trouble", [StorageUnavailable(), StorageFull()])
def test_what_cannot_be_cleaned_is_left_to_the_sweeper(
    meddled: Rig, meddler: Meddler, trouble: LonghaulError
) -> None:
    rig, upload = meddled, meddled.queue(CONTENT)
    meddler.before_discard = raising(trouble)
    rig.finalize()
    done = rig.record(upload.id)
    assert (done.state, done.staging_key) == (State.COMPLETE, upload.staging_key)
    meddler.before_discard = lambda: None
    assert [swept.what for swept in rig.sweep()] == ["leftover"]
    assert_finished(rig, upload)


# Lost leases


def overtake(rig: Rig, database: Database) -> None:
    """Let a process's leases run out."""
    forget_leases(rig.ledger)
    database.age_leases(LEASE_MS / 1000)


def test_who_lost_the_lease_records_no_success(
    meddled: Rig, meddler: Meddler, database: Database
) -> None:
    rig = meddled
    upload = rig.queue(CONTENT, webhook_url="https://example.com/")
    meddler.after_publish = lambda: overtake(rig, database)
    before = rig.record(upload.id)
    rig.finalize()
    assert rig.record(upload.id) == before
    assert rig.events(upload)[-1] == "processing_started"
    assert database.rows(deliveries) == []
    meddler.after_publish = lambda: None
    other = Rig(database.ledger(), meddler, rig.clock)
    assert other.finalize()
    assert_finished(other, upload)
    assert len(database.rows(deliveries)) == 1


@pytest.mark.parametrize(
    "trouble",
    [PartsLost(), PartsLost([1]), StorageUnavailable(), ZeroDivisionError()],
    ids=["all lost", "one lost", "down", "bug"],
)
def test_who_lost_the_lease_records_no_trouble(
    meddled: Rig, meddler: Meddler, database: Database, trouble: Exception
) -> None:
    rig, upload = meddled, meddled.queue(CONTENT)

    def lose_lease_and_raise(_: Progress) -> None:
        overtake(rig, database)
        raise trouble

    meddler.before_publish = lose_lease_and_raise
    before, bits = rig.record(upload.id), database.rows(bitmap)
    rig.finalize()
    assert rig.record(upload.id) == before
    assert database.rows(bitmap) == bits


@pytest.mark.parametrize("promised", [None, SHA256], ids=["no checksum", "checksum"])
def test_who_knows_that_the_lease_is_lost_publishes_nothing(rig: Rig, promised: str | None) -> None:
    upload = rig.queue(CONTENT, checksum_sha256=promised)
    claimed = rig.finalizer.claim()
    assert claimed is not None
    claimed[1].renewed(rig.clock.monotonic() - 100)
    rig.finalizer.finalize(*claimed)
    assert rig.state(upload) is State.FINALIZING
    assert not rig.has(upload.target_key)


def test_what_was_finished_by_another_is_claimed_by_nobody(rig: Rig, database: Database) -> None:
    upload = rig.queue(CONTENT)
    other = Rig(database.ledger(), rig.storage, rig.clock)
    claimed = rig.finalizer.claim()
    assert claimed is not None
    assert not other.finalize()
    rig.finalizer.finalize(*claimed)
    assert not other.finalize()
    assert_finished(rig, upload)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_what_is_finished_while_another_claims_it_is_not_begun_again(
    meddled: Rig, database: Database
) -> None:
    rig, upload = meddled, meddled.queue(CONTENT)
    other = Rig(database.ledger(), rig.storage, rig.clock)
    claimed = rig.finalizer.claim()
    assert claimed is not None
    finish = lambda: rig.finalizer.finalize(*claimed)  # noqa: E731
    database.before(other.ledger, "INSERT INTO leases", finish)
    assert other.finalizer.claim() is None
    assert rig.events(upload) == ["created", "completed", "processing_started", "finalized"]
    assert database.rows(leases) == []


def test_a_frozen_runner_does_not_bring_back_what_was_deleted_meanwhile(
    database: Database, ledger: Ledger, local: LocalStorage, root: Path, start_peer: StartPeer
) -> None:
    rig = Rig(ledger, local, FakeClock())
    upload = rig.queue(CONTENT)
    peer = start_peer(database, root, stops=("publish",))
    peer.begin("finalize")
    peer.wait_for_stop()
    peer.freeze()
    database.age_leases(LEASE_MS / 1000)
    assert rig.finalize()
    assert_finished(rig, upload)
    rig.service.cancel(upload.id, sees=None)
    peer.thaw()
    peer.go_on()
    assert peer.outcome() is True
    deleted = rig.record(upload.id)
    assert (deleted.state, deleted.final_key) == (State.DELETED, None)
    assert list(root.rglob("*movie*")) == []


# Crashes


@pytest.mark.parametrize(
    "step",
    ["publish", "recording the final key", "discard", "forgetting the staging key"],
)
def test_after_a_crash_another_runner_goes_on_at_once(
    database: Database,
    ledger: Ledger,
    local: LocalStorage,
    root: Path,
    start_peer: StartPeer,
    step: str,
) -> None:
    rig = Rig(ledger, local, FakeClock())
    upload = rig.queue(CONTENT, checksum_sha256=SHA256, webhook_url="https://example.com/")
    peer = start_peer(database, root, stops=(step,))
    peer.begin("finalize")
    assert peer.wait_for_stop() == step
    assert rig.state(upload) is State.FINALIZING
    assert not rig.finalize()  # it lives
    peer.kill()
    assert rig.finalize()
    assert rig.sweep() == []
    assert_finished(rig, upload)
    assert len(database.rows(deliveries)) == 1
    assert database.rows(leases) == []


def test_a_file_is_never_seen_half(
    database: Database, ledger: Ledger, local: LocalStorage, root: Path, start_peer: StartPeer
) -> None:
    rig = Rig(ledger, local, FakeClock())
    upload = rig.queue(CONTENT)
    peer = start_peer(database, root, stops=("publish", "recording the final key"))
    peer.begin("finalize")
    peer.wait_for_stop()
    assert not (root / upload.target_key).exists()
    peer.go_on()
    peer.wait_for_stop()
    assert (root / upload.target_key).read_bytes() == CONTENT


# How many at a time


def test_not_more_are_finalized_at_a_time_than_allowed_by_all_processes_together(
    database: Database, ledger: Ledger, local: LocalStorage, root: Path, start_peer: StartPeer
) -> None:
    rig = Rig(ledger, local, FakeClock())
    queued = {rig.queue(CONTENT).id for _ in range(4)}
    first, second = start_peer(database, root), start_peer(database, root)
    claimed = {first.do("claim_finalizing", 2), second.do("claim_finalizing", 2)}
    assert len(claimed) == 2
    assert claimed < queued
    assert first.do("claim_finalizing", 2) is None
    assert second.do("claim_finalizing", 2) is None
    assert second.do("claim_finalizing", 3) in queued - claimed
    first.kill()  # its place is free at once
    assert second.do("claim_finalizing", 3) in queued


def test_two_that_claim_the_last_place_at_the_same_moment_do_not_both_get_it(
    database: Database, ledger: Ledger, local: LocalStorage, root: Path, start_peer: StartPeer
) -> None:
    rig = Rig(ledger, local, FakeClock())
    for _ in range(2):
        rig.queue(CONTENT)
    peers = [start_peer(database, root), start_peer(database, root)]
    for _ in range(20):
        for peer in peers:
            peer.begin("claim_finalizing", 1)
        claimed = [peer.outcome() for peer in peers]
        assert claimed.count(None) == 1
        for peer in peers:
            peer.do("release_all")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_who_counts_places_while_another_takes_the_last_one_waits_for_it(
    meddled: Rig, database: Database
) -> None:
    rig = meddled
    for _ in range(2):
        rig.queue(CONTENT)
    other = database.ledger()
    claimed: list[object] = []

    def claim() -> None:
        due_ms, root_ids = rig.clock.now_ms(), rig.storage.root_ids
        claimed.append(rig.ledger.finalizing.claim_next(due_ms, 1, root_ids, rig.clock.monotonic))

    second = threading.Thread(target=claim)

    def begin_second() -> None:
        second.start()
        while second.is_alive() and not database.has_waiting_locks():
            time.sleep(0.005)

    database.before(other, "INSERT INTO leases", begin_second)
    first = other.finalizing.claim_next(
        rig.clock.now_ms(), 1, rig.storage.root_ids, rig.clock.monotonic
    )
    second.join(PATIENCE_SECONDS)
    assert first is not None
    assert claimed == [None]


# Progress


def test_progress_is_the_bytes_that_were_moved(meddled: Rig, meddler: Meddler) -> None:
    rig, upload = meddled, meddled.queue(CONTENT)
    seen: list[int] = []

    def move(on_progress: Progress) -> None:
        for moved in (700, 1400):
            on_progress(moved, len(CONTENT))
            give_up_at = time.monotonic() + PATIENCE_SECONDS
            while rig.record(upload.id).progress_bytes != moved:
                assert time.monotonic() < give_up_at
                time.sleep(0.01)
            seen.append(moved)

    meddler.before_publish = move
    assert rig.record(upload.id).progress_bytes == 0
    rig.finalize()
    assert seen == [700, 1400]
    assert_finished(rig, upload)


def test_progress_of_who_lost_the_lease_is_not_recorded(rig: Rig, database: Database) -> None:
    upload = rig.queue(CONTENT)
    claimed = rig.finalizer.claim()
    assert claimed is not None
    overtake(rig, database)
    lease: Lease = claimed[1]
    with pytest.raises(Exception, match="overtaken"):
        rig.ledger.finalizing.record_progress(lease, 5)
    assert rig.record(upload.id).progress_bytes == 0
