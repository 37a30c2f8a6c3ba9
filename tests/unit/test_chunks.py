"""Chunks from body to file: stored, compared, replaced, confirmed; on memory and on local disk."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from app.domain.parts import Geometry
from app.domain.states import State
from app.errors import (
    LeaseLost,
    PartConflict,
    PartSizeMismatch,
    StorageFault,
    StorageUnavailable,
    UploadLocked,
    UploadTooLarge,
    WrongRoot,
)
from app.ledger.database import Ledger
from app.ledger.models import leases, uploads
from app.ledger.records import AliasKey
from app.storage.base import Capabilities, Storage
from app.storage.memory import MemoryStorage
from app.uploads.chunks import Chunk, ChunkService
from app.uploads.creating import Wish
from app.uploads.views import UploadView
from tests.harness.bodies import PieceBody
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.rig import PART_BYTES, Rig

#: Some buffers of the pump, so that a difference can be within, before and behind one.
CHUNK_BYTES = 5 * 1024 * 1024 + 17
CONTENT = random.Random(1).randbytes(2 * CHUNK_BYTES)

ALIAS = AliasKey("resumable", "alice", "movie")


class Desk:
    """A service, and one file's chunks sent to it."""

    def __init__(self, rig: Rig, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.rig = rig
        self.chunk_bytes = chunk_bytes
        self.service = ChunkService(rig.ledger, rig.storage, rig.clock, rig.policy, rig.service)
        rig.service.jobs.wake = self.finalize

    def finalize(self) -> None:
        self.rig.finalize()

    def chunk(self, index: int, length: int = len(CONTENT), **wish: object) -> Chunk:
        count = max(1, length // self.chunk_bytes)
        cut = Geometry(length, self.chunk_bytes, count)
        wished = Wish("movie.mp4", length, geometry=cut, **wish)  # type: ignore[arg-type]
        return Chunk("resumable", ALIAS, index, count, wished)

    def put(
        self, index: int, content: bytes = CONTENT, *, body: PieceBody | None = None
    ) -> UploadView:
        """Send a chunk of a content, or another body instead."""
        begin = index * self.chunk_bytes
        sent = content[begin : begin + self.chunk_bytes]
        return self.service.put(self.chunk(index, len(content)), body or PieceBody([sent]))

    def has(self, index: int) -> bool:
        return self.service.find(self.chunk(index)) is not None


@pytest.fixture
def desk(ledger: Ledger, storage: Storage, clock: FakeClock) -> Desk:
    """A service on each storage in turn."""
    return Desk(Rig(ledger, storage, clock, complete_wait_seconds=1))


@pytest.fixture
def rig(desk: Desk) -> Rig:
    """What is behind the service."""
    return desk.rig


def changed(*places: int) -> bytes:
    """Return the content with other bytes at some places."""
    content = bytearray(CONTENT)
    for place in places:
        content[place] ^= 1
    return bytes(content)


def final(rig: Rig, view: UploadView) -> bytes:
    """Return the bytes of the finished file."""
    return rig.read(rig.record(view.id).final_key)


def test_the_last_chunk_is_answered_with_the_finished_file(desk: Desk, rig: Rig) -> None:
    first = desk.put(1)
    assert (first.state, first.received, first.final_path) == (State.OPEN, 1, None)
    last = desk.put(0)
    assert (last.state, last.received, last.id) == (State.COMPLETE, 2, first.id)
    assert last.final_path == rig.storage.location(f"files/{last.id}_movie.mp4")
    assert final(rig, last) == CONTENT
    assert rig.events(rig.record(last.id)) == [
        "created",
        "completed",
        "processing_started",
        "finalized",
    ]


def test_an_empty_file_is_one_empty_chunk(desk: Desk, rig: Rig) -> None:
    view = desk.put(0, b"")
    assert view.state is State.COMPLETE
    assert final(rig, view) == b""


def test_the_last_chunk_does_not_wait_for_long_for_the_file(desk: Desk, rig: Rig) -> None:
    rig.service.jobs.wake = lambda: None
    desk.put(0)
    last = desk.put(1)
    assert (last.state, last.received, last.final_path) == (State.FINALIZING, 2, None)


def test_a_chunk_that_comes_again_changes_nothing(desk: Desk, rig: Rig, database: Database) -> None:
    first = desk.put(0)
    before = database.rows(uploads)
    assert desk.put(0) == first
    assert database.rows(uploads) == before
    assert database.rows(leases) == []


@pytest.mark.parametrize(
    "place",
    [0, 1, 1024 * 1024 - 1, 1024 * 1024, 3 * 1024 * 1024 + 5, CHUNK_BYTES - 1],
)
def test_other_bytes_replace_a_chunk_wherever_they_begin(desk: Desk, rig: Rig, place: int) -> None:
    desk.put(0)
    content = changed(place)
    assert desk.put(0, content).received == 1
    assert final(rig, desk.put(1, content)) == content


def test_a_chunk_is_withdrawn_before_other_bytes_are_written(desk: Desk, rig: Rig) -> None:
    """Whatever happens then, nobody takes the mixture for the chunk."""
    desk.put(0)
    content = changed(CHUNK_BYTES // 2)
    broken = PieceBody([content[: CHUNK_BYTES - 1]], cut=1)
    with pytest.raises(PartSizeMismatch):
        desk.put(0, content, body=broken)
    assert not desk.has(0)
    assert rig.service.status(desk.put(1).id, sees=None, with_parts=False).received == 1
    assert final(rig, desk.put(0, content)) == changed(CHUNK_BYTES // 2)


@pytest.mark.parametrize("sent_bytes", [0, 1, CHUNK_BYTES - 1])
def test_equal_bytes_that_break_off_leave_the_chunk_stored(desk: Desk, sent_bytes: int) -> None:
    desk.put(0)
    broken = PieceBody([CONTENT[:sent_bytes]], cut=CHUNK_BYTES - sent_bytes)
    with pytest.raises(PartSizeMismatch):
        desk.put(0, body=broken)
    assert desk.has(0)


def test_a_chunk_of_another_length_is_refused_stored_or_not(desk: Desk, database: Database) -> None:
    for sent in (CONTENT[: CHUNK_BYTES - 1], CONTENT[: CHUNK_BYTES + 1]):
        for chunked in (False, True):
            with pytest.raises(PartSizeMismatch):
                desk.put(0, body=PieceBody([sent], chunked=chunked))
            assert not desk.has(0)
    desk.put(0)
    for sent in (CONTENT[: CHUNK_BYTES - 1], CONTENT[: CHUNK_BYTES + 1]):
        for chunked in (False, True):
            with pytest.raises(PartSizeMismatch):
                desk.put(0, body=PieceBody([sent], chunked=chunked))
            assert desk.has(0)
    assert database.rows(leases) == []


def test_a_refused_first_chunk_leaves_no_upload(desk: Desk, rig: Rig, database: Database) -> None:
    with pytest.raises(PartSizeMismatch):
        desk.put(0, body=PieceBody([CONTENT[:5]], chunked=True))
    (row,) = database.rows(uploads)
    upload = rig.record(row.id)
    assert (upload.state, upload.staging_key) == (State.EXPIRED, None)
    assert rig.events(upload) == ["created", "abandoned"]
    desk.put(0)
    assert final(rig, desk.put(1)) == CONTENT


def test_a_cut_first_chunk_leaves_its_upload_for_the_next_try(
    desk: Desk, rig: Rig, database: Database
) -> None:
    with pytest.raises(PartSizeMismatch):
        desk.put(0, body=PieceBody([CONTENT[:5]], cut=CHUNK_BYTES - 5))
    (row,) = database.rows(uploads)
    assert desk.put(0).id == row.id


def test_a_refused_chunk_ends_no_upload_that_another_chunk_is_written_to(desk: Desk) -> None:
    refused = []

    class Rival(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not refused:
                with pytest.raises(PartSizeMismatch) as refusal:
                    desk.put(1, body=PieceBody([b"short"], chunked=True))
                refused.append(refusal)

    view = desk.put(0, body=Rival([CONTENT[:CHUNK_BYTES]]))
    assert refused
    assert desk.put(1).id == view.id


def test_an_upload_that_expires_while_a_chunk_comes_has_it_sent_again(
    desk: Desk, database: Database
) -> None:
    class Late(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            database.change(uploads, state=State.EXPIRED)

    with pytest.raises(LeaseLost):
        desk.put(0, body=Late([CONTENT[:CHUNK_BYTES]]))
    desk.put(0)
    assert desk.put(1).state is State.COMPLETE


def test_a_complete_file_confirms_its_bytes_and_refuses_others(
    desk: Desk, rig: Rig, clock: FakeClock
) -> None:
    desk.put(0)
    done = desk.put(1)
    for index in (0, 1):
        assert desk.put(index) == done
    for place in (0, CHUNK_BYTES - 1):
        with pytest.raises(PartConflict, match="whole"):
            desk.put(0, changed(place))
    assert final(rig, done) == CONTENT
    clock.advance(rig.policy.resumable_grace_seconds)
    assert not desk.has(0)
    assert desk.put(0, changed(0)).id != done.id
    assert final(rig, done) == CONTENT


def test_a_file_that_is_being_finalized_confirms_its_bytes_and_refuses_others(
    desk: Desk, rig: Rig
) -> None:
    rig.service.jobs.wake = lambda: None
    desk.put(0)
    desk.put(1)
    assert desk.put(0).state is State.FINALIZING
    with pytest.raises(PartConflict):
        desk.put(0, changed(0))
    assert rig.finalize()
    assert desk.put(0).state is State.COMPLETE


def test_a_file_that_is_published_and_not_recorded_yet_confirms_its_bytes(
    desk: Desk, rig: Rig
) -> None:
    rig.service.jobs.wake = lambda: None
    desk.put(0)
    record = rig.record(desk.put(1).id)
    rig.storage.publish(rig.staging.ensure(record), {}, lambda moved, total: None)
    assert desk.put(0).state is State.FINALIZING
    with pytest.raises(PartConflict):
        desk.put(0, changed(0))


def test_bytes_that_turn_out_to_differ_when_the_file_is_whole_are_refused(
    desk: Desk, rig: Rig, database: Database
) -> None:
    """Nobody can have it finalized while a chunk is being compared; here it is all the same."""
    desk.put(0)

    class Rival(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not desk.has(1):
                full, now_ms = desk.put(1), rig.clock.now_ms()
                with pytest.raises(UploadLocked):
                    rig.ledger.uploads.queue_finalize(full.id, now_ms)
                database.change(uploads, state=State.FINALIZING, due_at_ms=now_ms)
                desk.finalize()

    content = changed(CHUNK_BYTES - 1)
    with pytest.raises(PartConflict):
        desk.put(0, content, body=Rival([content[:CHUNK_BYTES]]))
    view = desk.put(0)
    assert view.state is State.COMPLETE
    assert final(rig, view) == CONTENT


def test_a_failed_file_is_tried_again_when_a_chunk_comes_again(
    desk: Desk, rig: Rig, database: Database
) -> None:
    rig.service.jobs.wake = lambda: None
    desk.put(0)
    view = desk.put(1)
    database.change(uploads, state=State.FAILED, error="no such luck")
    with pytest.raises(StorageFault, match="no such luck"):
        desk.has(0)
    with pytest.raises(PartConflict):
        desk.put(0, changed(0))
    rig.service.jobs.wake = desk.finalize
    assert desk.put(0).state is State.COMPLETE
    assert "retry_queued" in rig.events(rig.record(view.id))


def test_a_file_that_fails_for_good_says_so(desk: Desk, rig: Rig, database: Database) -> None:
    desk.put(0)

    def fail() -> None:
        database.change(uploads, state=State.FAILED, error="no such luck")

    rig.service.jobs.wake = fail
    with pytest.raises(StorageFault, match="no such luck"):
        desk.put(1)


def test_an_upload_whose_object_has_vanished_starts_anew(desk: Desk, rig: Rig) -> None:
    desk.put(0)
    record = rig.record(desk.service.find(desk.chunk(0)).id)  # type: ignore[union-attr]
    rig.storage.discard(rig.staging.ensure(record))
    with pytest.raises(StorageUnavailable, match="vanished"):
        desk.put(0)
    assert not desk.has(0)
    desk.put(1)
    assert final(rig, desk.put(0)) == CONTENT


def test_a_file_that_has_gone_from_the_storage_confirms_nothing(desk: Desk, rig: Rig) -> None:
    desk.put(0)
    done = desk.put(1)
    rig.storage.delete(rig.record(done.id).final_key or "")
    with pytest.raises(StorageUnavailable):
        desk.put(0)


def test_an_upload_to_which_no_chunk_comes_is_abandoned(
    ledger: Ledger, storage: Storage, clock: FakeClock
) -> None:
    desk = Desk(Rig(ledger, storage, clock, abandoned_after_seconds=600))
    first = desk.put(0)
    clock.advance(300)
    desk.put(0, changed(1))
    clock.advance(599)
    assert desk.has(0)
    clock.advance(1)
    assert not desk.has(0)
    assert [swept.upload_id for swept in desk.rig.sweep()] == [first.id]


def test_an_upload_lives_on_as_long_as_chunks_come(desk: Desk, rig: Rig, clock: FakeClock) -> None:
    desk.put(0)
    clock.advance(rig.policy.ttl_seconds - 1)
    view = desk.put(0)
    clock.advance(2)
    assert not desk.has(0), "what changes nothing is no progress"
    desk.put(0)
    clock.advance(rig.policy.ttl_seconds - 1)
    assert desk.put(1).state is State.COMPLETE
    assert [swept.upload_id for swept in rig.sweep()] == [view.id]


def test_an_upload_whose_bytes_are_on_another_disk_is_not_touched(
    desk: Desk, database: Database
) -> None:
    desk.put(0)
    for state in (State.OPEN, State.COMPLETE):
        database.change(uploads, state=state, root_id="other", completed_at_ms=2**42)
        with pytest.raises(WrongRoot):
            desk.put(0)
        with pytest.raises(WrongRoot):
            desk.put(1 if state is State.OPEN else 0)
        assert database.rows(leases) == []


def test_a_file_over_a_limit_is_refused_before_anything_is_made(
    desk: Desk, rig: Rig, database: Database
) -> None:
    chunk = desk.chunk(0, max_bytes=len(CONTENT) - 1)
    with pytest.raises(UploadTooLarge):
        desk.service.put(chunk, PieceBody([CONTENT[:CHUNK_BYTES]]))
    with pytest.raises(UploadTooLarge):
        desk.service.find(chunk)
    assert database.rows(uploads) == []


@pytest.mark.parametrize("length", [200_000, 2**63 - 1])
def test_a_file_of_too_many_chunks_is_refused_before_the_ledger_is_asked(
    desk: Desk, database: Database, length: int
) -> None:
    """PostgreSQL would not even look for the last one's word: it is no INTEGER."""
    cut = Geometry(length, 1, length)
    chunk = replace(desk.chunk(0), index=length - 1, wish=Wish("a", length, geometry=cut))
    with pytest.raises(UploadTooLarge):
        desk.service.find(chunk)
    with pytest.raises(UploadTooLarge):
        desk.service.put(chunk, PieceBody([b"x"]))
    assert database.rows(uploads) == []


def test_a_second_writer_is_told_to_come_back(desk: Desk, rig: Rig) -> None:
    """And finds the chunk stored, if the first one is done by then."""
    desk.put(1)
    outcomes: list[object] = []

    class Rival(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not outcomes:
                with pytest.raises(UploadLocked) as refused:
                    desk.put(0)
                outcomes.append(refused.value)

    assert desk.put(0, body=Rival([CONTENT[:CHUNK_BYTES]])).state is State.COMPLETE
    assert outcomes


class _Unreadable(MemoryStorage):
    """What cannot be read before it is published, as parts in a bucket."""

    capabilities = Capabilities(
        random_writes=True,
        native_thread_writes=False,
        readable_staging=False,
        concatenation=False,
    )

    def open(self, key: str) -> object:  # type: ignore[override]
        assert not key.startswith(".staging"), "unreadable"
        return super().open(key)


@pytest.fixture
def unreadable(ledger: Ledger, clock: FakeClock) -> Desk:
    """A service on a storage whose staged bytes cannot be read."""
    return Desk(Rig(ledger, _Unreadable(), clock, complete_wait_seconds=1))


def test_where_stored_bytes_cannot_be_read_a_chunk_is_replaced_as_a_whole(
    unreadable: Desk,
) -> None:
    unreadable.put(0)
    assert unreadable.put(0).received == 1
    content = changed(5)
    broken = PieceBody([content[:6]], cut=CHUNK_BYTES - 6)
    with pytest.raises(PartSizeMismatch):
        unreadable.put(0, content, body=broken)
    assert not unreadable.has(0)
    unreadable.put(0, content)
    assert final(unreadable.rig, unreadable.put(1, content)) == content


def test_where_stored_bytes_cannot_be_read_nothing_is_confirmed_before_the_file_is_there(
    unreadable: Desk,
) -> None:
    unreadable.rig.service.jobs.wake = lambda: None
    unreadable.put(0)
    unreadable.put(1)
    with pytest.raises(UploadLocked):
        unreadable.put(0)
    assert unreadable.rig.finalize()
    assert unreadable.put(0).state is State.COMPLETE


def test_chunks_without_a_count_are_taken_as_they_come(desk: Desk, rig: Rig) -> None:
    content = CONTENT[: 2 * PART_BYTES + 400]
    small = Desk(rig, PART_BYTES)
    lengths = [PART_BYTES, PART_BYTES, 400]
    told = [None, 3, 3]
    for index, (length, count) in enumerate(zip(lengths, told, strict=True)):
        begin = index * PART_BYTES
        cut = Geometry(len(content), PART_BYTES, count or 2)
        wish = replace(small.chunk(index).wish, length=len(content), geometry=cut)
        chunk = Chunk("resumable", ALIAS, index, count, wish)
        assert small.service.find(chunk) is None
        view = small.service.put(chunk, PieceBody([content[begin : begin + length]]))
    assert (view.state, view.part_count) == (State.COMPLETE, 3)
    assert final(rig, view) == content
