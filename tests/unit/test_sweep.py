"""Sweeping removes what has ended, and nothing that somebody may still want."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.states import State
from app.errors import LonghaulError, StorageFull, StorageUnavailable
from app.jobs import sweep
from app.jobs.sweep import ORPHAN_AGE_SECONDS
from app.ledger.database import Ledger
from app.ledger.leases import LEASE_MS
from app.ledger.models import leases, uploads
from app.ledger.records import UploadRecord
from app.storage.base import StagedObject, Storage
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.uploads.staging import staged_object
from tests.harness.clock import FakeClock
from tests.harness.databases import Database, forget_leases
from tests.harness.peer import Peer
from tests.harness.rig import PART_BYTES, TTL_SECONDS, Rig

CONTENT = random.randbytes(2 * PART_BYTES + 17)

StartPeer = Callable[..., Peer]


@pytest.fixture
def rig(ledger: Ledger, storage: Storage, clock: FakeClock) -> Rig:
    """Ledger and jobs on each kind of storage."""
    return Rig(ledger, storage, clock)


def swept(rig: Rig, *, dry_run: bool = False) -> list[tuple[str, str]]:
    """Sweep; return what was removed of which upload."""
    return [(found.what, found.upload_id) for found in rig.sweep(dry_run=dry_run)]


def failed(rig: Rig) -> UploadRecord:
    """Return an upload whose finalizing has failed."""
    upload = rig.queue(CONTENT, checksum_sha256="0" * 64)
    rig.finalize()
    assert rig.state(upload) is State.FAILED
    return rig.record(upload.id)


def complete(rig: Rig) -> UploadRecord:
    upload = rig.queue(CONTENT)
    rig.finalize()
    return rig.record(upload.id)


def sibling(storage: Storage, root: Path, instance_id: str) -> Storage:
    """Return another installation's storage on the same root."""
    if isinstance(storage, MemoryStorage):
        return storage.sibling(instance_id)
    return LocalStorage(root, instance_id)


# Expiry


