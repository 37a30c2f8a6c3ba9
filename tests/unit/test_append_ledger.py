"""Appends in the ledger: one writer at a time, and an offset that never goes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.states import State
from app.errors import LeaseLost, StorageFull, UploadNotFound, UploadNotOpen
from app.ledger.appends import AppendCommit
from app.ledger.database import Ledger
from app.ledger.leases import APPEND, FINALIZE, LEASE_MS, Lease
from app.ledger.models import leases
from app.ledger.records import UploadRecord
from app.storage.memory import MemoryStorage
from app.uploads.staging import staged_object
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.races import at_once
from tests.harness.rig import TTL_SECONDS, Rig, outcome
from tests.harness.wire import examples

LENGTH = 1000
TTL_MS = int(TTL_SECONDS * 1000)


def claimed(rig: Rig, upload: UploadRecord) -> tuple[UploadRecord, Lease]:
    """Claim the end of an upload that nobody else has; return it as it is then, and the lease."""
    claim = rig.ledger.appends.claim(upload.id, rig.clock.now_ms(), TTL_MS, rig.clock.monotonic)
    assert claim.lease is not None
    return claim.upload, claim.lease


def checkpoint(rig: Rig, upload: UploadRecord, lease: Lease, offset: int) -> None:
    now_ms = rig.clock.now_ms()
    rig.ledger.appends.checkpoint(lease, upload, offset, now_ms, upload.expires_at_ms)


def record(
    rig: Rig, upload: UploadRecord, lease: Lease, offset: int, *, finalize_at_most: int = 0
) -> AppendCommit:
    return rig.ledger.appends.record(
        lease,
        upload,
        offset,
        rig.clock.now_ms(),
        upload.expires_at_ms,
        finalize_at_most=finalize_at_most,
        monotonic=rig.clock.monotonic,
    )


# Any order of deeds


@dataclass
class Model:
    """What must be true of an upload, whatever its writers have tried."""

    offset: int = 0
    state: State = State.OPEN
    holder: int | None = None  # whose lease is good; None: nobody's
    completed: int = 0


class Writers:
    """Two processes at one upload, and the model that they are compared with."""

    def __init__(self, rig: Rig, database: Database, others: Ledger) -> None:
        self.rigs = [rig, Rig(others, rig.storage, rig.clock)]
        self.database = database
        self.upload = rig.create_appended(length=LENGTH)
        self.model = Model()
        self.held: list[tuple[UploadRecord, Lease] | None] = [None, None]

    def claim(self, who: int, _: int) -> None:
        rig, model = self.rigs[who], self.model
        claim = rig.ledger.appends.claim(
            self.upload.id, rig.clock.now_ms(), TTL_MS, rig.clock.monotonic
        )
        free = model.holder is None and model.state is State.OPEN
        assert (claim.lease is not None) is free
        assert (claim.upload.offset, claim.upload.state) == (model.offset, model.state)
        if claim.lease is not None:
            model.holder, self.held[who] = who, (claim.upload, claim.lease)

    def checkpoint(self, who: int, more: int) -> None:
        self._commit(who, more, checkpoint, ends=False)

    def record(self, who: int, more: int) -> None:
        self._commit(who, more, record, ends=True)

    def record_all(self, who: int, _: int) -> None:
        self._commit(who, LENGTH, record, ends=True)

    def release(self, who: int, _: int) -> None:
        if held := self.held[who]:
            self.rigs[who].ledger.leases.release(held[1])
            self.held[who] = None
            if self.model.holder == who:
                self.model.holder = None

    def run_out(self, _who: int, _: int) -> None:
        """Let the lease run out: its holder was frozen, or its network is gone."""
        self.database.age_leases(LEASE_MS / 1000)
        self.model.holder = None

    def cancel(self, who: int, _: int) -> None:
        if self.model.state is State.OPEN:
            self.rigs[who].ledger.uploads.cancel(self.upload.id, self.rigs[who].clock.now_ms())
            self.model.state = State.CANCELLED

    def _commit(self, who: int, more: int, deed: Callable[..., object], *, ends: bool) -> None:
        held, model = self.held[who], self.model
        if held is None:
            return
        offset = min(LENGTH, model.offset + more)
        try:
            deed(self.rigs[who], *held, offset)
        except LeaseLost:
            assert model.holder != who
        except UploadNotFound:
            assert model.state is State.CANCELLED
        else:
            assert (model.holder, model.state) == (who, State.OPEN)
            model.offset = offset
            if ends:
                model.holder = self.held[who] = None
                if offset == LENGTH:
                    model.state, model.completed = State.FINALIZING, 1

    def compare(self) -> None:
        now = self.rigs[0].record(self.upload.id)
        assert (now.offset, now.state) == (self.model.offset, self.model.state)
        assert self.rigs[0].events(now).count("completed") == self.model.completed


DEEDS = [
    Writers.claim,
    Writers.claim,
    Writers.checkpoint,
    Writers.record,
    Writers.record,
    Writers.record_all,
    Writers.release,
    Writers.run_out,
    Writers.cancel,
]


@pytest.fixture
def others(database: Database) -> Ledger:
    """The ledger as another process has it."""
    return database.ledger()


@examples
@given(
    st.lists(
        st.tuples(st.sampled_from(DEEDS), st.integers(0, 1), st.integers(0, LENGTH // 3)),
        min_size=5,
        max_size=25,
    )
)
def test_whatever_writers_do_only_who_holds_the_lease_moves_the_offset(
    rig: Rig,
    database: Database,
    others: Ledger,
    deeds: list[tuple[Callable[[Writers, int, int], None], int, int]],
) -> None:
    writers = Writers(rig, database, others)
    for deed, who, more in deeds:
        deed(writers, who, more)
        writers.compare()
    for who in (0, 1):
        writers.release(who, 0)


def test_of_many_that_claim_at_once_one_gets_the_lease(rig: Rig, others: Ledger) -> None:
    ledgers = [rig.ledger, others] * 3
    for _ in range(5):
        upload = rig.create_appended(length=LENGTH)
        claims = at_once(
            *(
                lambda ledger=ledger, upload=upload: ledger.appends.claim(  # type: ignore[misc]
                    upload.id, rig.clock.now_ms(), TTL_MS, rig.clock.monotonic
                )
                for ledger in ledgers
            )
        )
        assert [claim.lease is not None for claim in claims].count(True) == 1  # type: ignore[attr-defined]


# Claims


def test_an_unknown_upload_leaves_no_lease_behind(rig: Rig, database: Database) -> None:
    with pytest.raises(UploadNotFound):
        rig.ledger.appends.claim("nobody", rig.clock.now_ms(), TTL_MS, rig.clock.monotonic)
    assert database.rows(leases) == []


@pytest.mark.parametrize("end", ["cancelled", "expired", "finalizing"])
def test_what_takes_no_bytes_is_told_without_a_lease(
    rig: Rig, database: Database, clock: FakeClock, end: str
) -> None:
    upload = rig.create_appended(length=LENGTH)
    if end == "cancelled":
        rig.service.end(upload.id)
    elif end == "expired":
        clock.advance(TTL_SECONDS)
    else:
        record(rig, *claimed(rig, upload), LENGTH)
    claim = rig.ledger.appends.claim(upload.id, clock.now_ms(), TTL_MS, clock.monotonic)
    assert claim.lease is None
    assert database.rows(leases) == []


def test_the_holder_is_told_while_there_is_one(rig: Rig) -> None:
    upload = rig.create_appended(length=LENGTH)
    assert rig.ledger.appends.holder(upload.id) is None
    _, lease = claimed(rig, upload)
    assert rig.ledger.appends.holder(upload.id)
    rig.ledger.leases.release(lease)
    assert rig.ledger.appends.holder(upload.id) is None


# Commits


def test_who_has_lost_the_lease_records_nothing(
    rig: Rig, database: Database, others: Ledger
) -> None:
    held = claimed(rig, rig.create_appended(length=LENGTH))
    database.age_leases(LEASE_MS / 1000)
    for taken_over in (False, True):
        if taken_over:
            claimed(Rig(others, rig.storage, rig.clock), held[0])
        for deed in (checkpoint, record):
            with pytest.raises(LeaseLost):
                deed(rig, *held, LENGTH)
        assert rig.record(held[0].id) == held[0]


def test_an_offset_never_goes_back(rig: Rig) -> None:
    held = claimed(rig, rig.create_appended(length=LENGTH))
    checkpoint(rig, *held, 500)
    for deed in (checkpoint, record):
        with pytest.raises(LeaseLost):
            deed(rig, *held, 499)
    assert rig.record(held[0].id).offset == 500
    assert record(rig, *held, 500).upload.offset == 500


def test_nothing_is_recorded_of_what_was_written_on_another_node(rig: Rig) -> None:
    upload, lease = claimed(rig, rig.create_appended(length=LENGTH))
    moved = rig.ledger.uploads.move(upload, "elsewhere", None, lease)
    assert moved is not None
    for deed in (checkpoint, record):
        with pytest.raises(LeaseLost):
            deed(rig, upload, lease, 5)
    assert rig.record(upload.id).offset == 0
    record(rig, moved, lease, 5)


def test_a_commit_tells_the_upload_as_the_database_has_it(rig: Rig) -> None:
    upload = rig.create_appended(length=LENGTH)
    for offset in (10, LENGTH):
        rig.clock.sleep(1)
        commit = record(rig, *claimed(rig, upload), offset)
        assert commit.upload == rig.record(upload.id)
    assert commit.upload.state is State.FINALIZING
    assert rig.events(upload) == ["created", "completed"]


def test_the_last_byte_may_claim_the_upload_for_finalizing(rig: Rig, database: Database) -> None:
    uploads = [rig.create_appended(length=LENGTH) for _ in range(2)]
    first = record(rig, *claimed(rig, uploads[0]), LENGTH, finalize_at_most=1)
    second = record(rig, *claimed(rig, uploads[1]), LENGTH, finalize_at_most=1)
    assert rig.ledger.appends.hold(second) is None  # there is no place
    lease = rig.ledger.appends.hold(first)
    if not database.is_sqlite:
        assert lease is None
        return
    assert lease is not None
    assert lease.key == FINALIZE
    rig.ledger.leases.release(lease)
    assert rig.events(uploads[0]) == ["created", "completed", "processing_started"]


def test_progress_moves_the_expiry_on(rig: Rig, clock: FakeClock) -> None:
    upload, lease = claimed(rig, rig.create_appended(length=LENGTH))
    later = upload.expires_at_ms + 5
    rig.ledger.appends.checkpoint(lease, upload, 5, clock.now_ms() + 1, later)
    now = rig.record(upload.id)
    assert (now.expires_at_ms, now.progress_at_ms) == (later, clock.now_ms() + 1)


def test_a_commit_ends_the_lease_and_a_checkpoint_prolongs_it(rig: Rig, database: Database) -> None:
    upload, lease = claimed(rig, rig.create_appended(length=LENGTH))
    (before,) = database.rows(leases)
    database.age_leases(2)
    checkpoint(rig, upload, lease, 5)
    (after,) = database.rows(leases)
    assert after.until_ms >= before.until_ms
    assert (after.key, after.generation) == (APPEND, lease.generation)
    record(rig, upload, lease, 6)
    assert database.rows(leases) == []


# Lengths that are told late


def test_a_length_is_set_once(rig: Rig) -> None:
    upload, lease = claimed(rig, rig.create_appended(b"bytes"))
    assert rig.ledger.appends.set_length(lease, LENGTH, None).length == LENGTH
    with pytest.raises(LeaseLost):
        rig.ledger.appends.set_length(lease, LENGTH + 1, None)
    assert rig.record(upload.id).length == LENGTH


def test_a_length_needs_room_for_what_is_still_to_come(rig: Rig) -> None:
    other = rig.create_appended(b"12345", 15)  # has announced 10 more
    _, lease = claimed(rig, rig.create_appended(b"bytes"))
    with pytest.raises(StorageFull):
        rig.ledger.appends.set_length(lease, 20, 24)
    assert rig.ledger.appends.set_length(lease, 20, 25).length == 20
    assert rig.record(other.id).length == 15


def test_a_length_is_not_set_by_who_has_lost_the_lease(rig: Rig, database: Database) -> None:
    upload, lease = claimed(rig, rig.create_appended(b"bytes"))
    database.age_leases(LEASE_MS / 1000)
    with pytest.raises(LeaseLost):
        rig.ledger.appends.set_length(lease, LENGTH, None)
    assert rig.record(upload.id).length is None


# Asked for by operators


def test_only_full_uploads_are_queued_and_only_once(rig: Rig) -> None:
    upload = rig.create_appended(b"bytes", 6)
    queue = rig.ledger.appends.queue_finalize
    for lacking in (upload, rig.create_appended(b"bytes")):
        with pytest.raises(UploadNotOpen, match="5 of"):
            queue(lacking.id, rig.clock.now_ms())
    rig.append(upload, b"!")
    for _ in range(2):
        assert queue(upload.id, rig.clock.now_ms()).state is State.FINALIZING
    assert rig.finalize()
    assert queue(upload.id, rig.clock.now_ms()).state is State.COMPLETE
    rig.service.end(upload.id)
    for gone in (upload.id, "nobody"):
        assert outcome(queue, gone, rig.clock.now_ms()) == "UploadNotFound"


def test_where_no_byte_was_stored_finalizing_says_that_bytes_are_lost(rig: Rig) -> None:
    assert isinstance(rig.storage, MemoryStorage)
    upload = rig.create_appended(length=LENGTH)
    rig.storage.discard(staged_object(upload))
    record(rig, *claimed(rig, upload), LENGTH)
    assert rig.finalize()
    now = rig.record(upload.id)
    assert (now.state, now.offset, now.staging_key) == (State.OPEN, 0, None)
