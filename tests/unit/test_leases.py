"""Leases: who may write what, until when, and what becomes of those who are overtaken."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, exc, select
from structlog.testing import capture_logs

from app.errors import LeaseLost, UploadNotFound
from app.ledger import leases as module
from app.ledger.leases import LEASE_MS, Contention, Lease
from app.ledger.models import leases, receipts, uploads
from app.ledger.records import ReceiptRecord, UploadRecord
from tests.harness.clock import FakeClock
from tests.harness.databases import Database, forget_leases
from tests.harness.peer import Peer
from tests.harness.rig import Rig

LEASE_SECONDS = LEASE_MS / 1000

#: How long a test waits for what should happen within a second or two.
PATIENCE_SECONDS = 10.0

StartPeer = Callable[..., Peer]


@pytest.fixture
def other(database: Database, rig: Rig, clock: FakeClock) -> Rig:
    """Another process's view of the same ledger and storage."""
    return Rig(database.ledger(), rig.storage, clock)


@pytest.fixture
def upload(rig: Rig) -> UploadRecord:
    return rig.create()


def held_by_somebody_else(rig: Rig, upload: UploadRecord, index: int = 0) -> bool:
    """Try to claim a part; True if a live holder keeps it."""
    claim = rig.ledger.parts.claim(upload.id, index, rig.clock.now_ms(), rig.clock.monotonic)
    if claim.lease is not None:
        return False
    assert claim.receipt is None
    return True


def lease_clock_ms(rig: Rig) -> int:
    """Return the time by which leases run out, as the database sees it."""
    now = select(rig.ledger.leases._now())
    return rig.ledger.transactions.read(lambda connection: connection.execute(now).scalar_one())


def open_files(database: Database) -> list[Path]:
    """Return what this process has open of a database's directory."""
    directory, files = database.run_directory.parent, Path("/proc/self/fd").iterdir()
    return [file.resolve() for file in files if file.resolve().is_relative_to(directory)]


def commit(rig: Rig, lease: Lease) -> None:
    receipt = ReceiptRecord(int(lease.key), 1, None, None, rig.clock.now_ms())
    rig.ledger.parts.commit(lease, receipt)


def wait_until(fact: Callable[[], bool]) -> None:
    """Wait for what a thread does; the deadline makes a hang a failure."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not fact():
        assert time.monotonic() < give_up_at, "it never happened"
        time.sleep(0.005)


def wait_for_a_renewal(lease: Lease) -> None:
    """Wait until a lease has been renewed twice: the first time may have begun before."""
    for _ in range(2):
        deadline = lease.deadline
        wait_until(lambda was=deadline: lease.deadline > was)  # type: ignore[misc]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process look at its leases ten times as often; asked for before ``upload``."""
    monkeypatch.setattr(module, "WATCH_SECONDS", module.WATCH_SECONDS / 10)
    monkeypatch.setattr(module, "RENEW_SECONDS", module.RENEW_SECONDS / 10)


# Claiming


def test_a_claimed_lease_is_held_against_others(rig: Rig, other: Rig, upload: UploadRecord) -> None:
    rig.claim(upload, 0)
    assert held_by_somebody_else(other, upload, 0)
    assert not held_by_somebody_else(other, upload, 1)


def test_a_process_does_not_get_its_own_lease_twice(rig: Rig, upload: UploadRecord) -> None:
    rig.claim(upload, 0)
    assert held_by_somebody_else(rig, upload, 0)


def test_every_claim_has_a_new_generation(rig: Rig, upload: UploadRecord) -> None:
    generations = set()
    for _ in range(5):
        lease = rig.claim(upload, 0)
        generations.add(lease.generation)
        rig.ledger.leases.release(lease)
    assert len(generations) == 5


