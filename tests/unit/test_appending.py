"""Appending: whatever ends a body, what has arrived is kept, and nothing else ever counts."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.domain.states import State
from app.errors import (
    BodyCut,
    BodyTooLong,
    DigestMismatch,
    InvalidField,
    LeaseLost,
    MalformedRequest,
    NotAppendable,
    OffsetMismatch,
    ShuttingDown,
    StorageFull,
    StorageUnavailable,
    TakenOver,
    UploadGone,
    UploadLocked,
    UploadNotFound,
    UploadTooLarge,
)
from app.ingest import checkpoints
from app.ingest.body import Body
from app.ingest.drain import Drain
from app.ledger.database import Ledger
from app.ledger.leases import APPEND, LEASE_MS, Contention
from app.ledger.models import leases
from app.ledger.records import PARTIAL, UploadRecord
from app.storage.base import Storage
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.uploads.append_service import AppendService
from app.uploads.appending import Append
from app.uploads.creating import Wish
from app.uploads.service import UploadService
from tests.harness.bodies import PieceBody, cut_at
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.rig import TTL_SECONDS, Rig
from tests.harness.wire import examples

DATA = random.randbytes(5000)


@pytest.fixture
def rig(ledger: Ledger, storage: Storage, clock: FakeClock) -> Rig:
    """Ledger and jobs on each kind of storage."""
    return Rig(ledger, storage, clock)


class EventfulBody(PieceBody):
    """A body in ``pieces``; ``deed`` is done once the first one has been taken and written."""

    def __init__(
        self, pieces: Iterable[bytes], deed: Callable[[], object], **options: object
    ) -> None:
        super().__init__(pieces, **options)  # type: ignore[arg-type]
        self._deed: Callable[[], object] | None = deed
        self._pauses = False

    def take(self, buffer: memoryview) -> int:
        if self._pauses or (self.received and self._deed is not None):
            self._pauses = False
            return 0
        return super().take(buffer)

    def wait(self, timeout_seconds: float) -> None:
        if self.received and self._deed is not None:
            self._deed()
            self._deed, self._pauses = None, True

    def more_within(self, milliseconds: int) -> bool:
        return not self.received and super().more_within(milliseconds)


class Killed(BaseException):
    """What ends a request without any of its own clearing up: so much for kill -9."""


class Sha1:
    """A promise of what a body is."""

    def __init__(self, promised: bytes | None) -> None:
        self._promised = None if promised is None else hashlib.sha1(promised).digest()
        self._hash = hashlib.sha1()
        self.update = self._hash.update

    def require_match(self, _trailers: Mapping[str, str]) -> None:
        if self._promised is None:
            raise MalformedRequest("no trailer came")
        if self._hash.digest() != self._promised:
            raise DigestMismatch


def append(rig: Rig, upload: UploadRecord, offset: int, body: Body, **told: object) -> int:
    """Append a body; return the offset after it."""
    wanted = Append("tus", sees=None, offset=offset, **told)  # type: ignore[arg-type]
    receipt = rig.appends.append(upload.id, wanted, body)
    assert receipt.upload.offset is not None
    return receipt.upload.offset


def staged_bytes(rig: Rig, upload: UploadRecord) -> bytes:
    """Return what counts of an upload's bytes."""
    now = rig.record(upload.id)
    return rig.read(now.staging_key)[: now.offset]


def assert_nobody_appends(rig: Rig, upload: UploadRecord) -> None:
    assert rig.ledger.appends.holder(upload.id) is None


# Bodies that end by themselves


