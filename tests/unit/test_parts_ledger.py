"""Parts in the ledger: bit, count, receipt and event, all or nothing, and each once."""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Barrier, Thread

import pytest

from app.domain.parts import BITS_PER_WORD, pending_parts, received_parts
from app.domain.states import State
from app.errors import LeaseLost, UploadNotFound, UploadNotOpen
from app.ledger.leases import LEASE_MS, Lease
from app.ledger.models import bitmap, leases, receipts, uploads
from app.ledger.parts import PartCommit
from app.ledger.records import ReceiptRecord, UploadRecord
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.peer import Peer
from tests.harness.rig import PART_BYTES, TTL_SECONDS, Rig

#: Enough for two last parts to meet at every point of their transactions.
RACES = 200

StartPeer = Callable[..., Peer]


def receipt(index: int, now_ms: int = 1) -> ReceiptRecord:
    return ReceiptRecord(index, PART_BYTES, f"{index:064x}", f"etag-{index}", now_ms)


def commit(rig: Rig, lease: Lease) -> PartCommit:
    return rig.ledger.parts.commit(lease, receipt(int(lease.key), rig.clock.now_ms()))


def record_parts(rig: Rig, upload: UploadRecord, *indexes: int) -> None:
    """Record parts without writing anything."""
    for index in indexes:
        commit(rig, rig.claim(upload, index))


def received(rig: Rig, upload: UploadRecord) -> list[int]:
    return list(received_parts(rig.ledger.parts.words(upload.id)))


# Claims


def test_a_claimed_part_is_ours_to_write(rig: Rig) -> None:
    upload = rig.create()
    claim = rig.ledger.parts.claim(upload.id, 1, rig.clock.now_ms(), rig.clock.monotonic)
    assert claim.lease is not None
    assert claim.upload == upload
    assert (claim.receipt, claim.holder) == (None, None)


def test_a_received_part_is_answered_with_its_receipt(rig: Rig) -> None:
    upload = rig.create()
    commit(rig, rig.claim(upload, 1))
    claim = rig.ledger.parts.claim(upload.id, 1, rig.clock.now_ms(), rig.clock.monotonic)
    assert claim.lease is None
    assert claim.receipt == receipt(1, rig.clock.now_ms())


def test_a_part_that_is_being_written_names_its_holder(rig: Rig, database: Database) -> None:
    upload = rig.create()
    rig.claim(upload, 1)
    claim = rig.ledger.parts.claim(upload.id, 1, rig.clock.now_ms(), rig.clock.monotonic)
    assert (claim.lease, claim.receipt) == (None, None)
    assert [claim.holder] == [row.owner for row in database.rows(leases)]


@pytest.mark.parametrize("index", [-1, 3, 2**40])
def test_a_part_that_the_upload_does_not_have_cannot_be_claimed(
    rig: Rig, database: Database, index: int
) -> None:
    upload = rig.create(3 * PART_BYTES)
    with pytest.raises(IndexError):
        rig.claim(upload, index)
    assert database.rows(leases) == []


def test_parts_of_an_unknown_upload_cannot_be_claimed(rig: Rig) -> None:
    with pytest.raises(UploadNotFound):
        rig.ledger.parts.claim("unknown", 0, rig.clock.now_ms(), rig.clock.monotonic)


@pytest.mark.parametrize("state", [state for state in State if state is not State.OPEN])
def test_parts_can_be_claimed_only_while_the_upload_is_open(
    rig: Rig, database: Database, state: State
) -> None:
    upload = rig.create()
    database.change(uploads, state=state)
    gone = state in (State.CANCELLED, State.EXPIRED, State.DELETED)
    with pytest.raises(UploadNotFound if gone else UploadNotOpen):
        rig.claim(upload, 0)
    assert database.rows(leases) == []


def test_parts_of_an_upload_past_its_time_cannot_be_claimed(rig: Rig, clock: FakeClock) -> None:
    upload = rig.create()
    clock.advance(TTL_SECONDS)
    with pytest.raises(UploadNotFound):
        rig.claim(upload, 0)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_part_that_is_recorded_while_another_claims_it_is_not_given_away(
    rig: Rig, database: Database
) -> None:
    """Else the other would write over bytes that have been acknowledged."""
    upload, other = rig.create(), database.ledger()
    lease = rig.claim(upload, 0)
    database.before(other, "INSERT INTO leases", lambda: commit(rig, lease))
    claim = other.parts.claim(upload.id, 0, rig.clock.now_ms(), rig.clock.monotonic)
    assert claim.lease is None
    assert claim.receipt == receipt(0, rig.clock.now_ms())
    assert database.rows(leases) == []


