"""Uploads that are made of others: when they are made, through crashes and lost partial ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.states import State
from app.errors import (
    InvalidField,
    StorageFull,
    UploadGone,
    UploadNotFound,
    UploadNotOpen,
    UploadTooLarge,
    WrongRoot,
)
from app.ledger.database import Ledger
from app.ledger.models import concatenations, leases, uploads
from app.ledger.records import PARTIAL, UploadRecord
from app.storage.base import Storage
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.uploads.appending import Append
from app.uploads.creating import Wish
from app.uploads.staging import staged_object
from tests.harness.bodies import PieceBody
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.peer import Peer
from tests.harness.races import at_once
from tests.harness.rig import TTL_SECONDS, Rig, outcome

FIRST, SECOND = random.randbytes(1001), random.randbytes(2003)
WHOLE = FIRST + SECOND + FIRST

StartPeer = Callable[..., Peer]


@pytest.fixture
def rig(ledger: Ledger, storage: Storage, clock: FakeClock) -> Rig:
    """Ledger and jobs on each kind of storage."""
    return Rig(ledger, storage, clock)


def made_of(*partials: UploadRecord) -> list[str]:
    return [partial.id for partial in partials]


def assert_made(rig: Rig, final: UploadRecord, content: bytes = WHOLE) -> None:
    """Assert that a final upload is a file, told of once, with nothing staged any more."""
    made = rig.record(final.id)
    assert (made.state, made.staging_key) == (State.COMPLETE, None)
    assert rig.read(made.final_key) == content
    assert rig.events(final).count("completed") == 1
    assert not rig.has(f".staging/{rig.ledger.instance_id()}/{final.id}.partial")


def assert_kept(rig: Rig, *partials: UploadRecord) -> None:
    """Assert that partial uploads are as they were, and their bytes are there."""
    for partial in partials:
        assert rig.record(partial.id) == partial
        assert rig.is_staged(partial)


# When they are made


def test_a_final_upload_of_full_ones_is_queued_at_once_and_nothing_of_it_is_staged(
    rig: Rig,
) -> None:
    first, second = rig.partial(FIRST), rig.partial(SECOND)
    final = rig.concatenate(made_of(first, second, first))
    assert (final.state, final.length) == (State.FINALIZING, len(WHOLE))
    assert (final.due_at_ms, final.staging_key) == (rig.clock.now_ms(), None)
    assert rig.finalize()
    assert_made(rig, final)
    assert_kept(rig, first, second)


def test_the_last_byte_of_the_last_partial_starts_what_waits_for_it(rig: Rig) -> None:
    full, one, other = rig.partial(FIRST), rig.partial(SECOND, sent=1), rig.partial(FIRST, sent=0)
    waiting = [
        rig.concatenate(made_of(full, one, other)),
        rig.concatenate(made_of(one)),
        rig.concatenate(made_of(other, one)),
    ]
    assert [upload.state for upload in waiting] == [State.OPEN] * 3
    rig.append(one, SECOND[1:])
    states = [rig.state(upload) for upload in waiting]
    assert states == [State.OPEN, State.FINALIZING, State.OPEN]
    rig.append(other, FIRST[:1000])
    assert rig.state(waiting[0]) is State.OPEN
    rig.append(other, FIRST[1000:])
    while rig.finalize():
        pass
    assert_made(rig, waiting[0])
    assert_made(rig, waiting[1], SECOND)
    assert_made(rig, waiting[2], FIRST + SECOND)


def test_what_fills_a_partial_at_the_very_moment_never_leaves_its_final_waiting(
    rig: Rig, database: Database
) -> None:
    other = Rig(database.ledger(), rig.storage, rig.clock)
    for _ in range(5):
        slow = rig.partial(SECOND, sent=1)
        final, _ = at_once(
            lambda slow=slow: rig.concatenate([slow.id]),  # type: ignore[misc]
            lambda slow=slow: other.append(slow, SECOND[1:]),  # type: ignore[misc]
        )
        assert isinstance(final, UploadRecord)
        assert rig.state(final) is State.FINALIZING
        assert rig.finalize()
        assert_made(rig, final, SECOND)


def test_a_final_upload_of_nothing_at_all_is_made(rig: Rig) -> None:
    final = rig.concatenate(made_of(rig.partial(b""), rig.partial(b"")))
    assert rig.finalize()
    assert_made(rig, final, b"")


def test_progress_of_a_partial_prolongs_what_waits_for_it(rig: Rig, clock: FakeClock) -> None:
    slow = rig.partial(SECOND, sent=1)
    final = rig.concatenate([slow.id])
    clock.advance(TTL_SECONDS / 2)
    grown = rig.append(slow, SECOND[1:2])
    assert grown.expires_at_ms == clock.now_ms() + int(TTL_SECONDS * 1000)
    assert rig.record(final.id).expires_at_ms == grown.expires_at_ms
    assert rig.record(final.id).state is State.OPEN


def test_what_a_waiting_upload_needs_lives_as_long_as_it_does(rig: Rig, clock: FakeClock) -> None:
    """Clients may fill partial ones one after the other, each for hours."""
    full, next_one, slow = rig.partial(FIRST), rig.partial(SECOND, sent=1), rig.partial(FIRST, 1)
    clock.advance(TTL_SECONDS / 2)
    final = rig.concatenate(made_of(full, next_one, slow))
    partials = full, next_one, slow
    for sent in (1, 2, 3):
        assert {rig.record(partial.id).expires_at_ms for partial in partials} == {
            rig.record(final.id).expires_at_ms
        }
        clock.advance(TTL_SECONDS * 0.9)
        assert rig.append(slow, FIRST[sent : sent + 1]).offset == sent + 1
        assert rig.sweep() == []
    rig.append(next_one, SECOND[1:])
    rig.append(slow, FIRST[4:])
    assert rig.finalize()
    assert_made(rig, final, FIRST + SECOND + FIRST)


def test_a_request_that_begins_to_fill_a_partial_prolongs_what_waits_for_it(
    rig: Rig, clock: FakeClock
) -> None:
    slow = rig.partial(SECOND, sent=1)
    final = rig.concatenate([slow.id])
    clock.advance(TTL_SECONDS * 0.9)
    now_ms, ttl_ms = clock.now_ms(), rig.policy.ttl_ms
    claim = rig.ledger.appends.claim(slow.id, now_ms, ttl_ms, clock.monotonic)
    assert claim.lease is not None
    assert claim.upload.expires_at_ms == rig.record(final.id).expires_at_ms == now_ms + ttl_ms
    rig.ledger.leases.release(claim.lease)


def test_a_final_upload_that_waits_for_nothing_prolongs_nothing(rig: Rig, clock: FakeClock) -> None:
    full = rig.partial(FIRST)
    clock.advance(TTL_SECONDS / 2)
    rig.concatenate([full.id])
    assert rig.record(full.id) == full


def test_two_partials_of_one_upload_make_progress_at_the_same_moment(
    rig: Rig, database: Database, clock: FakeClock
) -> None:
    """Each prolongs the other one, whose row is locked by it."""
    other = Rig(database.ledger(), rig.storage, rig.clock)
    one, two = rig.partial(FIRST, sent=0), rig.partial(SECOND, sent=0)
    final = rig.concatenate(made_of(one, two))
    for at in range(20):
        clock.advance(120)
        at_once(
            lambda at=at: rig.append(one, FIRST[at : at + 1]),  # type: ignore[misc]
            lambda at=at: other.append(two, SECOND[at : at + 1]),  # type: ignore[misc]
        )
    assert [rig.record(partial.id).offset for partial in (one, two)] == [20, 20]
    assert rig.record(final.id).expires_at_ms == clock.now_ms() + rig.policy.ttl_ms


# What is refused


def test_only_partial_uploads_of_known_length_can_be_joined(rig: Rig) -> None:
    full = rig.partial(FIRST)
    for other in (rig.create_appended(b"x", 2), rig.create_appended(b"x", concat=PARTIAL)):
        with pytest.raises(InvalidField):
            rig.concatenate(made_of(full, other))
    with pytest.raises(UploadNotFound):
        rig.concatenate([full.id, "nobody"])
    ended = rig.partial(FIRST)
    rig.service.end(ended.id)
    with pytest.raises(UploadGone):
        rig.concatenate(made_of(full, ended))


def test_one_that_ends_while_it_is_looked_at_is_noticed_in_the_transaction(rig: Rig) -> None:
    full = rig.partial(FIRST)
    new = rig.service.creator.planned("tus", "alice", Wish("x", len(FIRST), concat="final"))
    rig.service.end(full.id)
    with pytest.raises(UploadNotFound):
        rig.ledger.concatenations.create(new, [full.id], room_bytes=None)
    assert rig.ledger.uploads.get(new.id) is None


def test_one_that_moves_while_it_is_looked_at_is_noticed_in_the_transaction(rig: Rig) -> None:
    empty = rig.partial(FIRST, sent=0)
    new = rig.service.creator.planned("tus", "alice", Wish("x", len(FIRST), concat="final"))
    Rig(rig.ledger, MemoryStorage(), rig.clock).append(empty, FIRST)
    with pytest.raises(WrongRoot):
        rig.ledger.concatenations.create(new, [empty.id], room_bytes=None)
    assert rig.ledger.uploads.get(new.id) is None


def test_there_must_be_room_for_the_whole_file(rig: Rig, database: Database) -> None:
    full = rig.partial(FIRST)
    new = rig.service.creator.planned("tus", "alice", Wish("x", len(FIRST), concat="final"))
    with pytest.raises(StorageFull):
        rig.ledger.concatenations.create(new, [full.id], room_bytes=len(FIRST) - 1)
    assert rig.ledger.uploads.get(new.id) is None
    assert database.rows(concatenations) == []
    rig.ledger.concatenations.create(new, [full.id], room_bytes=len(FIRST))


def test_a_sum_that_no_file_can_have_is_refused(ledger: Ledger, clock: FakeClock) -> None:
    rig = Rig(ledger, MemoryStorage(), clock)
    huge = rig.create_appended(b"", 2**62, concat=PARTIAL)
    with pytest.raises(UploadTooLarge):
        rig.concatenate(made_of(huge, huge))
    assert rig.concatenate(made_of(huge)).length == 2**62


# Several nodes with disks of their own


@pytest.fixture
def elsewhere(rig: Rig) -> Rig:
    """Another node, with a disk of its own."""
    return Rig(rig.ledger, MemoryStorage(), rig.clock)


def test_whoever_is_asked_the_node_that_has_the_bytes_joins_them(rig: Rig, elsewhere: Rig) -> None:
    full = rig.partial(FIRST)
    final = elsewhere.concatenate([full.id])
    assert (final.state, final.root_id) == (State.FINALIZING, full.root_id)
    assert not elsewhere.finalize()
    assert rig.finalize()
    assert_made(rig, final, FIRST)


def test_what_lies_on_several_disks_cannot_be_joined(rig: Rig, elsewhere: Rig) -> None:
    here, there = rig.partial(FIRST), elsewhere.partial(SECOND, sent=1)
    for node in (rig, elsewhere):
        with pytest.raises(WrongRoot):
            node.concatenate(made_of(here, there))


def test_a_partial_without_bytes_moves_to_the_node_that_gets_its_first_ones(
    rig: Rig, elsewhere: Rig
) -> None:
    first, second = rig.partial(FIRST, sent=0), elsewhere.partial(SECOND, sent=1)
    moved = elsewhere.append(first, FIRST)
    assert moved.root_id == second.root_id
    with pytest.raises(WrongRoot):
        rig.append(second, SECOND[1:])
    elsewhere.append(second, SECOND[1:])
    final = rig.concatenate(made_of(first, second, first))
    assert elsewhere.finalize()
    assert_made(elsewhere, final)


def test_what_waits_is_made_where_the_first_bytes_came(rig: Rig, elsewhere: Rig) -> None:
    first, second = rig.partial(FIRST, sent=0), rig.partial(SECOND, sent=0)
    finals = [rig.concatenate(made_of(first, second, first)), rig.concatenate(made_of(second))]
    elsewhere.append(first, FIRST)
    roots = [rig.record(final.id).root_id for final in finals]
    assert roots == [elsewhere.storage.root_id, rig.storage.root_id]
    elsewhere.append(second, SECOND)
    while elsewhere.finalize():
        pass
    assert_made(elsewhere, finals[0])
    assert_made(elsewhere, finals[1], SECOND)


def test_no_partial_gets_bytes_where_those_that_it_will_be_joined_with_are_not(
    rig: Rig, elsewhere: Rig
) -> None:
    begun = rig.partial(FIRST, sent=1)
    here, there = rig.partial(SECOND, sent=0), elsewhere.partial(SECOND, sent=0)
    final = elsewhere.concatenate(made_of(begun, here, there))
    for empty in (here, there):
        with pytest.raises(WrongRoot):
            elsewhere.append(empty, SECOND)
        assert rig.record(empty.id) == empty
    assert rig.record(final.id).root_id == begun.root_id
    for partial, rest in ((there, SECOND), (here, SECOND), (begun, FIRST[1:])):
        assert rig.append(partial, rest).root_id == begun.root_id
    assert rig.finalize()
    assert_made(rig, final, FIRST + SECOND + SECOND)


@pytest.mark.parametrize("asked_by", ["the node with bytes", "the other node"])
def test_bytes_that_are_on_their_way_when_they_are_to_be_joined_with_others_elsewhere_do_not_count(
    rig: Rig, elsewhere: Rig, asked_by: str
) -> None:
    """Nothing of them is recorded yet; before, the file was made with zeros in their place."""
    full, slow = rig.partial(FIRST), rig.partial(SECOND, sent=0)
    asked = rig if asked_by == "the node with bytes" else elsewhere
    finals: list[UploadRecord] = []

    class Slow(PieceBody):
        def take(self, buffer: memoryview) -> int:
            if self.received and not finals:
                finals.append(asked.concatenate(made_of(full, slow)))
            return super().take(buffer)

    at = Append("tus", sees=None, offset=0)
    with pytest.raises(WrongRoot):
        elsewhere.appends.append(slow.id, at, Slow([SECOND[:1000], SECOND[1000:]]))
    assert rig.record(slow.id).offset == 0
    assert rig.state(finals[0]) is State.OPEN
    rig.append(slow, SECOND)
    assert rig.finalize()
    assert_made(rig, finals[0], FIRST + SECOND)


def test_of_two_partials_that_get_their_first_bytes_on_two_nodes_at_once_one_is_refused(
    rig: Rig, database: Database
) -> None:
    other = Rig(database.ledger(), MemoryStorage(), rig.clock)
    for _ in range(5):
        first, second = rig.partial(FIRST, sent=0), rig.partial(SECOND, sent=0)
        final = rig.concatenate(made_of(first, second))
        results = at_once(
            lambda first=first: outcome(rig.append, first, FIRST),  # type: ignore[misc]
            lambda second=second: outcome(other.append, second, SECOND),  # type: ignore[misc]
        )
        assert sum(result == "WrongRoot" for result in results) == 1
        taken = next(result for result in results if isinstance(result, UploadRecord))
        node, rest = (rig, (second, SECOND)) if taken.id == first.id else (other, (first, FIRST))
        node.append(*rest)
        assert node.finalize()
        assert_made(node, final, FIRST + SECOND)


def test_moving_and_joining_at_the_same_moment_do_not_wait_for_each_other(
    rig: Rig, database: Database
) -> None:
    """Both look for room, whose row is locked before those of uploads."""
    node = Rig(rig.ledger, rig.storage, rig.clock, check_free_disk=True)
    other = Rig(database.ledger(), MemoryStorage(2**40), rig.clock, check_free_disk=True)
    for _ in range(10):
        empty = node.partial(FIRST, sent=0)
        results = at_once(
            lambda empty=empty: outcome(node.concatenate, [empty.id]),  # type: ignore[misc]
            lambda empty=empty: outcome(other.append, empty, FIRST),  # type: ignore[misc]
        )
        assert {result for result in results if isinstance(result, str)} <= {"WrongRoot"}


def test_what_has_no_bytes_lies_anywhere(rig: Rig, elsewhere: Rig) -> None:
    nothing = rig.concatenate(made_of(rig.partial(b""), elsewhere.partial(b"")))
    assert rig.finalize()
    assert_made(rig, nothing, b"")


def test_a_partial_of_no_length_may_lie_anywhere(rig: Rig, elsewhere: Rig) -> None:
    final = rig.concatenate(made_of(elsewhere.partial(b""), rig.partial(FIRST)))
    assert rig.finalize()
    assert_made(rig, final, FIRST)


# Partial uploads that are lost


@pytest.mark.parametrize("waits", [True, False])
def test_a_partial_that_is_cancelled_fails_what_is_to_be_made_of_it(rig: Rig, waits: bool) -> None:
    full, gone = rig.partial(FIRST), rig.partial(SECOND, sent=1 if waits else None)
    final = rig.concatenate(made_of(full, gone))
    rig.service.end(gone.id)
    assert rig.finalize()
    failed = rig.record(final.id)
    assert failed.state is State.FAILED
    assert "partial upload" in (failed.error or "")
    assert ("completed" in rig.events(final)) is not waits
    assert_kept(rig, full)
    rig.service.end(final.id)
    assert rig.sweep() == []


def test_a_partial_does_not_expire_while_it_is_needed(rig: Rig, clock: FakeClock) -> None:
    full = rig.partial(FIRST)
    final = rig.concatenate([full.id])
    clock.advance(2 * TTL_SECONDS)  # the disk was down for so long
    assert rig.sweep() == []
    assert rig.finalize()
    assert_made(rig, final, FIRST)
    assert [swept.upload_id for swept in rig.sweep()] == [full.id]


def test_what_waits_expires_with_its_partials(rig: Rig, clock: FakeClock) -> None:
    slow = rig.partial(SECOND, sent=1)
    final = rig.concatenate([slow.id])
    clock.advance(TTL_SECONDS)
    for _ in range(2):  # a partial may be looked at before what needs it
        rig.sweep()
    assert (rig.state(final), rig.state(slow)) == (State.EXPIRED, State.EXPIRED)
    assert not rig.is_staged(slow)


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_partial_whose_bytes_are_gone_is_sent_again(
    ledger: Ledger, local: LocalStorage, root: Path, damage: str
) -> None:
    rig = Rig(ledger, local, FakeClock())
    full, damaged = rig.partial(FIRST), rig.partial(SECOND)
    (path,) = root.glob(f".staging/*/{damaged.id}.partial")
    if damage == "gone":
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(len(SECOND) - 1)
    failed = rig.concatenate(made_of(full, damaged))
    assert rig.finalize()
    assert rig.state(failed) is State.FAILED
    assert_kept(rig, full)
    assert rig.record(damaged.id).offset == 0  # its client is told so
    rig.append(damaged, SECOND)
    final = rig.concatenate(made_of(full, damaged))
    assert rig.finalize()
    assert_made(rig, final, FIRST + SECOND)


def test_an_own_object_that_vanishes_is_made_anew(
    ledger: Ledger, local: LocalStorage, root: Path, clock: FakeClock
) -> None:
    rig = Rig(ledger, local, clock)
    first, second = rig.partial(FIRST), rig.partial(SECOND)
    final = rig.concatenate(made_of(first, second, first))
    joined = local.join

    def vanishing(*arguments: object) -> None:
        joined(*arguments)  # type: ignore[arg-type]
        (path,) = root.glob(f".staging/*/{final.id}.partial")
        path.unlink()

    local.join = vanishing  # type: ignore[method-assign,assignment]
    assert rig.finalize()
    assert rig.state(final) is State.FINALIZING
    del local.join  # type: ignore[method-assign]
    clock.advance(60)
    assert rig.finalize()
    assert_made(rig, final)
    assert_kept(rig, first, second)


# Crashes


STEPS = [
    "create",
    "recording the staging key",
    "join",
    "moving more bytes",
    "publish",
    "recording the final key",
    "discard",
    "forgetting the staging key",
]


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_of_joining_leaves_it_to_another_process(
    database: Database,
    ledger: Ledger,
    local: LocalStorage,
    root: Path,
    start_peer: StartPeer,
    step: str,
) -> None:
    rig = Rig(ledger, local, FakeClock())
    first, second = rig.partial(FIRST), rig.partial(SECOND)
    final = rig.concatenate(made_of(first, second, first))
    peer = start_peer(database, root, stops=(step,))
    peer.begin("finalize")
    assert peer.wait_for_stop() == step
    assert not rig.finalize()  # it lives
    peer.kill()
    assert rig.finalize()
    assert_made(rig, final)
    assert_kept(rig, first, second)
    assert rig.sweep() == []
    assert database.rows(leases) == []


def test_a_kill_while_a_final_upload_is_created_leaves_all_of_it_or_nothing(
    database: Database, ledger: Ledger, local: LocalStorage, root: Path, start_peer: StartPeer
) -> None:
    rig = Rig(ledger, local, FakeClock())
    first, second = rig.partial(FIRST), rig.partial(SECOND)
    dies = start_peer(database, root, stops=("recording what it is made of",))
    dies.begin("concatenate", made_of(first, second, first))
    dies.wait_for_stop()
    dies.kill()
    assert {row.id for row in database.rows(uploads)} == {first.id, second.id}
    assert database.rows(concatenations) == []
    lives = start_peer(database, root)
    final = rig.record(lives.do("concatenate", made_of(first, second, first)))
    lives.kill()  # before anybody has begun to make it
    rig.clock.sleep(60)  # the other's clock has gone on
    assert rig.finalize()
    assert_made(rig, final)
    assert_kept(rig, first, second)


def test_a_kill_after_every_step_in_turn_does_not_lose_the_file(
    database: Database, ledger: Ledger, local: LocalStorage, root: Path, start_peer: StartPeer
) -> None:
    rig = Rig(ledger, local, FakeClock())
    first, second = rig.partial(FIRST), rig.partial(SECOND)
    final = rig.concatenate(made_of(first, second, first))
    for step in STEPS[:-2]:
        peer = start_peer(database, root, stops=(step,))
        peer.begin("finalize")
        assert peer.wait_for_stop() == step
        peer.kill()
    assert rig.finalize()
    assert_made(rig, final)
    assert_kept(rig, first, second)


# Asked for by operators


def test_what_waits_cannot_be_finalized_and_what_has_failed_can_be_tried_again(rig: Rig) -> None:
    full, slow = rig.partial(FIRST), rig.partial(SECOND, sent=3)
    final = rig.concatenate(made_of(full, slow))
    for upload in (final, full):
        with pytest.raises(UploadNotOpen):
            rig.appends.finalize(upload.id)
        assert rig.state(upload) is State.OPEN
    rig.service.end(slow.id)
    for _ in range(2):
        assert rig.finalize()
        assert rig.state(final) is State.FAILED
        assert rig.appends.finalize(final.id).state is State.FINALIZING
    assert rig.events(final).count("retry_queued") == 2


def test_what_a_final_is_made_of_is_told_in_order_when_partials_have_gone(rig: Rig) -> None:
    first, second = rig.partial(FIRST), rig.partial(SECOND)
    final = rig.concatenate(made_of(first, second, first))
    rig.finalize()
    rig.service.end(second.id)
    told = rig.ledger.concatenations.sources(final.id)
    assert [partial and partial.id for partial in told] == made_of(first, second, first)
    assert staged_object(first).staging_key is not None