@examples
@given(
    st.binary(max_size=3000),
    st.lists(st.tuples(st.integers(0, 3000), st.booleans(), st.booleans()), max_size=6),
    st.booleans(),
)
def test_a_file_comes_out_as_it_went_in_however_it_is_cut(
    rig: Rig, data: bytes, requests: list[tuple[int, bool, bool]], deferred: bool
) -> None:
    upload = rig.create_appended(b"", None if deferred else len(data))
    offset = 0
    for size, chunked, breaks in requests:
        piece = data[offset : offset + size]
        lost = min(7, len(data) - offset - len(piece)) if breaks and not chunked else 0
        body = PieceBody(cut_at(piece, [size // 3, size // 2]), chunked=chunked, cut=lost)
        if lost:
            with pytest.raises(BodyCut):
                append(rig, upload, offset, body)
        else:
            append(rig, upload, offset, body)
        offset += len(piece)
        assert rig.record(upload.id).offset == offset
        assert_nobody_appends(rig, upload)
        if not deferred and offset == len(data):
            break
    rest = PieceBody([data[offset:]])
    append(rig, upload, offset, rest, length=len(data) if deferred else None)
    assert rig.finalize()
    assert rig.read(rig.record(upload.id).final_key) == data
    assert rig.events(upload).count("completed") == 1


def test_a_body_that_is_verified_is_all_or_nothing(rig: Rig) -> None:
    upload = rig.create_appended(length=len(DATA))
    for body, promised, error in (
        (PieceBody([DATA]), DATA + b"!", DigestMismatch),
        (PieceBody([DATA[:-1]], cut=1), DATA[:-1], BodyCut),
        (PieceBody([DATA]), None, MalformedRequest),
        (PieceBody([DATA, b"!"], chunked=True), DATA, BodyTooLong),
    ):
        with pytest.raises(error):
            append(rig, upload, 0, body, verification=Sha1(promised))
        assert rig.record(upload.id).offset == 0
        assert_nobody_appends(rig, upload)
    assert append(rig, upload, 0, PieceBody([DATA]), verification=Sha1(DATA)) == len(DATA)


def test_an_empty_body_is_verified_too(rig: Rig) -> None:
    upload = rig.create_appended(b"x", 1)  # complete by now
    for _ in range(2):
        with pytest.raises(DigestMismatch):
            append(rig, upload, 1, PieceBody([]), verification=Sha1(b"x"))
        assert append(rig, upload, 1, PieceBody([]), verification=Sha1(b"")) == 1
        upload = rig.create_appended(b"x", 2)


@pytest.mark.parametrize("length", [len(DATA), None])
def test_of_a_body_that_turns_out_too_long_all_is_kept_but_the_last_byte(
    rig: Rig, length: int | None
) -> None:
    upload = rig.create_appended(length=length)
    body = PieceBody([DATA[:1000], DATA[1000:], b"surplus"], chunked=True)
    with pytest.raises(BodyTooLong):
        append(rig, upload, 0, body, max_bytes=len(DATA))
    kept = len(DATA) - (0 if length is None else 1)
    assert staged_bytes(rig, upload) == DATA[:kept]
    assert rig.state(upload) is State.OPEN
    assert append(rig, upload, kept, PieceBody([DATA[kept:]]), length=len(DATA)) == len(DATA)
    assert rig.finalize()
    assert rig.read(rig.record(upload.id).final_key) == DATA


def test_a_length_that_is_told_by_a_refused_request_completes_nothing(rig: Rig) -> None:
    for concat in (None, PARTIAL):
        upload = rig.create_appended(DATA, concat=concat)
        for body, verification, error in (
            (PieceBody([b"x"], chunked=True), None, BodyTooLong),
            (PieceBody([]), Sha1(b"x"), DigestMismatch),
            (PieceBody([], chunked=True), Sha1(b"x"), DigestMismatch),
        ):
            with pytest.raises(error):
                append(rig, upload, 5000, body, length=5000, verification=verification)
            assert rig.record(upload.id) == upload
        assert append(rig, upload, 5000, PieceBody([], chunked=True), length=5000) == 5000
        assert rig.record(upload.id).length == 5000
        assert (rig.state(upload) is State.FINALIZING) is (concat is None)


def test_a_length_that_comes_with_a_body_that_is_not_as_promised_is_not_set(rig: Rig) -> None:
    for sent, concat in ((b"", None), (DATA[:1000], None), (DATA[:1000], PARTIAL)):
        upload = rig.create_appended(sent, concat=concat)
        at, rest = len(sent), DATA[len(sent) :]
        for body, promised, error in (
            (PieceBody([rest]), rest + b"!", DigestMismatch),
            (PieceBody([rest[:7]], chunked=True), b"", DigestMismatch),
            (PieceBody([]), b"x", DigestMismatch),
            (PieceBody([rest]), None, MalformedRequest),
            (PieceBody([rest[:-1]], cut=1), rest[:-1], BodyCut),
            (PieceBody([rest, b"!"], chunked=True), rest, BodyTooLong),
        ):
            with pytest.raises(error):
                append(rig, upload, at, body, length=len(DATA), verification=Sha1(promised))
            assert rig.record(upload.id) == upload
        for end in (at, at + 7, len(DATA)):  # right at last: an empty body, some of it, the rest
            piece = DATA[at:end]
            body = PieceBody([piece])
            at = append(rig, upload, at, body, length=len(DATA), verification=Sha1(piece))
            assert (at, rig.record(upload.id).length) == (end, len(DATA))
        made = upload if concat is None else rig.concatenate([upload.id])
        assert rig.finalize()
        assert rig.read(rig.record(made.id).final_key) == DATA


@contextlib.contextmanager
def killed_at(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, step: int, *, committed: bool
) -> Iterator[list[int]]:
    """Crash at the ``step``th transaction: before it, or when it is ``committed`` but not known."""
    write, steps = rig.ledger.transactions.write, itertools.count()
    crashed: list[int] = []

    def counted(work: Callable[..., object], **options: bool) -> object:
        if next(steps) != step:
            return write(work, **options)
        crashed.append(step)
        if committed:
            write(work, **options)
        raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(rig.ledger.transactions, "write", counted)
        yield crashed


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("end", [1000, 1700])
@pytest.mark.parametrize("concat", [None, PARTIAL])
@pytest.mark.parametrize("verified", [False, True])
def test_a_kill_at_any_step_of_telling_the_length_leaves_what_can_be_finished(
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
    committed: bool,
    end: int,
    concat: str | None,
    verified: bool,
) -> None:
    """With the last bytes, or with none. What a client would take for sent has to become a file."""
    for step in itertools.count():
        upload = rig.create_appended(DATA[:1000], concat=concat)
        piece = DATA[1000:end]
        promise = Sha1(piece) if verified else None
        with killed_at(rig, monkeypatch, step, committed=committed) as crashed:
            append(rig, upload, 1000, PieceBody([piece]), length=end, verification=promise)
        now = rig.record(upload.id)
        if concat is None:
            assert now.is_full is (now.state is State.FINALIZING), step
        if now.state is State.OPEN and not now.is_full:
            rig.ledger.transactions.write(lambda tx: rig.ledger.leases.end_all(tx, upload.id))  # noqa: B023
            append(rig, upload, now.offset, PieceBody([DATA[now.offset : end]]), length=end)
        made = upload if concat is None else rig.concatenate([upload.id])
        assert rig.finalize()
        assert rig.read(rig.record(made.id).final_key) == DATA[:end]
        if not crashed:
            break
    assert step >= 2, "no step is seen"


def test_a_full_partial_takes_nothing_more(rig: Rig) -> None:
    upload = rig.partial(DATA)
    with pytest.raises(BodyTooLong):
        append(rig, upload, len(DATA), PieceBody([b"x"], chunked=True))
    assert rig.record(upload.id) == upload


# What ends a body from outside


def drain_of(rig: Rig) -> Drain:
    """Return a shutdown of this process, which its appends look at."""
    drain = Drain(30)
    service = UploadService(rig.ledger, rig.storage, rig.clock, rig.policy, drain)
    rig.appends = AppendService(rig.ledger, rig.storage, rig.clock, rig.policy, drain, service)
    return drain


@pytest.mark.parametrize("by", ["shutdown", "newer request"])
def test_what_has_arrived_is_kept_when_the_server_or_the_client_goes_on(rig: Rig, by: str) -> None:
    upload, drain = rig.create_appended(length=len(DATA)), drain_of(rig)

    def interrupt() -> None:
        if by == "shutdown":
            drain.begin()
        else:
            rig.ledger.leases.ask(upload.id, APPEND, Contention.RELEASE)

    body = EventfulBody([DATA[:1234], DATA[1234:]], interrupt)
    with pytest.raises(ShuttingDown if by == "shutdown" else TakenOver):
        append(rig, upload, 0, body)
    assert staged_bytes(rig, upload) == DATA[:1234]
    assert_nobody_appends(rig, upload)
    if by == "shutdown":
        with pytest.raises(ShuttingDown):
            append(rig, upload, 1234, PieceBody([DATA[1234:]]))
        drain_of(rig)
    assert append(rig, upload, 1234, PieceBody([DATA[1234:]])) == len(DATA)


def test_an_upload_that_is_ended_takes_nothing_more(rig: Rig) -> None:
    upload = rig.create_appended(length=len(DATA))
    body = EventfulBody([DATA[:1234], DATA[1234:]], lambda: rig.service.end(upload.id))
    with pytest.raises(UploadGone):
        append(rig, upload, 0, body)
    assert rig.record(upload.id).offset == 0
    assert not rig.is_staged(upload)
    assert_nobody_appends(rig, upload)


def test_who_was_overtaken_records_nothing(rig: Rig, database: Database) -> None:
    upload = rig.create_appended(length=len(DATA))
    body = EventfulBody([DATA[:1234], DATA[1234:]], lambda: database.age_leases(LEASE_MS / 1000))
    with pytest.raises(LeaseLost):
        append(rig, upload, 0, body)
    assert rig.record(upload.id).offset == 0


def test_a_disk_that_fills_up_keeps_what_it_has_taken(ledger: Ledger, clock: FakeClock) -> None:
    rig = Rig(ledger, MemoryStorage(2 * 4096), clock)
    content = random.randbytes(5 * 4096)
    upload = rig.create_appended(length=len(content))
    body = EventfulBody([content[:4096], content[4096:]], lambda: None)
    with pytest.raises(StorageFull):
        append(rig, upload, 0, body)
    assert staged_bytes(rig, upload) == content[:4096]
    assert_nobody_appends(rig, upload)


def test_a_storage_that_goes_away_loses_no_byte_that_counted(
    ledger: Ledger, clock: FakeClock
) -> None:
    storage = MemoryStorage()
    rig = Rig(ledger, storage, clock)
    upload = rig.create_appended(DATA[:1000], len(DATA))

    def leave() -> None:
        storage.available = False

    with pytest.raises(StorageUnavailable):
        append(rig, upload, 1000, EventfulBody([DATA[1000:2000], DATA[2000:]], leave))
    storage.available = True
    offset = rig.record(upload.id).offset
    assert staged_bytes(rig, upload) == DATA[:offset]
    assert offset >= 1000
    assert append(rig, upload, offset, PieceBody([DATA[offset:]])) == len(DATA)


def test_a_staged_file_that_vanishes_lets_the_upload_begin_anew(
    ledger: Ledger, local: LocalStorage, root: Path, clock: FakeClock
) -> None:
    rig = Rig(ledger, local, clock)
    upload = rig.create_appended(DATA[:1000], len(DATA))

    def remove() -> None:
        (path,) = root.glob(f".staging/*/{upload.id}.partial")
        path.unlink()

    with capture_logs() as logs, pytest.raises(StorageUnavailable):
        append(rig, upload, 1000, EventfulBody([DATA[1000:2000], DATA[2000:]], remove))
    assert "staging.vanished" in [line["event"] for line in logs]
    assert rig.record(upload.id).offset == 0
    assert append(rig, upload, 0, PieceBody([DATA])) == len(DATA)
    assert rig.finalize()
    assert rig.read(rig.record(upload.id).final_key) == DATA


def test_checkpoints_record_what_is_written_while_more_is_coming(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_BYTES", 1000)
    upload = rig.create_appended(length=len(DATA))
    seen: list[int] = []

    def look() -> None:
        gevent.sleep(0)  # the turn of the greenlet that saves
        seen.append(rig.record(upload.id).offset)

    body = EventfulBody([DATA[:1234], DATA[1234:]], look)
    assert append(rig, upload, 0, body) == len(DATA)
    assert seen == [1234]
    assert staged_bytes(rig, upload) == DATA
    assert database.rows(leases) == []


@pytest.mark.parametrize("ends", ["whole", "cut", "killed", "too long"])
@pytest.mark.parametrize("concat", [None, PARTIAL])
def test_no_checkpoint_records_the_last_byte_of_an_upload(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, ends: str, concat: str | None
) -> None:
    """Chunked, it may be here long before the body ends. After a crash it would look complete
    to its client, and nobody would finalize it, nor what is to be made of it."""
    monkeypatch.setattr(checkpoints, "EVERY_BYTES", 1000)
    upload = rig.create_appended(DATA[:700], len(DATA), concat=concat)
    seen: list[int] = []

    def look() -> None:
        gevent.sleep(0)  # the turn of the greenlet that saves
        seen.append(rig.record(upload.id).offset)
        if ends == "killed":
            raise Killed

    class OpenEnd(EventfulBody):
        """The chunk of no bytes, which ends it, comes after the deed."""

        @property
        def ended(self) -> bool:
            return self._deed is None and super().ended

    behind = b"more" if ends == "too long" else b""
    body = OpenEnd([DATA[700:], behind], look, chunked=True, cut=int(ends == "cut"))
    expected = {"cut": BodyCut, "killed": Killed, "too long": BodyTooLong}.get(ends)
    with pytest.raises(expected) if expected else contextlib.nullcontext():
        append(rig, upload, 700, body)
    assert seen == [len(DATA) - 1]
    now = rig.record(upload.id)
    if ends in ("killed", "too long"):
        assert (now.state, now.offset) == (State.OPEN, len(DATA) - 1)
        assert append(rig, upload, len(DATA) - 1, PieceBody([DATA[-1:]])) == len(DATA)
    if concat is None:
        assert rig.finalize()
        assert rig.read(rig.record(upload.id).final_key) == DATA
    else:
        assert staged_bytes(rig, upload) == DATA


# What is refused before a byte is read


def test_what_cannot_be_appended_leaves_neither_bytes_nor_leases(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    upload = rig.create_appended(DATA[:10], 100)
    deferred = rig.create_appended(DATA[:10])
    final = rig.concatenate([rig.partial(DATA, sent=1).id])
    before = database.rows(leases)
    for wrong, offset, told, error in (
        (upload, 9, {}, OffsetMismatch),
        (upload, 11, {}, OffsetMismatch),
        (upload, 10, {"length": 99}, InvalidField),
        (deferred, 10, {"length": 10}, BodyTooLong),
        (deferred, 10, {"length": 21, "max_bytes": 20}, UploadTooLarge),
        (deferred, 10, {"max_bytes": 10}, BodyTooLong),
        (final, 0, {}, NotAppendable),
    ):
        with pytest.raises(error):
            append(rig, wrong, offset, PieceBody([b"x"]), **told)
    with pytest.raises(BodyTooLong):
        append(rig, upload, 10, PieceBody([DATA[:91]]))
    with pytest.raises(InvalidField):
        append(rig, deferred, 10, PieceBody([]), length=9)
    with pytest.raises(UploadNotFound):
        rig.appends.append(upload.id, Append("tus", sees="bob", offset=10), PieceBody([b"x"]))
    with pytest.raises(UploadNotFound):
        rig.appends.append(upload.id, Append("pipe", sees=None, offset=10), PieceBody([b"x"]))
    clock.advance(TTL_SECONDS)
    with pytest.raises(UploadGone):
        append(rig, upload, 10, PieceBody([b"x"]))
    assert [rig.record(one.id).offset for one in (upload, deferred, final)] == [10, 10, 0]
    assert database.rows(leases) == before


def test_an_end_that_nobody_lets_go_of_is_locked(rig: Rig, database: Database) -> None:
    upload = rig.create_appended(length=len(DATA))
    other = Rig(database.ledger(), rig.storage, rig.clock)
    claim = other.ledger.appends.claim(
        upload.id, rig.clock.now_ms(), rig.policy.ttl_ms, rig.clock.monotonic
    )
    assert claim.lease is not None
    with pytest.raises(UploadLocked):  # the clock runs as fast as it waits
        append(rig, upload, 0, PieceBody([DATA]))
    (row,) = database.rows(leases)
    assert row.contended == Contention.RELEASE  # it has been asked to
    other.ledger.leases.release(claim.lease)
    assert append(rig, upload, 0, PieceBody([DATA])) == len(DATA)


# With the creation


def test_a_creation_whose_body_is_refused_leaves_nothing(rig: Rig, database: Database) -> None:
    for body, verification, error in (
        (PieceBody([DATA, b"!"], chunked=True), None, BodyTooLong),
        (PieceBody([DATA]), Sha1(b"other"), DigestMismatch),
    ):
        first = Append("tus", sees=None, offset=0, verification=verification)
        with pytest.raises(error):
            rig.appends.create("alice", Wish("x", len(DATA)), first, body)
    for state in (State.OPEN, State.FINALIZING):
        assert rig.ledger.uploads.list([state], 10) == []
    assert database.rows(leases) == []


def test_a_creation_whose_body_is_cut_keeps_what_has_come(rig: Rig) -> None:
    first = Append("tus", sees=None, offset=0)
    body = PieceBody([DATA[:1234]], cut=1)
    made = rig.appends.create("alice", Wish("x", len(DATA)), first, body).upload
    assert made.offset == 1234
    upload = rig.record(made.id)
    assert append(rig, upload, 1234, PieceBody([DATA[1234:]])) == len(DATA)