# Commits


def test_bit_count_receipt_and_lease_change_together(rig: Rig, database: Database) -> None:
    upload = rig.create(40 * PART_BYTES)
    done = commit(rig, rig.claim(upload, 33))
    assert done == PartCommit(1, 40)
    assert [(row.word, row.bits) for row in database.rows(bitmap)] == [(1, 1 << 1)]
    assert rig.ledger.parts.receipts(upload.id) == [receipt(33, rig.clock.now_ms())]
    assert rig.record(upload.id).received == 1
    assert database.rows(leases) == []


def test_progress_is_noted_with_each_part(rig: Rig, clock: FakeClock) -> None:
    upload = rig.create()
    clock.advance(100)
    record_parts(rig, upload, 0)
    assert rig.record(upload.id).progress_at_ms == clock.now_ms()


def test_every_part_of_several_words_has_a_bit_of_its_own(rig: Rig) -> None:
    count = 3 * BITS_PER_WORD + 1
    upload = rig.create(count * PART_BYTES)
    order = random.sample(range(count), count)
    for number, index in enumerate(order, start=1):
        done = commit(rig, rig.claim(upload, index))
        assert done == PartCommit(number, count, completed=number == count)
        assert received(rig, upload) == sorted(order[:number])
    assert list(pending_parts(rig.ledger.parts.words(upload.id), count)) == []
    assert [found.part for found in rig.ledger.parts.receipts(upload.id)] == list(range(count))


def test_parts_that_come_at_once_are_all_counted(database: Database, rig: Rig) -> None:
    """Threads of several processes' worth of connections, in the same words of the bitmap."""
    writers, each = 4, 12
    upload = rig.create(writers * each * PART_BYTES)
    rigs = [Rig(database.ledger(), rig.storage, rig.clock) for _ in range(writers)]
    barrier, errors = Barrier(writers), []

    def write(number: int) -> None:
        barrier.wait()
        try:
            record_parts(rigs[number], upload, *range(number, writers * each, writers))
        except BaseException as error:  # noqa: BLE001 - the test shows it
            errors.append(error)

    threads = [Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert received(rig, upload) == list(range(writers * each))
    assert rig.record(upload.id).received == writers * each
    assert rig.events(upload) == ["created", "completed"]


def test_the_same_commit_counts_once(rig: Rig) -> None:
    upload = rig.create()
    lease = rig.claim(upload, 0)
    commit(rig, lease)
    with pytest.raises(LeaseLost):
        commit(rig, lease)
    assert rig.record(upload.id).received == 1


def test_a_set_bit_is_not_set_again_even_with_a_lease(rig: Rig, database: Database) -> None:
    upload = rig.create()
    record_parts(rig, upload, 0)
    with database.by_hand.begin() as connection:
        connection.execute(receipts.delete())  # so that the part can be claimed again
    before = database.rows(uploads)
    with pytest.raises(LeaseLost):
        commit(rig, rig.claim(upload, 0))
    assert database.rows(uploads) == before
    assert database.rows(receipts) == []


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (State.CANCELLED, UploadNotFound),
        (State.EXPIRED, UploadNotFound),
        (State.DELETED, UploadNotFound),
        (State.FINALIZING, UploadNotOpen),
        (State.COMPLETE, UploadNotOpen),
        (State.FAILED, UploadNotOpen),
    ],
)
def test_a_commit_is_refused_when_the_upload_is_not_open_any_more(
    rig: Rig, database: Database, state: State, error: type[Exception]
) -> None:
    upload = rig.create()
    lease = rig.claim(upload, 0)
    database.change(uploads, state=state)
    with pytest.raises(error):
        commit(rig, lease)
    assert rig.record(upload.id).received == 0
    assert database.rows(bitmap) == []
    assert database.rows(receipts) == []


def test_a_commit_whose_lease_ran_out_leaves_nothing(rig: Rig, database: Database) -> None:
    upload = rig.create()
    lease = rig.claim(upload, 0)
    database.age_leases(LEASE_MS / 1000)
    before = database.rows(uploads)
    with pytest.raises(LeaseLost):
        commit(rig, lease)
    assert database.rows(uploads) == before
    assert database.rows(bitmap) == []
    assert database.rows(receipts) == []


def test_a_commit_after_the_uploads_time_counts_while_nobody_has_swept_it(
    rig: Rig, clock: FakeClock
) -> None:
    """Its lease keeps the sweeper away: a slow part that came in time is not lost."""
    upload = rig.create()
    lease = rig.claim(upload, 0)
    clock.advance(TTL_SECONDS)
    assert commit(rig, lease).received == 1