def test_a_released_lease_is_free(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    rig.ledger.leases.release(lease)
    rig.ledger.leases.release(lease)  # harmless
    assert database.rows(leases) == []
    other.claim(upload, 0)
    rig.ledger.leases.release(lease)
    assert held_by_somebody_else(rig, upload)


def test_a_commit_gives_its_lease_back(rig: Rig, upload: UploadRecord, database: Database) -> None:
    commit(rig, rig.claim(upload, 0))
    assert database.rows(leases) == []


def test_a_claim_asks_for_a_lease_of_six_seconds(
    rig: Rig, upload: UploadRecord, database: Database
) -> None:
    before = lease_clock_ms(rig)
    lease = rig.claim(upload, 0)
    (row,) = database.rows(leases)
    assert before <= row.until_ms - 6_000 <= lease_clock_ms(rig)
    assert not lease.lost


def test_a_lease_that_is_six_seconds_old_is_free(
    rig: Rig, upload: UploadRecord, database: Database
) -> None:
    rig.claim(upload, 0)
    assert held_by_somebody_else(rig, upload)
    database.age_leases(LEASE_SECONDS)
    assert not held_by_somebody_else(rig, upload)


# Renewal


def test_all_leases_of_a_process_are_renewed_by_one_statement(
    rig: Rig, upload: UploadRecord, database: Database
) -> None:
    """At the real pace: the first look comes a second after the first claim."""
    renewals: list[set[object]] = []
    engine = database._engines[0]

    @event.listens_for(engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement.startswith("UPDATE leases SET until_ms"):
            renewals.append(set(values.values() if isinstance(values, dict) else values))

    held = [rig.claim(upload, index) for index in range(3)]
    generations = {lease.generation for lease in held}
    deadline = held[-1].deadline
    before = {row.key: row.until_ms for row in database.rows(leases)}
    wait_until(lambda: any(generations <= renewed for renewed in renewals))
    wait_until(lambda: all(row.until_ms > before[row.key] for row in database.rows(leases)))
    wait_until(lambda: all(lease.deadline > deadline for lease in held))


def test_a_lease_outlives_its_six_seconds_by_renewal(
    quick: None, rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    for _ in range(3):  # six seconds are over in the end, and each time a renewal came first
        database.age_leases(LEASE_SECONDS / 2)
        wait_for_a_renewal(lease)
    assert held_by_somebody_else(other, upload)
    commit(rig, lease)


def test_the_thread_that_renews_ends_with_the_last_lease_and_the_next_starts_another(
    quick: None, rig: Rig, upload: UploadRecord
) -> None:
    lease = rig.claim(upload, 0)
    thread = rig.ledger.leases._keeper
    assert thread is not None
    rig.ledger.leases.release(lease)
    wait_until(lambda: not thread.is_alive())
    lease = rig.claim(upload, 0)
    deadline = lease.deadline
    wait_until(lambda: lease.deadline > deadline)


def test_what_has_run_out_is_not_renewed(
    quick: None, rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    lease, sign_of_life = rig.claim(upload, 0), rig.claim(upload, 1)
    with database.by_hand.begin() as connection:
        connection.execute(leases.update().where(leases.c.key == "0").values(until_ms=0))
    wait_for_a_renewal(sign_of_life)
    deadline = lease.deadline
    wait_for_a_renewal(sign_of_life)
    assert lease.deadline == deadline
    assert not held_by_somebody_else(other, upload, 0)


def test_a_renewal_that_fails_is_tried_again(
    quick: None, rig: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    failures = []

    def fail_twice(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE leases SET until_ms") and len(failures) < 2:
            failures.append(statement)
            busy = exc.OperationalError(statement, {}, Exception("database is locked"))
            raise busy if len(failures) == 1 else ValueError("a bug")

    with capture_logs() as log:
        event.listen(database._engines[0], "before_cursor_execute", fail_twice)
        wait_until(lambda: len(failures) == 2)
        wait_for_a_renewal(lease)
    assert [line["event"] for line in log] == ["ledger.unavailable", "leases.bug"]


# Overtaken


def test_an_overtaken_holder_can_never_commit(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    database.age_leases(LEASE_SECONDS)
    second = other.claim(upload, 0)
    with pytest.raises(LeaseLost):
        commit(rig, lease)
    assert database.rows(receipts) == []
    commit(other, second)
    with pytest.raises(LeaseLost):
        commit(rig, lease)
    assert len(database.rows(receipts)) == 1


def test_a_holder_whose_lease_ran_out_cannot_commit_though_nobody_came(
    rig: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    database.age_leases(LEASE_SECONDS)
    with pytest.raises(LeaseLost):
        commit(rig, lease)
    assert rig.record(upload.id).received == 0


def test_an_overtaken_holder_cannot_end_the_new_lease(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    database.age_leases(LEASE_SECONDS)
    second = other.claim(upload, 0)
    rig.ledger.leases.release(lease)
    assert [row.generation for row in database.rows(leases)] == [second.generation]


def test_of_many_who_take_over_one_wins(rig: Rig, upload: UploadRecord, database: Database) -> None:
    rig.claim(upload, 0)
    forget_leases(rig.ledger)
    database.age_leases(LEASE_SECONDS)
    others = [Rig(database.ledger(), rig.storage, rig.clock) for _ in range(4)]
    assert [held_by_somebody_else(other, upload) for other in others] == [False, True, True, True]


def test_a_lease_of_another_boot_is_nobodys(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    database.change(leases, boot_id="the boot before", until_ms=2**62)
    assert not held_by_somebody_else(other, upload)
    with pytest.raises(LeaseLost):
        commit(rig, lease)


def test_the_wall_clock_means_nothing_to_leases(
    rig: Rig, other: Rig, upload: UploadRecord, clock: FakeClock
) -> None:
    lease = rig.claim(upload, 0)
    clock._now_ms += 12 * 3600 * 1000
    assert held_by_somebody_else(other, upload)
    clock.set_wall_clock_back(24 * 3600)
    assert held_by_somebody_else(other, upload)
    assert not lease.lost
    commit(rig, lease)


def test_a_holder_stops_before_its_lease_runs_out() -> None:
    claimed_at = FakeClock().monotonic()
    lease = Lease("upload", "0", 1, claimed_at)
    assert not lease.lost
    assert lease.deadline < claimed_at + LEASE_SECONDS
    assert Lease("upload", "0", 1, claimed_at - LEASE_SECONDS + 1).lost
    lease.renewed(claimed_at + 100)
    assert lease.deadline > claimed_at + 100


# Contention


def test_a_holder_in_the_same_process_is_asked_at_once(rig: Rig, upload: UploadRecord) -> None:
    lease, another = rig.claim(upload, 0), rig.claim(upload, 1)
    rig.ledger.leases.ask(upload.id, "0", Contention.ASKED)
    assert lease.contention is Contention.ASKED
    assert another.contention is Contention.NONE


def test_an_order_goes_to_every_holder_of_the_upload(rig: Rig, upload: UploadRecord) -> None:
    held = [rig.claim(upload, index) for index in range(3)]
    stranger = rig.claim(rig.create(), 0)
    rig.ledger.leases.ask(upload.id, None, Contention.ORDERED)
    assert {lease.contention for lease in held} == {Contention.ORDERED}
    assert stranger.contention is Contention.NONE


def test_asking_does_not_weaken_an_order(
    rig: Rig, upload: UploadRecord, database: Database
) -> None:
    lease = rig.claim(upload, 0)
    rig.ledger.leases.ask(upload.id, None, Contention.ORDERED)
    rig.ledger.leases.ask(upload.id, "0", Contention.ASKED)
    assert lease.contention is Contention.ORDERED
    assert [row.contended for row in database.rows(leases)] == [Contention.ORDERED]


def test_a_new_holder_has_been_asked_nothing(
    rig: Rig, other: Rig, upload: UploadRecord, database: Database
) -> None:
    rig.claim(upload, 0)
    other.ledger.leases.ask(upload.id, "0", Contention.ORDERED)
    database.age_leases(LEASE_SECONDS)
    assert other.claim(upload, 0).contention is Contention.NONE
    assert [row.contended for row in database.rows(leases)] == [Contention.NONE]


def test_a_holder_in_another_process_is_asked_within_a_second(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    peer = start_peer(database)
    assert peer.do("claim_part", upload.id, 0)
    waits = []
    for contention in (Contention.ASKED, Contention.RELEASE, Contention.ORDERED):
        asked_at = rig.clock.monotonic()
        rig.ledger.leases.ask(upload.id, "0", contention)
        waits.append(peer.do("wait_until_asked", upload.id, 0, contention) - asked_at)
    assert min(waits) < 1.5  # each was asked just after a look; a busy machine may delay some


# Dead and frozen


def test_a_database_that_is_closed_leaves_no_file_open(
    rig: Rig, upload: UploadRecord, database: Database
) -> None:
    """Of some 3,000 tests each opens one or two; a process may have 1,024 files open."""
    rig.claim(upload, 0)
    assert open_files(database)
    database.close()
    assert not open_files(database)


def test_a_dead_holders_lease_is_taken_over_at_once(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    peer = start_peer(database)
    assert peer.do("claim_part", upload.id, 0)
    assert held_by_somebody_else(rig, upload)
    peer.kill()
    commit(rig, rig.claim(upload, 0))


def test_all_leases_of_the_dead_are_freed(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    mine = rig.claim(upload, 2)
    peer = start_peer(database)
    assert peer.do("claim_part", upload.id, 0)
    assert peer.do("claim_part", upload.id, 1)
    assert not rig.ledger.leases.take_from_dead()
    peer.kill()
    assert rig.ledger.leases.take_from_dead()
    assert [row.generation for row in database.rows(leases)] == [mine.generation]
    assert not rig.ledger.leases.take_from_dead()


def test_a_living_holder_is_not_taken_for_dead(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    peer = start_peer(database)
    assert peer.do("claim_part", upload.id, 0)
    (row,) = database.rows(leases)
    assert not rig.ledger.leases.take_from_dead(row.owner)
    assert held_by_somebody_else(rig, upload)


def test_a_frozen_holder_is_waited_for_and_then_overtaken(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    peer = start_peer(database)
    assert peer.do("claim_part", upload.id, 0)
    peer.freeze()
    frozen_at = rig.clock.monotonic()
    shortened_seconds = 0 if database.is_sqlite else 4  # once at full length is enough
    database.age_leases(shortened_seconds)
    assert held_by_somebody_else(rig, upload)
    wait_until(lambda: not held_by_somebody_else(rig, upload))
    waited_seconds = rig.clock.monotonic() - frozen_at + shortened_seconds
    assert LEASE_SECONDS - 1 < waited_seconds < 2 * LEASE_SECONDS
    peer.thaw()
    # The shortening is unknown to the peer's own clock, which runs on.
    assert peer.do("is_lost", upload.id, 0) is database.is_sqlite
    assert peer.do("commit_part", upload.id, 0) == "LeaseLost"
    assert database.rows(receipts) == []


def test_a_frozen_holder_that_nobody_overtook_is_refused_all_the_same(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    peer = start_peer(database)
    assert peer.do("claim_part", upload.id, 0)
    peer.freeze()
    database.age_leases(LEASE_SECONDS)
    peer.thaw()
    assert peer.do("commit_part", upload.id, 0) == "LeaseLost"
    assert rig.record(upload.id).received == 0


def test_the_create_lease_of_the_dead_is_taken_over_at_once(
    rig: Rig, upload: UploadRecord, database: Database, start_peer: StartPeer
) -> None:
    database.change(uploads, staging_key=None)
    peer = start_peer(database)
    assert peer.do("claim_create", upload.id)
    assert rig.ledger.uploads.claim_create(upload.id, rig.clock.monotonic) is None
    peer.kill()
    assert rig.ledger.uploads.claim_create(upload.id, rig.clock.monotonic) is not None


def test_a_cancelled_uploads_holder_is_told_so(rig: Rig, upload: UploadRecord) -> None:
    lease = rig.claim(upload, 0)
    rig.service.cancel(upload.id, sees=None)
    assert lease.contention is Contention.ORDERED
    with pytest.raises(UploadNotFound):
        commit(rig, lease)
