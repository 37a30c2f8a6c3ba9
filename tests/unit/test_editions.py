"""Edited files sent again under their old names: none is finished of parts of two editions."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from app.domain.parts import Geometry
from app.domain.states import State
from app.errors import PartConflict, PartSizeMismatch, UploadLocked, UploadNotOpen
from app.ledger.database import Ledger
from app.ledger.editions import SETTLE_MS
from app.ledger.records import AliasKey
from app.storage.base import PartWriter, StagedObject
from app.storage.memory import MemoryStorage
from app.uploads.chunks import Chunk, ChunkService
from app.uploads.creating import Wish
from app.uploads.views import UploadView
from tests.harness.bodies import PieceBody
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.rig import PART_BYTES, Rig

COUNT = 5

#: How many ways to interrupt, edit and send again are tried; PostgreSQL takes four times as
#: long for each, and what is decided does not depend on it.
TRIES = {"sqlite": 150, "postgresql": 30}


class Edited:
    """A file in several editions, sent chunk by chunk by a client that does not test."""

    def __init__(self, rig: Rig, name: str = "movie") -> None:
        self.rig = rig
        self.alias = AliasKey("resumable", "alice", name)
        self.service = ChunkService(rig.ledger, rig.storage, rig.clock, rig.policy, rig.service)
        rig.service.jobs.wake = self._finalize
        self.content = random.Random(name).randbytes(COUNT * PART_BYTES)

    def _finalize(self) -> None:
        self.rig.finalize()

    def edit(self, parts: Iterable[int]) -> None:
        """Change the last byte of some parts."""
        content = bytearray(self.content)
        for part in parts:
            content[(part + 1) * PART_BYTES - 1] ^= 0xFF
        self.content = bytes(content)

    def body(self, part: int) -> bytes:
        return self.content[part * PART_BYTES : (part + 1) * PART_BYTES]

    def put(self, part: int, body: PieceBody | None = None) -> UploadView:
        """Send a chunk of the current edition."""
        return self.service.put(self.chunk(part), body or PieceBody([self.body(part)]))

    def chunk(self, part: int) -> Chunk:
        """Return what a request for a chunk tells of it."""
        cut = Geometry(len(self.content), PART_BYTES, COUNT)
        wish = Wish("movie.mp4", len(self.content), geometry=cut)
        return Chunk("resumable", self.alias, part, COUNT, wish)

    def put_missing(self) -> UploadView:
        """Send what the server says it has not, as a client that asks; return the last answer."""
        missing = [part for part in range(COUNT) if self.service.find(self.chunk(part)) is None]
        return self.put_all(missing)

    def put_all(self, parts: Iterable[int] = range(COUNT)) -> UploadView:
        """Send chunks one after the other; return the last answer."""
        return [self.put(part) for part in parts][-1]

    def final(self, view: UploadView) -> bytes:
        return self.rig.read(self.rig.record(view.id).final_key)


class _Bucket(MemoryStorage):
    """A storage whose staged bytes cannot be read, and whose receipts tell what they are."""

    capabilities = replace(MemoryStorage.capabilities, readable_staging=False)

    def writer(self, staged: StagedObject, index: int, offset: int, length: int) -> PartWriter:
        return _HashingWriter(super().writer(staged, index, offset, length))


class _HashingWriter(PartWriter):
    def __init__(self, writer: PartWriter) -> None:
        self._writer = writer
        self._hash = hashlib.md5(usedforsecurity=False)

    def write(self, buffer: memoryview) -> None:
        self._hash.update(buffer)
        self._writer.write(buffer)

    def commit(self, *, durable: bool) -> str:
        self._writer.commit(durable=durable)
        return self._hash.hexdigest()

    def abort(self) -> None:
        self._writer.abort()


@pytest.fixture
def rig(ledger: Ledger, clock: FakeClock) -> Rig:
    return Rig(ledger, MemoryStorage(), clock, complete_wait_seconds=1)


@pytest.fixture
def file(rig: Rig) -> Edited:
    return Edited(rig)


def test_a_gap_between_parts_of_two_editions_completes_nothing(file: Edited, rig: Rig) -> None:
    view = file.put_all([0, 1, 3, 4])
    file.edit([0, 1, 3, 4])
    for part in (0, 1, 2, 3):
        view = file.put(part)
        assert view.state is State.OPEN
    assert view.received == COUNT
    assert "completed" not in rig.events(rig.record(view.id))
    done = file.put(4)
    assert (done.state, done.id) == (State.COMPLETE, view.id)
    assert file.final(done) == file.content
    assert rig.events(rig.record(view.id)).count("completed") == 1


def test_in_a_bucket_receipts_tell_of_an_edit(ledger: Ledger, clock: FakeClock) -> None:
    file = Edited(Rig(ledger, _Bucket(), clock, complete_wait_seconds=1))
    file.put_all([0, 1, 3, 4])
    file.edit([0, 1, 3, 4])
    for part in (0, 1, 2, 3):
        assert file.put(part).state is State.OPEN
    done = file.put(4)
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def test_in_a_bucket_a_part_that_comes_again_unchanged_delays_nothing(
    ledger: Ledger, clock: FakeClock
) -> None:
    file = Edited(Rig(ledger, _Bucket(), clock, complete_wait_seconds=1))
    file.put_all([0, 1, 1, 2, 3])
    assert file.put(4).state is State.COMPLETE


def test_parts_that_come_again_unchanged_are_of_the_next_edition(file: Edited) -> None:
    file.put_all([0, 1, 3, 4])
    file.edit([1])
    done = file.put_all()
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def test_a_gap_filled_while_an_old_part_is_compared_completes_nothing(file: Edited) -> None:
    file.put_all([1, 2, 3, 4])
    file.edit([4])
    filled: list[UploadView] = []

    class Slow(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not filled:
                filled.append(file.put(0))

    view = file.put(4, Slow([file.body(4)]))
    assert filled[0].state is State.OPEN
    assert (view.state, view.received) == (State.OPEN, COUNT), "nobody knows of what edition 0 is"
    done = file.put_all([0, 1, 2, 3])
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def test_a_comparison_that_finds_no_difference_completes_what_it_has_kept_open(
    file: Edited,
) -> None:
    file.put_all([1, 2, 3, 4])
    filled: list[UploadView] = []

    class Slow(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not filled:
                filled.append(file.put(0))

    assert file.put(4, Slow([file.body(4)])).state is State.COMPLETE
    assert filled[0].state is State.OPEN


def test_parts_of_two_editions_are_never_finalized_however_long_nothing_comes(
    file: Edited, rig: Rig, clock: FakeClock
) -> None:
    """The client is away for half a day while it sends an edited file again."""
    file.put_all([0, 1, 3, 4])
    file.edit([0, 1, 3, 4])
    view = file.put_all([0, 1, 2])
    clock.advance(12 * 3600)
    assert not rig.finalizer.complete_settled()
    assert rig.state(rig.record(view.id)) is State.OPEN
    done = file.put_missing()
    assert (done.state, done.id) == (State.COMPLETE, view.id)
    assert file.final(done) == file.content


def test_whoever_asks_for_it_parts_of_two_editions_are_not_finalized(
    file: Edited, rig: Rig
) -> None:
    file.put_all([0, 1, 3, 4])
    file.edit([0, 4])
    view = file.put_all([0, 1, 2])
    with pytest.raises(UploadNotOpen, match="send it all again, or cancel it"):
        rig.service.complete(view.id, sees=None)
    assert rig.state(rig.record(view.id)) is State.OPEN
    assert "completed" not in rig.events(rig.record(view.id))
    done = file.put_missing()
    assert file.final(done) == file.content
    assert rig.service.complete(view.id, sees=None).state is State.COMPLETE


def test_nobody_has_a_file_finalized_while_a_part_is_being_compared(file: Edited, rig: Rig) -> None:
    """Its next byte may tell of an edit."""
    file.put_all([1, 2, 3, 4])
    asked: list[str] = []

    class Slow(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not asked:
                view = file.put(0)
                with pytest.raises(UploadLocked):
                    rig.service.complete(view.id, sees=None)
                asked.append(view.id)

    file.edit([4])
    view = file.put(4, Slow([file.body(4)]))
    assert asked == [view.id]
    assert view.state is State.OPEN
    done = file.put_missing()
    assert file.final(done) == file.content


def test_a_file_of_one_edition_that_waits_for_its_client_is_finalized_when_asked_for(
    file: Edited, rig: Rig
) -> None:
    view = _held_up(file)
    assert rig.service.complete(view.id, sees=None).state is State.COMPLETE
    assert file.final(view) == file.content


def test_clients_that_ask_are_told_that_older_parts_are_missing(file: Edited) -> None:
    file.put_all([0, 1, 3, 4])
    file.edit([1, 4])
    assert file.put(1).state is State.OPEN
    assert file.service.find(file.chunk(1)) is not None
    for older in (0, 3, 4):
        assert file.service.find(file.chunk(older)) is None
    file.put_all([0])
    assert file.service.find(file.chunk(0)) is not None, "unchanged, it is of the new edition"
    done = file.put_missing()
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def test_a_gap_filled_before_anything_told_of_the_edit_has_to_come_again(file: Edited) -> None:
    """Nobody knows whether it is of the old edition or of the new one."""
    file.put_all([1, 3, 4])
    file.edit([1, 3, 4])
    view = file.put_all()
    assert (view.state, view.received) == (State.OPEN, COUNT)
    done = file.put_missing()
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def _held_up(file: Edited) -> UploadView:
    """Fill a file's gap while a part of it is sent again, and cut that; return the upload."""
    file.put_all([1, 2, 3, 4])
    filled: list[UploadView] = []

    class Cut(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not filled:
                filled.append(file.put(0))

    with pytest.raises(PartSizeMismatch):
        file.put(4, Cut([file.body(4)[:-1]], cut=1))
    (view,) = filled
    assert view.state is State.OPEN
    return view


def test_an_edit_that_is_told_of_while_a_file_is_held_up_holds_it_until_all_has_come(
    file: Edited, rig: Rig, clock: FakeClock
) -> None:
    _held_up(file)
    file.edit([1, 2])
    assert file.put(1).state is State.OPEN
    clock.advance(SETTLE_MS / 1000 + 1)
    assert not rig.finalizer.complete_settled()
    done = file.put_missing()
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def test_a_comparison_that_is_cut_holds_a_file_of_one_edition_up_for_a_minute(
    file: Edited, rig: Rig, clock: FakeClock
) -> None:
    view = _held_up(file)
    clock.advance(SETTLE_MS / 1000 - 1)
    assert not rig.finalizer.complete_settled()
    clock.advance(1)
    assert rig.finalizer.complete_settled()
    assert rig.finalize()
    assert file.final(view) == file.content
    assert rig.events(rig.record(view.id)).count("completed") == 1


def test_nothing_is_settled_while_a_part_is_being_sent_again(
    file: Edited, rig: Rig, clock: FakeClock
) -> None:
    """However long it takes: its next byte may tell of an edit."""
    file.put_all([1, 2, 3, 4])
    seen: list[bool] = []

    class Slow(PieceBody):
        def wait(self, timeout_seconds: float) -> None:
            if not seen:
                assert file.put(0).state is State.OPEN
                clock.advance(SETTLE_MS / 1000 + 1)
                seen.append(bool(rig.finalizer.complete_settled()))

    done = file.put(4, Slow([file.body(4)]))
    assert seen == [False]
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def test_a_file_may_be_edited_again_and_again(file: Edited) -> None:
    file.put_all([0, 1, 2])
    file.put_all([0, 1])  # the same once more
    file.edit([0, 1, 2])
    file.put_all([0, 4])
    file.edit([0, 1, 4])
    for part in range(COUNT - 1):
        assert file.put(part).state is State.OPEN
    done = file.put(COUNT - 1)
    assert done.state is State.COMPLETE
    assert file.final(done) == file.content


def test_a_mixture_that_nothing_tells_of_is_told_to_the_client(file: Edited) -> None:
    """What README's identifier is for: the gap is filled before any old part comes again."""
    file.put_all([1, 2, 3, 4])
    file.edit([1])
    done = file.put(0)
    assert done.state is State.COMPLETE
    with pytest.raises(PartConflict, match="identifier"):
        file.put(1)


def test_an_edited_file_is_never_mixed_once_a_part_has_told_of_the_edit(
    rig: Rig, database: Database
) -> None:
    dice = random.Random(1)
    for number in range(TRIES["sqlite" if database.is_sqlite else "postgresql"]):
        file = Edited(rig, f"file {number}")
        old = dice.sample(range(COUNT), dice.randint(1, COUNT - 1))
        changed = dice.sample(range(COUNT), dice.randint(1, COUNT))
        file.put_all(old)
        file.edit(changed)
        telling = min(set(old) & set(changed), default=COUNT)
        if telling == COUNT or set(old) | set(range(telling)) == set(range(COUNT)):
            continue  # nothing tells, or not before the gaps are filled
        view = file.put_all()
        if view.state is State.OPEN:  # a gap was filled before anything told
            view = file.put_all()
        assert view.state is State.COMPLETE
        assert file.final(view) == file.content, (old, changed)
