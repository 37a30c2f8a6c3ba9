"""Uploads in the ledger: created where there is room, moved on by one winner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.states import TRANSITIONS, State, check
from app.errors import (
    LeaseLost,
    PartsMissing,
    StorageFull,
    UploadLocked,
    UploadNotFound,
    UploadNotOpen,
)
from app.ledger.leases import CREATE, LEASE_MS, Lease
from app.ledger.models import events, leases, receipts, uploads
from app.ledger.records import NewUpload, ReceiptRecord, UploadRecord
from app.ledger.uploads import transition
from app.uploads.staging import WAIT_SECONDS, staged_object
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.peer import Peer
from tests.harness.races import at_once
from tests.harness.rig import PART_BYTES, TTL_SECONDS, Rig

ENDED = [State.CANCELLED, State.EXPIRED, State.DELETED]

StartPeer = Callable[..., Peer]


def new(rig: Rig, upload_id: str = "one", length: int = 3 * PART_BYTES) -> NewUpload:
    """Return an upload that nobody has created yet."""
    return NewUpload(
        id=upload_id,
        protocol="native",
        owner="alice",
        filename="фильм.mp4",
        directory="videos/2024",
        length=length,
        part_size=PART_BYTES,
        part_count=-(-length // PART_BYTES),
        content_type="video/mp4",
        details={"colour": "blue", "sizes": [1, None]},
        checksum_sha256="ab" * 32,
        webhook_url="https://example.com/hook",
        storage_backend=rig.storage.backend,
        root_id=rig.storage.root_id,
        target_key=f"videos/2024/{upload_id}_movie.mp4",
        created_at_ms=rig.clock.now_ms(),
        expires_at_ms=rig.clock.now_ms() + 1000,
    )


def create(
    rig: Rig, upload_id: str = "one", length: int = 3 * PART_BYTES, room_bytes: int | None = None
) -> Lease:
    return rig.ledger.uploads.create(
        new(rig, upload_id, length), room_bytes=room_bytes, monotonic=rig.clock.monotonic
    )


# Creating


def test_a_created_upload_is_open_and_its_creator_makes_the_object(rig: Rig) -> None:
    lease = create(rig)
    upload = rig.record("one")
    wish = new(rig)
    for name in NewUpload.__slots__:
        assert getattr(upload, name) == getattr(wish, name), name
    assert upload.state is State.OPEN
    assert upload.staging_key is None
    assert (upload.received, upload.offset, upload.progress_bytes, upload.attempts) == (0, 0, 0, 0)
    assert upload.progress_at_ms == wish.created_at_ms
    assert rig.events(upload) == ["created"]
    assert (lease.upload_id, lease.key) == ("one", CREATE)


def test_an_empty_upload_is_completed_when_it_is_created(rig: Rig) -> None:
    create(rig, length=0)
    assert rig.events(rig.record("one")) == ["created", "completed"]


def test_uploads_larger_than_the_room_are_refused_and_leave_nothing(
    rig: Rig, database: Database
) -> None:
    with pytest.raises(StorageFull):
        create(rig, length=1001, room_bytes=1000)
    assert database.rows(uploads) == []
    assert database.rows(events) == []
    assert database.rows(leases) == []
    create(rig, length=1000, room_bytes=1000)


def test_what_others_have_announced_and_not_sent_takes_room(rig: Rig) -> None:
    sent, whole = rig.create(10 * PART_BYTES), 10 * PART_BYTES
    with pytest.raises(StorageFull):
        create(rig, length=1, room_bytes=whole)
    rig.put(sent, 0, bytes(whole))
    create(rig, "fits", PART_BYTES, room_bytes=whole)
    with pytest.raises(StorageFull):
        create(rig, "more", 1, room_bytes=whole)
    create(rig, "more", 1, room_bytes=None)  # not checked


def test_only_open_uploads_on_the_same_root_take_room(rig: Rig, database: Database) -> None:
    create(rig, "elsewhere", 1000)
    database.change(uploads, root_id="another root")
    create(rig, "one", 1000, room_bytes=1000)
    for state in State:
        database.change(uploads, state=state)
        if state is not State.OPEN:
            create(rig, f"beside {state}", 1000, room_bytes=1000)


def test_a_last_part_that_is_short_does_not_count_as_room(rig: Rig) -> None:
    rig.ledger.uploads.set_staged(create(rig, "short", PART_BYTES + 1), "key")
    full = rig.record("short")
    assert full.part_count == 2
    for index in range(2):
        lease = rig.claim(full, index)
        rig.ledger.parts.commit(lease, ReceiptRecord(index, 1, None, None, 1))
    with pytest.raises(StorageFull):
        create(rig, "one", 1001, room_bytes=1000)
    create(rig, "one", 1000, room_bytes=1000)


def test_of_two_uploads_that_come_at_once_into_room_for_one_only_one_is_created(
    rig: Rig, database: Database
) -> None:
    other = Rig(database.ledger(), rig.storage, rig.clock)
    for attempt in range(10):
        outcomes = at_once(
            lambda: create(rig, f"a{attempt}", 1000, room_bytes=1000),  # noqa: B023
            lambda: create(other, f"b{attempt}", 1000, room_bytes=1000),  # noqa: B023
        )
        assert outcomes.count("StorageFull") == 1
        database.change(uploads, state=State.CANCELLED)


# Staging


def test_the_creator_notes_the_staging_key_and_gives_its_lease_back(
    rig: Rig, database: Database
) -> None:
    upload = rig.ledger.uploads.set_staged(create(rig), "key")
    assert upload.staging_key == "key"
    assert upload == rig.record("one")
    assert database.rows(leases) == []


def test_nobody_else_makes_the_object_meanwhile(rig: Rig, database: Database) -> None:
    create(rig)
    other = database.ledger()
    assert other.uploads.claim_create("one", rig.clock.monotonic) is None
    database.age_leases(LEASE_MS / 1000)
    assert other.uploads.claim_create("one", rig.clock.monotonic) is not None


def test_a_creator_that_was_overtaken_notes_nothing(rig: Rig, database: Database) -> None:
    slow = create(rig)
    database.age_leases(LEASE_MS / 1000)
    quick = database.ledger()
    lease = quick.uploads.claim_create("one", rig.clock.monotonic)
    assert lease is not None
    with pytest.raises(LeaseLost):
        rig.ledger.uploads.set_staged(slow, "slow")
    quick.uploads.set_staged(lease, "quick")
    assert rig.record("one").staging_key == "quick"


@pytest.mark.parametrize("state", ENDED)
def test_a_creator_whose_upload_has_gone_notes_nothing(
    rig: Rig, database: Database, state: State
) -> None:
    lease = create(rig)
    database.change(uploads, state=state)
    with pytest.raises(UploadNotFound):
        rig.ledger.uploads.set_staged(lease, "key")
    assert rig.record("one").staging_key is None


def test_an_object_made_for_an_upload_that_has_gone_is_removed(
    rig: Rig, database: Database
) -> None:
    lease = create(rig)
    staged = staged_object(rig.record("one"))
    rig.ledger.uploads.cancel("one", rig.clock.now_ms())
    with pytest.raises(UploadNotFound):
        rig.staging.make(staged, lease)
    assert rig.storage.stored_keys() == []  # type: ignore[attr-defined]
    assert database.rows(leases) == []


def test_who_lost_the_lease_makes_nothing(rig: Rig) -> None:
    lease = create(rig)
    lease.renewed(rig.clock.monotonic() - 100)
    with pytest.raises(LeaseLost):
        rig.staging.make(staged_object(rig.record("one")), lease)
    assert rig.storage.stored_keys() == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (State.CANCELLED, UploadNotFound),
        (State.EXPIRED, UploadNotFound),
        (State.DELETED, UploadNotFound),
        (State.COMPLETE, UploadNotOpen),
    ],
)
def test_nothing_is_made_for_an_upload_that_has_ended(
    rig: Rig, database: Database, state: State, error: type[Exception]
) -> None:
    rig.ledger.leases.release(create(rig))
    seen = rig.record("one")
    database.change(uploads, state=state)
    assert rig.ledger.uploads.claim_create("one", rig.clock.monotonic) is None
    with pytest.raises(error):
        rig.staging.ensure(seen)
    assert rig.storage.stored_keys() == []  # type: ignore[attr-defined]


def test_who_comes_late_does_not_make_anew_what_another_has_made_and_published(rig: Rig) -> None:
    """Its empty object would stand in the way of the finished one, or be taken for it."""
    rig.ledger.leases.release(create(rig, length=0))
    late = rig.record("one")
    rig.staging.ensure(late)
    queued = rig.ledger.uploads.queue_finalize("one", rig.clock.now_ms())
    assert rig.ledger.uploads.claim_create("one", rig.clock.monotonic) is None
    assert rig.staging.ensure(late).staging_key == queued.staging_key
    assert rig.is_staged(queued)
    claimed = rig.finalizer.claim()
    assert claimed is not None
    rig.storage.publish(staged_object(queued), {}, lambda *_: None)
    rig.staging.ensure(late)
    assert not rig.is_staged(queued)
    rig.finalizer.finalize(*claimed)
    assert rig.state(queued) is State.COMPLETE


def test_an_empty_upload_without_its_object_cannot_be_completed_yet(
    rig: Rig, database: Database
) -> None:
    create(rig, length=0)
    with pytest.raises(UploadLocked):
        rig.ledger.uploads.queue_finalize("one", rig.clock.now_ms())
    assert rig.state(rig.record("one")) is State.OPEN


@pytest.mark.parametrize("step", ["create", "recording the staging key"])
def test_a_creation_that_crashed_is_finished_by_whoever_needs_the_object(
    database: Database, root: Path, start_peer: StartPeer, step: str
) -> None:
    first, second = start_peer(database, root, stops=(step,)), start_peer(database, root)
    first.begin("create", 10 * PART_BYTES)
    assert first.wait_for_stop() == step
    (row,) = database.rows(uploads)
    assert row.staging_key is None
    first.kill()
    key = second.do("ensure_staged", row.id)
    (row,) = database.rows(uploads)
    assert key == row.staging_key
    assert (root / key).stat().st_size == 10 * PART_BYTES
    assert database.rows(leases) == []


def test_who_waits_for_another_that_makes_the_object_is_told_to_come_back(
    rig: Rig, database: Database, clock: FakeClock
) -> None:
    lease, other = create(rig), Rig(database.ledger(), rig.storage, clock)
    began_at = clock.monotonic()
    with pytest.raises(UploadLocked):
        other.staging.ensure(rig.record("one"))
    assert clock.monotonic() - began_at >= WAIT_SECONDS
    made = rig.staging.make(staged_object(rig.record("one")), lease)
    assert other.staging.ensure(rig.record("one")).staging_key == made.staging_key


def test_who_waits_gets_what_another_has_made_meanwhile(
    rig: Rig, database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, other = create(rig), Rig(database.ledger(), rig.storage, clock)
    seen = rig.record("one")
    monkeypatch.setattr(clock, "sleep", lambda _: rig.staging.make(staged_object(seen), lease))
    assert other.staging.ensure(seen).staging_key is not None


# Transitions


@pytest.mark.parametrize("current", State)
def test_every_transition_is_that_of_the_table_and_no_other(
    rig: Rig, database: Database, current: State
) -> None:
    upload = rig.create()
    for following in State:
        database.change(uploads, state=current)
        seen = rig.record(upload.id)

        def move(seen: UploadRecord = seen, following: State = following) -> object:
            return rig.ledger.transactions.write(lambda tx: transition(tx, seen, following))

        if following in TRANSITIONS[current]:
            check(current, following)
            assert move() is not None
            assert rig.state(upload) is following
            assert move() is None  # compare-and-set: it is not as seen any more
        else:
            with pytest.raises(ValueError, match="no transition"):
                move()
            assert rig.state(upload) is current


def test_a_transition_of_an_upload_that_moved_on_changes_nothing(
    rig: Rig, database: Database
) -> None:
    seen = rig.create()
    database.change(uploads, state=State.FINALIZING)
    moved = rig.ledger.transactions.write(
        lambda tx: transition(tx, seen, State.CANCELLED, error="x")
    )
    assert moved is None
    assert (rig.record(seen.id).state, rig.record(seen.id).error) == (State.FINALIZING, None)


# Completing


def test_a_full_upload_is_queued_due_at_once(rig: Rig) -> None:
    upload = rig.queue()
    assert upload.state is State.FINALIZING
    assert upload.due_at_ms == rig.clock.now_ms()
    assert upload == rig.record(upload.id)


def test_completing_again_is_harmless(rig: Rig, clock: FakeClock) -> None:
    upload = rig.queue()
    clock.advance(100)
    assert rig.ledger.uploads.queue_finalize(upload.id, clock.now_ms()) == upload
    rig.finalize()
    done = rig.record(upload.id)
    assert rig.ledger.uploads.queue_finalize(upload.id, clock.now_ms()) == done
    assert done.state is State.COMPLETE


def test_an_upload_with_parts_missing_is_not_completed(rig: Rig) -> None:
    upload = rig.create()
    rig.put(upload, 1, bytes(3 * PART_BYTES))
    with pytest.raises(PartsMissing) as missing:
        rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    assert (missing.value.received, missing.value.part_count) == (1, 3)
    assert rig.state(upload) is State.OPEN


def test_completing_what_has_failed_is_a_retry(rig: Rig, database: Database) -> None:
    upload = rig.fill(bytes(PART_BYTES))
    database.change(uploads, state=State.FAILED, error="why", attempts=7, progress_bytes=9)
    queued = rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    assert queued.state is State.FINALIZING
    assert (queued.error, queued.attempts, queued.progress_bytes) == (None, 0, 0)
    assert rig.events(upload) == ["created", "completed", "retry_queued"]


@pytest.mark.parametrize("state", ENDED)
def test_what_has_gone_cannot_be_completed(rig: Rig, database: Database, state: State) -> None:
    upload = rig.fill(bytes(PART_BYTES))
    database.change(uploads, state=state)
    with pytest.raises(UploadNotFound):
        rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())


def test_what_is_past_its_time_cannot_be_completed_or_cancelled(rig: Rig, clock: FakeClock) -> None:
    upload = rig.fill(bytes(PART_BYTES))
    clock.advance(TTL_SECONDS)
    with pytest.raises(UploadNotFound):
        rig.ledger.uploads.queue_finalize(upload.id, clock.now_ms())
    with pytest.raises(UploadNotFound):
        rig.ledger.uploads.cancel(upload.id, clock.now_ms())


def test_an_unknown_upload_cannot_be_completed_or_cancelled(rig: Rig) -> None:
    with pytest.raises(UploadNotFound):
        rig.ledger.uploads.queue_finalize("unknown", 1)
    with pytest.raises(UploadNotFound):
        rig.ledger.uploads.cancel("unknown", 1)
    assert rig.ledger.uploads.get("unknown") is None


def test_completing_at_once_from_several_sides_succeeds_for_all(
    rig: Rig, database: Database
) -> None:
    others = [Rig(database.ledger(), rig.storage, rig.clock) for _ in range(3)]
    for state in (State.OPEN, State.FAILED) * 3:
        upload = rig.fill(bytes(PART_BYTES))
        database.change(uploads, state=state)

        def complete(other: Rig, upload: UploadRecord = upload) -> State:
            return other.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms()).state

        outcomes = at_once(*(lambda other=other: complete(other) for other in others))  # type: ignore[misc]
        assert outcomes == [State.FINALIZING] * 3
        retried = rig.events(upload).count("retry_queued")
        assert retried == (1 if state is State.FAILED else 0)


# Cancelling


@pytest.mark.parametrize(
    ("state", "following"),
    [
        (State.OPEN, State.CANCELLED),
        (State.FAILED, State.CANCELLED),
        (State.COMPLETE, State.DELETED),
    ],
)
def test_cancelling_ends_an_upload(
    rig: Rig, database: Database, state: State, following: State
) -> None:
    upload = rig.create()
    database.change(uploads, state=state)
    assert rig.ledger.uploads.cancel(upload.id, rig.clock.now_ms()).state is following
    assert rig.state(upload) is following
    assert rig.events(upload) == ["created", "deleted"]


def test_an_upload_that_is_finalizing_cannot_be_cancelled(rig: Rig) -> None:
    upload = rig.queue()
    with pytest.raises(UploadNotOpen, match="finalizing"):
        rig.ledger.uploads.cancel(upload.id, rig.clock.now_ms())
    assert rig.state(upload) is State.FINALIZING


@pytest.mark.parametrize("state", ENDED)
def test_what_has_gone_cannot_be_cancelled(rig: Rig, database: Database, state: State) -> None:
    upload = rig.create()
    database.change(uploads, state=state)
    with pytest.raises(UploadNotFound):
        rig.ledger.uploads.cancel(upload.id, rig.clock.now_ms())


def test_of_many_who_cancel_at_once_one_wins_and_emits(rig: Rig, database: Database) -> None:
    others = [Rig(database.ledger(), rig.storage, rig.clock) for _ in range(4)]
    for _ in range(5):
        upload = rig.create()

        def cancel(other: Rig, upload: UploadRecord = upload) -> State:
            return other.ledger.uploads.cancel(upload.id, rig.clock.now_ms()).state

        outcomes = at_once(*(lambda other=other: cancel(other) for other in others))  # type: ignore[misc]
        assert outcomes.count(State.CANCELLED) == 1
        assert outcomes.count("UploadNotFound") == 3
        assert rig.events(upload) == ["created", "deleted"]


def test_of_completing_and_cancelling_at_once_one_wins(rig: Rig, database: Database) -> None:
    other = Rig(database.ledger(), rig.storage, rig.clock)
    for _ in range(5):
        upload = rig.fill(bytes(PART_BYTES))

        def complete(upload: UploadRecord = upload) -> State:
            return rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms()).state

        def cancel(upload: UploadRecord = upload) -> State:
            return other.ledger.uploads.cancel(upload.id, rig.clock.now_ms()).state

        outcomes = at_once(complete, cancel)
        assert outcomes in (
            [State.FINALIZING, "UploadNotOpen"],
            ["UploadNotFound", State.CANCELLED],
        )


# Looking


def test_the_newest_uploads_are_listed_by_state(rig: Rig, clock: FakeClock) -> None:
    made = []
    for _ in range(3):
        clock.advance(1)
        made.append(rig.create().id)
    rig.ledger.uploads.cancel(made[1], clock.now_ms())
    listed = rig.ledger.uploads.list([State.OPEN], 10)
    assert [upload.id for upload in listed] == [made[2], made[0]]
    assert [upload.id for upload in rig.ledger.uploads.list(list(State), 2)] == made[:0:-1]


def test_uploads_are_counted_by_state(rig: Rig) -> None:
    rig.create()
    rig.create()
    rig.queue()
    assert rig.ledger.count_by_state() == {State.OPEN: 2, State.FINALIZING: 1}


def test_what_belongs_to_an_upload_goes_with_it(rig: Rig, database: Database) -> None:
    """Foreign keys are on: rows that are deleted by hand leave no orphans."""
    rig.queue()
    rig.ledger.transactions.write(lambda tx: tx.execute(uploads.delete()))
    assert database.rows(receipts) == []
    assert database.rows(events) == []
