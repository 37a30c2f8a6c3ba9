"""Uploads under names of their clients' own: one a name, found while it lives, recut, replaced."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from app.domain.parts import Geometry, received_parts
from app.domain.states import GONE, State
from app.errors import LeaseLost, PartCountMismatch, StorageFull, UploadNotFound, UploadNotOpen
from app.ledger.database import Ledger
from app.ledger.leases import LEASE_MS, Lease
from app.ledger.models import aliases, bitmap, events, leases, receipts, uploads
from app.ledger.parts import PROLONG_MS, PartClaim, PartCommit
from app.ledger.records import AliasKey, NewUpload, ReceiptRecord, UploadRecord
from app.uploads.creating import Wish
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.races import at_once
from tests.harness.rig import PART_BYTES, TTL_SECONDS, Rig

GRACE_MS = 300_000

#: Enough for two processes to meet at every point of their transactions.
RACES = 100

ALIAS = AliasKey("resumable", "alice", "3003/1001/0/movie")


def planned(rig: Rig, count: int = 3, length: int | None = None) -> NewUpload:
    """Plan an upload of ``count`` parts."""
    length = count * PART_BYTES if length is None else length
    wish = Wish("movie.mp4", length, geometry=Geometry(length, PART_BYTES, count))
    return rig.service.creator.planned("resumable", "alice", wish)


def get_or_create(
    rig: Rig, alias: AliasKey = ALIAS, *, ledger: Ledger | None = None, **planning: int
) -> tuple[UploadRecord, Lease | None]:
    return (ledger or rig.ledger).chunks.get_or_create(
        alias,
        planned(rig, **planning),
        grace_ms=GRACE_MS,
        room_bytes=None,
        monotonic=rig.clock.monotonic,
    )


def make(rig: Rig, alias: AliasKey = ALIAS, **planning: int) -> UploadRecord:
    """Make the upload behind an alias, which must be new, and its staged object."""
    upload, lease = get_or_create(rig, alias, **planning)
    assert lease is not None
    rig.ledger.leases.release(lease)
    rig.staging.ensure(upload)
    return rig.record(upload.id)


def claim(
    rig: Rig, index: int, part_count: int | None = None, *, ledger: Ledger | None = None
) -> PartClaim | None:
    return (ledger or rig.ledger).chunks.claim(
        ALIAS, index, part_count, rig.clock.now_ms(), GRACE_MS, rig.clock.monotonic
    )


def leased(rig: Rig, index: int, part_count: int | None = None) -> Lease:
    claimed = claim(rig, index, part_count)
    assert claimed is not None
    assert claimed.lease is not None
    return claimed.lease


def commit(rig: Rig, lease: Lease, *, ledger: Ledger | None = None, **options: int) -> PartCommit:
    now_ms = rig.clock.now_ms()
    receipt = ReceiptRecord(int(lease.key), PART_BYTES, None, None, now_ms)
    parts = (ledger or rig.ledger).parts
    return parts.commit(lease, receipt, completes=True, **options)


def look(rig: Rig, index: int, alias: AliasKey = ALIAS) -> tuple[str, bool] | None:
    found = rig.ledger.chunks.look(alias, index, rig.clock.now_ms(), GRACE_MS)
    return None if found is None else (found[0].id, found[1])


# Identity


def test_the_first_to_ask_makes_the_upload_and_the_others_get_it(rig: Rig) -> None:
    made, lease = get_or_create(rig)
    again, nothing = get_or_create(rig)
    assert lease is not None
    assert nothing is None
    assert again.id == made.id
    assert rig.events(made) == ["created"]


def test_however_many_ask_at_once_one_upload_is_made(rig: Rig, database: Database) -> None:
    ledgers = [database.ledger() for _ in range(4)]
    for number in range(RACES):
        alias = replace(ALIAS, client_key=f"race {number}")
        found = at_once(*(partial(get_or_create, rig, alias, ledger=ledger) for ledger in ledgers))
        assert len({upload.id for upload, _ in found}) == 1  # type: ignore[misc]
        assert [lease is None for _, lease in found].count(False) == 1  # type: ignore[misc]
    assert len(database.rows(uploads)) == len(database.rows(aliases)) == RACES


def test_names_of_other_owners_and_kinds_are_other_names(rig: Rig) -> None:
    made = make(rig)
    for other in (
        replace(ALIAS, owner="bob"),
        replace(ALIAS, namespace="pipe"),
        replace(ALIAS, client_key=ALIAS.client_key.upper()),
    ):
        assert look(rig, 0, other) is None
        assert get_or_create(rig, other)[0].id != made.id


def test_looking_makes_nothing(rig: Rig, database: Database) -> None:
    assert look(rig, 0) is None
    assert claim(rig, 0) is None
    for table in (uploads, aliases, leases, events):
        assert database.rows(table) == []


def test_no_room_leaves_nothing_behind(rig: Rig, database: Database) -> None:
    with pytest.raises(StorageFull):
        rig.ledger.chunks.get_or_create(
            ALIAS,
            planned(rig),
            grace_ms=GRACE_MS,
            room_bytes=PART_BYTES,
            monotonic=rig.clock.monotonic,
        )
    for table in (uploads, aliases, leases, events):
        assert database.rows(table) == []


@pytest.mark.parametrize("state", State)
def test_a_name_leads_to_an_upload_that_lives_and_is_free_of_a_dead_one(
    rig: Rig, database: Database, state: State
) -> None:
    made = make(rig)
    database.change(uploads, state=state, completed_at_ms=rig.clock.now_ms())
    again, lease = get_or_create(rig)
    if state in GONE:
        assert look(rig, 0) == (again.id, False)
        assert lease is not None
        assert again.id != made.id
    else:
        assert look(rig, 0) == (made.id, False)
        assert again.id == made.id
    assert len(database.rows(aliases)) == 1


def test_a_complete_upload_keeps_its_name_for_a_while(
    rig: Rig, database: Database, clock: FakeClock
) -> None:
    made = make(rig)
    database.change(uploads, state=State.COMPLETE, completed_at_ms=clock.now_ms())
    clock.advance(GRACE_MS / 1000 - 1)
    assert get_or_create(rig)[0].id == made.id
    clock.advance(1)
    assert look(rig, 0) is None
    assert claim(rig, 0) is None
    assert get_or_create(rig)[0].id != made.id


@pytest.mark.parametrize("state", [State.OPEN, State.FAILED])
def test_an_upload_past_its_time_is_dead_before_it_is_swept(
    rig: Rig, database: Database, clock: FakeClock, state: State
) -> None:
    made = make(rig)
    database.change(uploads, state=state)
    clock.advance(TTL_SECONDS)
    assert look(rig, 0) is None
    assert claim(rig, 0) is None
    assert get_or_create(rig)[0].id != made.id


def test_a_name_goes_with_the_row_of_its_upload(rig: Rig, database: Database) -> None:
    make(rig)
    with database.by_hand.begin() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.execute(uploads.delete())
    assert database.rows(aliases) == []


# Claims


def test_a_chunk_that_has_come_can_be_claimed_again(rig: Rig) -> None:
    make(rig)
    commit(rig, leased(rig, 1))
    claimed = claim(rig, 1)
    assert claimed is not None
    assert claimed.lease is not None
    assert claimed.receipt is not None
    assert look(rig, 1) == (claimed.upload.id, True)
    assert look(rig, 0) == (claimed.upload.id, False)


def test_a_chunk_that_is_claimed_is_refused_to_others_come_or_not(rig: Rig) -> None:
    make(rig)
    commit(rig, leased(rig, 1))
    for index in (0, 1):
        leased(rig, index)
        second = claim(rig, index)
        assert second is not None
        assert (second.lease, second.receipt) == (None, None)
        assert second.holder is not None


@pytest.mark.parametrize("state", [State.FINALIZING, State.COMPLETE, State.FAILED])
def test_a_chunk_of_an_upload_that_takes_none_is_told_by_its_receipt(
    rig: Rig, database: Database, state: State
) -> None:
    make(rig)
    commit(rig, leased(rig, 1))
    database.change(uploads, state=state, completed_at_ms=rig.clock.now_ms())
    claimed = claim(rig, 1)
    assert claimed is not None
    assert claimed.lease is None
    assert claimed.receipt is not None
    assert database.rows(leases) == []


def test_a_chunk_that_the_file_does_not_have_cannot_be_claimed(
    rig: Rig, database: Database
) -> None:
    make(rig)
    with pytest.raises(IndexError):
        claim(rig, 3)
    assert database.rows(leases) == []


# The last part


def test_the_last_part_has_the_upload_finalized_in_the_same_breath(rig: Rig) -> None:
    made = make(rig)
    for index in (2, 0):
        commit(rig, leased(rig, index))
    assert rig.state(made) is State.OPEN
    commit(rig, leased(rig, 1))
    upload = rig.record(made.id)
    assert upload.state is State.FINALIZING
    assert upload.due_at_ms == rig.clock.now_ms()
    assert rig.events(made) == ["created", "completed"]
    assert rig.finalize()
    assert rig.state(made) is State.COMPLETE


def test_parts_of_uploads_that_wait_to_be_completed_do_not_do_that(rig: Rig) -> None:
    upload = rig.create(PART_BYTES)
    rig.put(upload, 0, bytes(PART_BYTES))
    assert rig.state(upload) is State.OPEN


def test_of_two_last_parts_at_once_one_completes_the_upload(rig: Rig, database: Database) -> None:
    """In different words of the bitmap, where only the count can tell who is the last."""
    other = database.ledger()
    for number in range(RACES):
        alias = replace(ALIAS, client_key=f"race {number}")
        made = make(rig, alias, count=2)
        database.change(uploads, part_count=40, length=40 * PART_BYTES)
        now_ms, monotonic = rig.clock.now_ms(), rig.clock.monotonic
        claims = [
            ledger.chunks.claim(alias, index, None, now_ms, GRACE_MS, monotonic)
            for ledger, index in ((rig.ledger, 0), (other, 39))
        ]
        database.change(uploads, part_count=2)
        first, last = (claimed.lease for claimed in claims if claimed and claimed.lease)
        at_once(partial(commit, rig, first), partial(commit, rig, last, ledger=other))
        assert rig.events(made) == ["created", "completed"]
        assert rig.state(made) is State.FINALIZING
        database.change(uploads, state=State.CANCELLED)


def test_the_expiry_moves_with_progress_a_minute_at_a_time(rig: Rig, clock: FakeClock) -> None:
    made = make(rig)

    def prolonged(index: int) -> int:
        ttl_ms = int(TTL_SECONDS * 1000)
        commit(rig, leased(rig, index), prolonged_to_ms=clock.now_ms() + ttl_ms)
        return rig.record(made.id).expires_at_ms - made.expires_at_ms

    clock.advance(PROLONG_MS / 1000)
    assert prolonged(0) == 0
    clock.advance(1)
    assert prolonged(1) == PROLONG_MS + 1000


def test_the_expiry_of_others_does_not_move(rig: Rig, clock: FakeClock) -> None:
    upload = rig.create()
    clock.advance(PROLONG_MS / 1000 * 5)
    rig.put(upload, 0, bytes(3 * PART_BYTES))
    assert rig.record(upload.id).expires_at_ms == upload.expires_at_ms


# Replacing


def test_a_withdrawn_part_has_never_come(rig: Rig, database: Database) -> None:
    made = make(rig)
    for index in (0, 1):
        commit(rig, leased(rig, index))
    lease = leased(rig, 1)
    rig.ledger.chunks.withdraw(lease, 1, rig.clock.now_ms(), differs=True)
    assert list(received_parts(rig.ledger.parts.words(made.id))) == [0]
    assert [row.part for row in database.rows(receipts)] == [0]
    assert rig.record(made.id).received == 1
    commit(rig, lease)
    assert rig.record(made.id).received == 2


def test_withdrawing_needs_the_lease(rig: Rig, database: Database) -> None:
    made = make(rig)
    commit(rig, leased(rig, 1))
    lease = leased(rig, 1)
    database.age_leases(LEASE_MS / 1000)
    with pytest.raises(LeaseLost):
        rig.ledger.chunks.withdraw(lease, 1, rig.clock.now_ms(), differs=True)
    assert rig.record(made.id).received == 1
    assert look(rig, 1) == (made.id, True)


def test_a_part_that_has_not_come_cannot_be_withdrawn(rig: Rig) -> None:
    made = make(rig)
    with pytest.raises(LeaseLost):
        rig.ledger.chunks.withdraw(leased(rig, 1), 1, rig.clock.now_ms(), differs=True)
    assert rig.record(made.id).received == 0


@pytest.mark.parametrize("state", [state for state in State if state is not State.OPEN])
def test_no_part_of_an_upload_that_takes_none_is_withdrawn(
    rig: Rig, database: Database, state: State
) -> None:
    make(rig)
    commit(rig, leased(rig, 1))
    lease = leased(rig, 1)
    database.change(uploads, state=state)
    before = database.rows(bitmap), database.rows(receipts), database.rows(uploads)
    with pytest.raises(UploadNotFound if state in GONE else UploadNotOpen):
        rig.ledger.chunks.withdraw(lease, 1, rig.clock.now_ms(), differs=True)
    assert (database.rows(bitmap), database.rows(receipts), database.rows(uploads)) == before


@pytest.mark.parametrize("outcome", ["withdrawn", "confirmed"])
def test_a_part_that_is_compared_while_the_last_one_comes_decides(
    rig: Rig, database: Database, outcome: str
) -> None:
    """Never is an upload finalized of which a part is being written over, nor forgotten."""
    other = database.ledger()
    for number in range(RACES):
        alias = replace(ALIAS, client_key=f"race {number}")
        made = make(rig, alias, count=2)
        now_ms, monotonic = rig.clock.now_ms(), rig.clock.monotonic

        def claimed(ledger: Ledger, index: int) -> Lease:
            found = ledger.chunks.claim(alias, index, None, now_ms, GRACE_MS, monotonic)  # noqa: B023
            assert found is not None
            assert found.lease is not None
            return found.lease

        commit(rig, claimed(rig.ledger, 0))
        again, last = claimed(rig.ledger, 0), claimed(other, 1)
        chunks = rig.ledger.chunks
        if outcome == "withdrawn":
            compared = partial(chunks.withdraw, again, 0, now_ms, differs=True)
        else:
            compared = partial(chunks.confirm, again, 0, now_ms)
        first, last_commit = at_once(compared, partial(commit, rig, last, ledger=other))
        if outcome == "withdrawn":
            assert (first, rig.state(made)) == (None, State.OPEN)
        else:
            assert rig.state(made) is State.FINALIZING
            assert rig.events(made).count("completed") == 1
            assert [first.state is State.FINALIZING, last_commit.completed].count(True) >= 1  # type: ignore[union-attr,attr-defined]
        database.change(uploads, state=State.CANCELLED)


# Cutting anew

LONG = 2 * PART_BYTES + 400


def test_a_file_cut_before_anything_told_is_cut_anew(rig: Rig) -> None:
    made = make(rig, count=2, length=LONG)
    commit(rig, leased(rig, 0), cut_into=2)
    lease = leased(rig, 1, part_count=3)
    upload = rig.record(made.id)
    assert [upload.geometry.span(index).length for index in range(3)] == [1001, 1001, 400]
    assert commit(rig, lease, cut_into=3) == PartCommit(2, 3)
    assert commit(rig, leased(rig, 2), cut_into=3) == PartCommit(3, 3, completed=True)
    assert rig.state(made) is State.FINALIZING


def test_a_file_whose_last_part_has_come_is_not_cut_anew(rig: Rig, database: Database) -> None:
    make(rig, count=2, length=LONG)
    commit(rig, leased(rig, 1))
    with pytest.raises(PartCountMismatch):
        claim(rig, 1, part_count=3)
    assert database.rows(leases) == []


@pytest.mark.parametrize("wanted", [1, 2, 5])
def test_a_file_is_never_cut_in_any_other_way(rig: Rig, wanted: int) -> None:
    make(rig, count=3)
    with pytest.raises(PartCountMismatch):
        claim(rig, 0, part_count=wanted)


def test_a_last_part_written_while_the_file_is_cut_anew_is_not_recorded(rig: Rig) -> None:
    """It has more bytes than it should have now."""
    made = make(rig, count=2, length=LONG)
    lease = leased(rig, 1, part_count=2)
    leased(rig, 0, part_count=3)
    with pytest.raises(LeaseLost):
        commit(rig, lease, cut_into=2)
    assert rig.record(made.id).received == 0


def test_of_recording_the_last_part_and_cutting_anew_at_once_one_wins(
    rig: Rig, database: Database
) -> None:
    other = database.ledger()
    for number in range(RACES):
        alias = replace(ALIAS, client_key=f"race {number}")
        made = make(rig, alias, count=2, length=LONG)
        now_ms, monotonic = rig.clock.now_ms(), rig.clock.monotonic
        claimed = rig.ledger.chunks.claim(alias, 1, 2, now_ms, GRACE_MS, monotonic)
        assert claimed is not None
        assert claimed.lease is not None
        recorded, cut = at_once(
            partial(commit, rig, claimed.lease, cut_into=2),
            partial(other.chunks.claim, alias, 0, 3, now_ms, GRACE_MS, monotonic),
        )
        upload = rig.record(made.id)
        if isinstance(recorded, PartCommit):
            assert cut == "PartCountMismatch"
            assert (upload.part_count, upload.received) == (2, 1)
        else:
            assert recorded == "LeaseLost"
            assert (upload.part_count, upload.received) == (3, 0)
        database.change(uploads, state=State.CANCELLED)