# The last part


def test_the_last_part_emits_completed_once(rig: Rig) -> None:
    upload = rig.create(2 * PART_BYTES)
    record_parts(rig, upload, 1)
    assert rig.events(upload) == ["created"]
    record_parts(rig, upload, 0)
    assert rig.events(upload) == ["created", "completed"]


def test_an_upload_that_is_filled_again_is_not_completed_twice(rig: Rig) -> None:
    upload = rig.create(2 * PART_BYTES)
    record_parts(rig, upload, 0)
    record_parts(rig, upload, 1)
    rig.ledger.parts.forget_all(rig.record(upload.id))
    rig.staging.ensure(rig.record(upload.id))
    record_parts(rig, upload, 0, 1)
    assert rig.events(upload) == ["created", "completed"]


def test_of_two_last_parts_at_the_same_moment_one_completes(
    rig: Rig, database: Database, start_peer: StartPeer
) -> None:
    """In different words of the bitmap, where no row of it would make them take turns."""
    last = BITS_PER_WORD
    peers = [start_peer(database) for _ in range(2)]
    made = [rig.create((last + 1) * PART_BYTES) for _ in range(RACES)]
    _record_all_but(database, made, 0, last)
    for upload in made:
        for peer, index in zip(peers, (0, last), strict=True):
            assert peer.do("claim_part", upload.id, index)
        for peer, index in zip(peers, (0, last), strict=True):
            peer.begin("commit_part", upload.id, index)
        done = sorted(peer.outcome() for peer in peers)
        assert done == [[last, last + 1], [last + 1, last + 1]]
    assert [rig.events(upload) for upload in made] == [["created", "completed"]] * RACES


def _record_all_but(database: Database, made: list[UploadRecord], *missing: int) -> None:
    """Set the bits of all other parts by hand, which is quicker."""
    count = made[0].geometry.part_count
    words: dict[int, int] = {}
    for index in set(range(count)) - set(missing):
        words[index // BITS_PER_WORD] = words.get(index // BITS_PER_WORD, 0) | (
            1 << index % BITS_PER_WORD
        )
    with database.by_hand.begin() as connection:
        connection.execute(uploads.update().values(received=count - len(missing)))
        connection.execute(
            bitmap.insert(),
            [
                {"upload_id": upload.id, "word": word, "bits": bits}
                for upload in made
                for word, bits in words.items()
            ],
        )


# Vanished


def test_an_upload_whose_bytes_vanished_starts_anew(rig: Rig, database: Database) -> None:
    upload = rig.create(40 * PART_BYTES)
    record_parts(rig, upload, 0, 35)
    rig.ledger.parts.forget_all(rig.record(upload.id))
    again = rig.record(upload.id)
    assert (again.state, again.received, again.staging_key) == (State.OPEN, 0, None)
    assert database.rows(bitmap) == []
    assert database.rows(receipts) == []


def test_who_wrote_to_what_vanished_cannot_commit_it(rig: Rig, database: Database) -> None:
    """Its bytes are in the lost object; the new one has a hole there."""
    upload = rig.create()
    lease = rig.claim(upload, 0)
    rig.ledger.parts.forget_all(rig.record(upload.id))
    rig.staging.ensure(rig.record(upload.id))
    with pytest.raises(LeaseLost):
        commit(rig, lease)
    assert received(rig, upload) == []


def test_what_was_sent_again_is_not_forgotten_by_a_late_comer(rig: Rig) -> None:
    upload = rig.create()
    early, late = rig.claim(upload, 0), rig.claim(upload, 1)
    seen = rig.record(upload.id)
    rig.ledger.parts.forget_all(seen, early)
    rig.staging.ensure(rig.record(upload.id))  # under the same key
    record_parts(rig, upload, 0)
    with pytest.raises(LeaseLost):
        rig.ledger.parts.forget_all(seen, late)
    assert received(rig, upload) == [0]
    assert rig.record(upload.id).staging_key == seen.staging_key


@pytest.mark.parametrize("state", [State.FINALIZING, State.COMPLETE, State.CANCELLED])
def test_parts_are_forgotten_only_while_the_upload_is_open(
    rig: Rig, database: Database, state: State
) -> None:
    upload = rig.create()
    record_parts(rig, upload, 0)
    seen, lease = rig.record(upload.id), rig.claim(upload, 1)
    database.change(uploads, state=state)
    rig.ledger.parts.forget_all(seen, lease)
    assert received(rig, upload) == [0]