def test_an_open_upload_past_its_time_is_expired_and_its_bytes_removed(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    upload = rig.create()
    rig.put(upload, 0, CONTENT)
    clock.advance(TTL_SECONDS - 0.001)
    assert swept(rig) == []
    clock.advance(0.001)
    assert swept(rig) == [("expired", upload.id)]
    expired = rig.record(upload.id)
    assert (expired.state, expired.staging_key) == (State.EXPIRED, None)
    assert not rig.is_staged(upload)
    assert rig.events(upload) == ["created", "abandoned"]
    assert database.rows(leases) == []
    assert swept(rig) == []


def test_a_full_upload_that_nobody_completed_is_expired_too(rig: Rig, clock: FakeClock) -> None:
    upload = rig.fill(CONTENT)
    clock.advance(TTL_SECONDS)
    assert swept(rig) == [("expired", upload.id)]


def test_an_appended_upload_without_progress_is_abandoned_before_its_whole_life_is_over(
    ledger: Ledger, storage: Storage, clock: FakeClock
) -> None:
    """One that has tokens expires when they do: its client has been told so."""
    hour = 3600
    rig = Rig(ledger, storage, clock, abandoned_after_seconds=hour)
    with_tokens, idle = rig.create(), rig.create_appended(length=len(CONTENT))
    growing = rig.create_appended(length=len(CONTENT))
    clock.advance(hour - 1)
    rig.append(growing, CONTENT[:PART_BYTES])
    clock.advance(1)
    assert swept(rig) == [("expired", idle.id)]
    clock.advance(hour - 1.001)
    assert swept(rig) == []
    clock.advance(0.001)
    assert swept(rig) == [("expired", growing.id)]
    clock.advance(TTL_SECONDS - 2 * hour + 1)
    assert swept(rig) == [("expired", with_tokens.id)]


def test_a_failed_upload_is_kept_a_whole_ttl_from_its_failure(rig: Rig, clock: FakeClock) -> None:
    clock.advance(0)
    upload = rig.queue(CONTENT, checksum_sha256="0" * 64)
    clock.advance(TTL_SECONDS - 1)
    rig.finalize()
    clock.advance(TTL_SECONDS - 0.001)
    assert swept(rig) == []
    assert rig.is_staged(upload)
    clock.advance(0.001)
    assert swept(rig) == [("expired", upload.id)]
    assert not rig.is_staged(upload)


def test_an_upload_that_was_never_staged_expires(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    upload = rig.create()
    rig.storage.discard(staged_object(upload))
    database.change(uploads, staging_key=None)
    clock.advance(TTL_SECONDS)
    assert swept(rig) == [("expired", upload.id)]


def test_an_object_that_was_made_and_not_noted_goes_with_its_upload(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    upload = rig.create()
    database.change(uploads, staging_key=None)
    clock.advance(TTL_SECONDS)
    assert swept(rig) == [("expired", upload.id)]
    assert not rig.is_staged(upload)


@pytest.mark.parametrize("state", [State.FINALIZING, State.COMPLETE])
def test_what_is_finalizing_or_complete_never_expires(
    rig: Rig, clock: FakeClock, state: State
) -> None:
    upload = rig.queue(CONTENT) if state is State.FINALIZING else complete(rig)
    clock.advance(1000 * TTL_SECONDS)
    assert swept(rig) == []
    assert rig.state(upload) is state
    key = upload.staging_key if state is State.FINALIZING else upload.final_key
    assert rig.read(key) == CONTENT


def test_nothing_expires_while_somebody_writes_to_it(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    upload, other = rig.create(), rig.create()
    lease = rig.claim(upload, 1)
    clock.advance(TTL_SECONDS)
    for dry_run in (True, False):  # a lease keeps its own upload only
        assert swept(rig, dry_run=dry_run) == [("expired", other.id)]
    assert rig.state(upload) is State.OPEN
    forget_leases(rig.ledger)
    database.age_leases(LEASE_MS / 1000 - 1)
    assert swept(rig) == []
    database.age_leases(1)
    assert swept(rig) == [("expired", upload.id)]
    assert lease.upload_id == upload.id


def test_who_comes_between_looking_and_expiring_is_safe(rig: Rig, clock: FakeClock) -> None:
    upload = rig.create()
    due_ms = upload.expires_at_ms
    seen = rig.ledger.sweeping.due(due_ms, rig.storage.root_ids, after_id="", limit=10)
    assert [found.id for found in seen] == [upload.id]
    rig.claim(upload, 0)
    assert not rig.ledger.sweeping.expire(seen[0], due_ms)
    assert rig.state(upload) is State.OPEN


def test_an_upload_whose_time_was_moved_meanwhile_is_safe(rig: Rig, database: Database) -> None:
    upload = rig.create()
    database.change(uploads, expires_at_ms=uploads.c.expires_at_ms + 1)
    assert not rig.ledger.sweeping.expire(upload, upload.expires_at_ms)
    assert rig.state(upload) is State.OPEN


def test_an_upload_that_moved_on_is_not_expired(rig: Rig) -> None:
    upload = rig.fill(CONTENT)
    rig.ledger.uploads.queue_finalize(upload.id, rig.clock.now_ms())
    assert not rig.ledger.sweeping.expire(upload, upload.expires_at_ms)
    assert rig.state(upload) is State.FINALIZING
    assert "abandoned" not in rig.events(upload)


def test_of_two_sweepers_one_expires_an_upload_and_emits(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    upload = rig.create()
    clock.advance(TTL_SECONDS)
    other = database.ledger()
    outcomes = {
        other.sweeping.expire(upload, clock.now_ms()),
        rig.ledger.sweeping.expire(upload, clock.now_ms()),
    }
    assert outcomes == {True, False}
    assert rig.events(upload) == ["created", "abandoned"]


def test_more_than_one_page_is_swept_in_one_go(
    rig: Rig, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "BATCH", 2)
    made = {rig.create().id for _ in range(5)}
    clock.advance(TTL_SECONDS)
    assert {found for _, found in swept(rig, dry_run=True)} == made
    assert {found for _, found in swept(rig)} == made


# Leftovers


def test_what_could_not_be_removed_when_it_was_cancelled_is_removed_later(
    ledger: Ledger, clock: FakeClock
) -> None:
    storage = MemoryStorage()
    rig = Rig(ledger, storage, clock)
    upload, finished = rig.create(), complete(rig)
    storage.available = False
    rig.service.cancel(upload.id, sees=None)
    rig.service.cancel(finished.id, sees=None)
    assert (rig.state(upload), rig.state(finished)) == (State.CANCELLED, State.DELETED)
    storage.available = True
    assert sorted(swept(rig)) == sorted([("leftover", upload.id), ("leftover", finished.id)])
    assert storage.stored_keys() == []
    assert (rig.record(upload.id).staging_key, rig.record(finished.id).final_key) == (None, None)
    assert swept(rig) == []


def test_what_a_finished_upload_left_staged_is_removed_and_its_file_kept(
    rig: Rig, database: Database
) -> None:
    upload = complete(rig)
    key = rig.storage.create(staged_object(upload))
    database.change(uploads, staging_key=key)
    assert swept(rig) == [("leftover", upload.id)]
    assert not rig.has(key)
    assert rig.read(upload.final_key) == CONTENT


def test_while_the_storage_is_down_states_change_and_bytes_wait(
    ledger: Ledger, clock: FakeClock
) -> None:
    storage = MemoryStorage()
    rig = Rig(ledger, storage, clock)
    made = [rig.create() for _ in range(2)]
    clock.advance(TTL_SECONDS)
    storage.available = False
    with pytest.raises(StorageUnavailable):  # asked for orphans
        swept(rig)
    assert [rig.state(upload) for upload in made] == [State.EXPIRED] * 2
    storage.available = True
    assert sorted(swept(rig)) == sorted(("leftover", upload.id) for upload in made)
    assert storage.stored_keys() == []


@pytest.mark.parametrize("step", ["discard", "forgetting the staging key"])
def test_a_sweeper_that_dies_within_an_upload_leaves_it_to_the_next(
    database: Database,
    ledger: Ledger,
    local: LocalStorage,
    root: Path,
    start_peer: StartPeer,
    step: str,
) -> None:
    rig = Rig(ledger, local, FakeClock())
    upload = rig.create()
    database.change(uploads, expires_at_ms=1)
    peer = start_peer(database, root, stops=(step,))
    peer.begin("sweep")
    assert peer.wait_for_stop() == step
    between = rig.record(upload.id)
    assert (between.state, between.staging_key) == (State.EXPIRED, upload.staging_key)
    assert swept(rig) == []  # another one is sweeping
    peer.kill()
    assert swept(rig) == [("leftover", upload.id)]
    assert not rig.is_staged(upload)
    assert rig.record(upload.id).staging_key is None
    assert rig.events(upload) == ["created", "abandoned"]


@pytest.mark.parametrize("step", ["delete", "discard"])
def test_a_deletion_that_crashed_is_finished_by_the_sweeper(
    database: Database,
    ledger: Ledger,
    local: LocalStorage,
    root: Path,
    start_peer: StartPeer,
    step: str,
) -> None:
    rig = Rig(ledger, local, FakeClock())
    upload = complete(rig)
    peer = start_peer(database, root, stops=(step,))
    peer.begin("cancel", upload.id)
    peer.wait_for_stop()
    peer.kill()
    swept(rig)
    gone = rig.record(upload.id)
    assert (gone.state, gone.final_key, gone.staging_key) == (State.DELETED, None, None)
    assert not rig.has(upload.final_key or "")


# Orphans


def orphan(storage: Storage, upload_id: str = "0" * 8) -> str:
    """Stage something that no ledger knows of; return its key."""
    return storage.create(StagedObject(upload_id, 10, "files/x", storage.root_id))


def test_an_object_without_a_row_is_removed_after_a_day(rig: Rig, clock: FakeClock) -> None:
    key = orphan(rig.storage)
    clock.advance(ORPHAN_AGE_SECONDS - 60)
    assert swept(rig) == []
    assert rig.has(key)
    clock.advance(120)
    assert swept(rig) == [("orphan", "0" * 8)]
    assert not rig.has(key)


class KeepsOne(MemoryStorage):
    """Storage that cannot remove one object now."""

    kept: str | None = "0" * 8
    trouble: LonghaulError = StorageUnavailable()

    def discard(self, staged: StagedObject) -> None:
        if staged.upload_id == self.kept:
            raise self.trouble
        super().discard(staged)


#: A disk that is full to its last block may have no room to remove something.
@pytest.fixture(params=[StorageUnavailable(), StorageFull()], ids=["away", "full"])
def keeping(request: pytest.FixtureRequest) -> KeepsOne:
    """A storage that has this trouble with what it keeps."""
    storage = KeepsOne()
    storage.trouble = request.param
    return storage


def test_bytes_that_cannot_be_removed_now_do_not_keep_an_upload_or_others_from_ending(
    ledger: Ledger, clock: FakeClock, keeping: KeepsOne
) -> None:
    rig = Rig(ledger, keeping, clock)
    stuck, other = rig.create(), rig.create()
    keeping.kept = stuck.id
    for upload in (stuck, other):
        rig.service.end(upload.id)
    assert {rig.state(stuck), rig.state(other)} == {State.CANCELLED}
    assert rig.has(stuck.staging_key) and not rig.has(other.staging_key)
    lost = orphan(keeping, "1" * 8)
    clock.advance(ORPHAN_AGE_SECONDS + 60)
    assert ("orphan", "1" * 8) in swept(rig)
    assert not rig.has(lost)
    keeping.kept = None
    assert ("leftover", stuck.id) in swept(rig)
    assert not rig.has(stuck.staging_key)


def test_an_orphan_that_cannot_be_removed_now_does_not_keep_others(
    ledger: Ledger, clock: FakeClock, keeping: KeepsOne
) -> None:
    rig = Rig(ledger, keeping, clock)
    first, second = orphan(keeping), orphan(keeping, "1" * 8)
    clock.advance(ORPHAN_AGE_SECONDS + 60)
    assert swept(rig) == [("orphan", "1" * 8)]
    assert (rig.has(first), rig.has(second)) == (True, False)
    keeping.kept = None
    assert swept(rig) == [("orphan", "0" * 8)]


@pytest.mark.parametrize("state", [State.CANCELLED, State.EXPIRED, State.DELETED, State.COMPLETE])
def test_an_object_of_an_ended_upload_is_an_orphan(
    rig: Rig, clock: FakeClock, database: Database, state: State
) -> None:
    upload = rig.create()
    database.change(uploads, state=state, staging_key=None)
    clock.advance(ORPHAN_AGE_SECONDS + 60)
    assert swept(rig) == [("orphan", upload.id)]
    assert not rig.is_staged(upload)


@pytest.mark.parametrize("state", [State.OPEN, State.FINALIZING, State.FAILED])
def test_an_old_object_of_an_upload_that_goes_on_is_no_orphan(
    rig: Rig, clock: FakeClock, database: Database, state: State
) -> None:
    upload = rig.create()
    never_ms = clock.now_ms() + 10**12
    database.change(uploads, state=state, staging_key=None, expires_at_ms=never_ms)
    clock.advance(100 * ORPHAN_AGE_SECONDS)
    assert swept(rig) == []
    assert rig.is_staged(upload)


# What is not ours


def test_the_staging_of_another_installation_is_not_touched(
    rig: Rig, clock: FakeClock, root: Path
) -> None:
    neighbour = sibling(rig.storage, root, "neighbour")
    theirs = orphan(neighbour)
    clock.advance(100 * ORPHAN_AGE_SECONDS)
    assert swept(rig) == []
    assert rig.has(theirs)


def test_uploads_on_another_root_are_not_touched(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    upload, cancelled = rig.create(), rig.create()
    rig.ledger.uploads.cancel(cancelled.id, clock.now_ms())
    database.change(uploads, root_id="another root")
    clock.advance(TTL_SECONDS)
    before = database.rows(uploads)
    assert swept(rig) == []
    assert database.rows(uploads) == before
    assert rig.is_staged(upload)


def test_files_that_longhaul_did_not_make_are_not_touched(
    ledger: Ledger, local: LocalStorage, root: Path, clock: FakeClock
) -> None:
    rig = Rig(ledger, local, clock)
    upload = rig.create()
    staging = (root / (upload.staging_key or "")).parent
    foreign = [root / "readme.txt", staging / "notes.txt", root / "videos" / "x.partial"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        os.utime(path, (1, 1))
    clock.advance(100 * ORPHAN_AGE_SECONDS)
    assert swept(rig) == [("expired", upload.id)]
    assert [path.read_text() for path in foreign] == ["mine"] * 3


# Dry runs, turns and tidiness


def test_a_dry_run_tells_the_same_and_touches_nothing(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    expired, kept = rig.create(), failed(rig)
    gone = rig.create()
    rig.ledger.uploads.cancel(gone.id, clock.now_ms())
    orphan(rig.storage)
    database.change(uploads, expires_at_ms=clock.now_ms())
    clock.advance(ORPHAN_AGE_SECONDS + 60)
    before = database.rows(uploads), rig.events(expired), rig.events(kept)
    announced = swept(rig, dry_run=True)
    assert (database.rows(uploads), rig.events(expired), rig.events(kept)) == before
    assert rig.is_staged(expired)
    assert rig.is_staged(gone)
    assert {what for what, _ in announced} >= {"expired", "leftover", "orphan"}
    told = {found.filename for found in rig.sweep(dry_run=True) if found.what == "expired"}
    assert told == {"movie.mp4"}
    removed = swept(rig)
    assert {found for _, found in removed} == {found for _, found in announced}
    assert swept(rig) == []


def test_one_sweeps_at_a_time(rig: Rig, clock: FakeClock, database: Database) -> None:
    upload = rig.create()
    clock.advance(TTL_SECONDS)
    lease = database.ledger().sweeping.claim(clock.monotonic)
    assert lease is not None
    assert swept(rig) == []
    database.age_leases(LEASE_MS / 1000)
    assert swept(rig) == [("expired", upload.id)]


def test_a_sweeper_that_lost_its_lease_stops(rig: Rig, clock: FakeClock) -> None:
    made = [rig.create() for _ in range(3)]
    clock.advance(TTL_SECONDS)
    sweeping = rig.sweeper.sweep()
    next(sweeping)
    (lease,) = rig.ledger.leases._held.values()
    lease.renewed(clock.monotonic() - 10 * TTL_SECONDS)
    assert list(sweeping) == []
    assert [rig.state(upload) for upload in made].count(State.EXPIRED) == 1


def test_whoever_stops_listening_lets_the_next_one_sweep(
    rig: Rig, clock: FakeClock, database: Database
) -> None:
    for _ in range(2):
        rig.create()
    clock.advance(TTL_SECONDS)
    sweeping = rig.sweeper.sweep()
    next(sweeping)
    sweeping.close()  # type: ignore[attr-defined]  # a generator
    assert database.rows(leases) == []
    assert len(swept(rig)) == 1


def test_leases_that_ran_out_are_tidied_away_and_others_are_not(
    rig: Rig, database: Database
) -> None:
    upload = rig.create()
    rig.claim(upload, 0)
    forget_leases(rig.ledger)
    database.age_leases(LEASE_MS / 1000)
    live = rig.claim(upload, 1)
    rig.sweep()
    assert [row.generation for row in database.rows(leases)] == [live.generation]
