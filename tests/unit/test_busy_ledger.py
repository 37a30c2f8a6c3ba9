"""A locked database: each request waits for it once, whatever it has left to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from app.domain.parts import Geometry
from app.errors import LedgerBusy
from app.ledger import leases as leases_module
from app.ledger import sqlite
from app.ledger.models import leases
from app.ledger.records import AliasKey
from app.storage.base import StagedObject
from app.storage.memory import MemoryStorage
from app.uploads.appending import Append
from app.uploads.chunks import Chunk, ChunkService
from app.uploads.creating import Wish
from tests.harness.bodies import PieceBody
from tests.harness.clock import FakeClock
from tests.harness.databases import Database
from tests.harness.rig import PART_BYTES, Rig
from tests.harness.wire import wait_until

BUSY_SECONDS = 0.2

CONTENT = bytes(PART_BYTES)

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


class Lock:
    """The database's write lock, once somebody takes it; free again when the block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = ExitStack()

    def take(self) -> None:
        other = self._held.enter_context(
            closing(sqlite3.connect(self._path, isolation_level=None, check_same_thread=False))
        )
        other.execute("BEGIN IMMEDIATE")

    @contextmanager
    def free_at_the_end(self) -> Iterator[None]:
        with self._held:
            yield


@pytest.fixture
def lock(database: Database) -> Lock:
    return Lock(Path(database.url.removeprefix("sqlite:///")))


@pytest.fixture
def rig(database: Database, clock: FakeClock, lock: Lock) -> Rig:
    """A process that waits a little; its storage takes the lock when a test says so."""
    ledger = database.ledger(busy_timeout_seconds=BUSY_SECONDS)
    return Rig(ledger, LockingStorage(lock), clock)


class LockingStorage(MemoryStorage):
    """Storage at which the database gets locked while an object is made for ``locked_for``."""

    def __init__(self, lock: Lock) -> None:
        super().__init__()
        self._lock = lock
        self.locked = False

    def create(self, staged: StagedObject) -> str:
        if self.locked:
            self._lock.take()
        return super().create(staged)


class LockingBody(PieceBody):
    """A body with whose last byte the database gets locked."""

    def __init__(self, lock: Lock, data: bytes = CONTENT) -> None:
        super().__init__([data])
        self._lock = lock

    def take(self, buffer: memoryview) -> int:
        count = super().take(buffer)
        if count and self.ended:
            self._lock.take()
        return count


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long the lock has been waited for, seconds."""
    waited: list[float] = []
    sleep = sqlite.native_sleep
    monkeypatch.setattr(sqlite, "native_sleep", lambda pause: waited.append(pause) or sleep(pause))
    return waited


def put_part(rig: Rig, lock: Lock) -> None:
    upload = rig.create(PART_BYTES)
    rig.service.put_part(upload.id, 0, LockingBody(lock))


def put_chunk(rig: Rig, lock: Lock) -> None:
    service = ChunkService(rig.ledger, rig.storage, rig.clock, rig.policy, rig.service)
    wish = Wish("a", PART_BYTES, geometry=Geometry(PART_BYTES, PART_BYTES, 1))
    chunk = Chunk("resumable", AliasKey("resumable", "alice", "a"), 0, 1, wish)
    service.put(chunk, LockingBody(lock))


def append(rig: Rig, lock: Lock) -> None:
    upload = rig.create_appended(length=PART_BYTES)
    rig.appends.append(upload.id, Append("tus", None, 0), LockingBody(lock))


def create(rig: Rig, lock: Lock) -> None:
    rig.storage.locked = True  # type: ignore[attr-defined]
    rig.create()


@pytest.mark.parametrize("request_of", [put_part, put_chunk, append, create])
def test_a_request_waits_for_a_locked_database_once(
    rig: Rig, lock: Lock, waits: list[float], request_of: Callable[[Rig, Lock], None]
) -> None:
    with lock.free_at_the_end(), pytest.raises(LedgerBusy):
        request_of(rig, lock)
    assert 0 < sum(waits) < 1.5 * BUSY_SECONDS


def test_the_lease_of_a_request_that_was_told_is_given_back_when_the_lock_is_free(
    rig: Rig, lock: Lock, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "WATCH_SECONDS", 0.05)
    with lock.free_at_the_end():
        with pytest.raises(LedgerBusy):
            put_part(rig, lock)
        assert len(database.rows(leases)) == 1
    wait_until(lambda: not database.rows(leases), "the lease is given back")
    keeper = rig.ledger.leases._keeper
    wait_until(lambda: keeper is None or not keeper.is_alive(), "nothing is left to do")
