"""Transactions on SQLite: shared commits, waiting for locks, what reaches whom.

The grouped ones run here with plain gevent, and once more in an interpreter
that gevent has patched, as workers are (``test_under_gevent.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey
from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from structlog.testing import capture_logs

from app.errors import LedgerBusy, UploadNotFound
from app.ledger import sqlite
from app.ledger.transactions import (
    MAX_GROUP,
    DirectTransactions,
    GroupedTransactions,
    Transactions,
    transactions_for,
)
from app.native_threads import NativePool

#: Busy timeouts: one that a test waits for, and one that it must never meet.
SHORT_SECONDS = 0.2
LONG_SECONDS = 30.0

#: What ``PRAGMA synchronous`` answers.
NORMAL, FULL = 1, 2

Make = Callable[..., Transactions]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/ledger.db")
    yield engine
    engine.dispose()


@dataclass
class Journal:
    """What SQLite was told."""

    statements: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.statements.clear()

    @property
    def commits(self) -> int:
        return self.statements.count("COMMIT")

    def wait_for(self, statement: str) -> None:
        """Wait until a transaction in another thread has got to a statement."""
        with gevent.Timeout(LONG_SECONDS):
            while statement not in self.statements:
                gevent.sleep(0.001)


@pytest.fixture
def journal(engine: Engine) -> Journal:
    journal = Journal()

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.set_trace_callback(journal.statements.append)

    return journal


def direct(engine: Engine, *, strict: bool = False, busy: float = LONG_SECONDS) -> Transactions:
    """Return transactions as a command-line process has them, and a table to write to."""
    transactions_for(engine, strict=strict, busy_timeout_seconds=busy)
    transactions = DirectTransactions(engine, strict=strict)
    table = text("CREATE TABLE notes (word TEXT UNIQUE)")
    transactions.write(lambda connection: connection.execute(table))
    return transactions


def grouped(engine: Engine, *, strict: bool = False, busy: float = LONG_SECONDS) -> Transactions:
    """Return transactions as a gevent worker has them, and a table to write to."""
    direct(engine, strict=strict, busy=busy)
    return GroupedTransactions(engine, strict=strict, busy_timeout_seconds=busy)


@pytest.fixture(params=[direct, grouped])
def make(request: pytest.FixtureRequest) -> Make:
    """Each way to run transactions in turn."""
    return request.param  # type: ignore[no-any-return]


def note(word: str) -> Callable[[Connection], str]:
    """Return a transaction that writes a word and returns it."""

    def work(connection: Connection) -> str:
        connection.execute(text("INSERT INTO notes VALUES (:word)"), {"word": word})
        return word

    return work


def raising(error: BaseException) -> Callable[[Connection], str]:
    """Return a transaction that writes something and raises."""

    def work(connection: Connection) -> str:
        note(repr(error))(connection)
        raise error

    return work


def notes(transactions: Transactions) -> list[str]:
    """Return all words, in the order they were written."""
    chosen = text("SELECT word FROM notes ORDER BY rowid")
    return transactions.read(lambda connection: list(connection.execute(chosen).scalars()))


def write_at_once(
    transactions: Transactions, *works: Callable[[Connection], str], durable: bool = True
) -> list[object]:
    """Run transactions in greenlets that begin together; return results or errors, in order."""

    def write(work: Callable[[Connection], str]) -> object:
        try:
            return transactions.write(work, durable=durable)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            return error

    greenlets = [gevent.spawn(write, work) for work in works]
    gevent.joinall(greenlets, timeout=LONG_SECONDS)
    return [greenlet.value for greenlet in greenlets]


class WriteLock:
    """A lock on the database that somebody else holds while the block runs."""

    def __init__(self, engine: Engine) -> None:
        self._url = engine.url
        self._taken, self._wanted_back = threading.Event(), threading.Event()
        self._holder = threading.Thread(target=self._hold)

    def __enter__(self) -> None:
        self._holder.start()
        assert self._taken.wait(LONG_SECONDS)

    def __exit__(self, *_: object) -> None:
        self._wanted_back.set()
        self._holder.join()

    def _hold(self) -> None:
        engine = create_engine(self._url)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            self._taken.set()
            self._wanted_back.wait(LONG_SECONDS)
            connection.rollback()
        engine.dispose()


# Both kinds


def test_what_was_written_can_be_read(engine: Engine, make: Make) -> None:
    transactions = make(engine)
    assert transactions.write(note("one")) == "one"
    assert notes(transactions) == ["one"]


def test_a_transaction_that_raises_leaves_nothing(engine: Engine, make: Make) -> None:
    transactions = make(engine)
    with pytest.raises(UploadNotFound):
        transactions.write(raising(UploadNotFound()))
    assert notes(transactions) == []


def test_a_broken_constraint_is_told_as_it_is(engine: Engine, make: Make) -> None:
    transactions = make(engine)
    transactions.write(note("one"))
    with pytest.raises(exc.IntegrityError):
        transactions.write(note("one"))


def test_a_locked_database_is_busy_after_the_timeout(engine: Engine, make: Make) -> None:
    transactions = make(engine, busy=SHORT_SECONDS)
    with WriteLock(engine), capture_logs() as log, pytest.raises(LedgerBusy):
        transactions.write(note("one"))
    assert [line["event"] for line in log] == ["ledger.unavailable"]
    transactions.write(note("two"))
    assert notes(transactions) == ["two"]


def test_a_writer_looks_often_whether_the_lock_is_free_and_no_longer_than_it_should(
    engine: Engine, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions, pauses, sleep = make(engine, busy=SHORT_SECONDS), [], sqlite.native_sleep
    monkeypatch.setattr(sqlite, "native_sleep", lambda pause: pauses.append(pause) or sleep(pause))
    with WriteLock(engine), pytest.raises(LedgerBusy):
        transactions.write(note("one"))
    assert pauses[0] < 0.001
    assert pauses == sorted(pauses)
    assert sum(pauses) <= SHORT_SECONDS


def test_what_is_optional_is_not_tried_while_others_have_waited_in_vain(
    engine: Engine, journal: Journal, make: Make
) -> None:
    transactions = make(engine, busy=SHORT_SECONDS)
    assert transactions.write(note("one"), optional=True) == "one"
    with WriteLock(engine):
        with pytest.raises(LedgerBusy):
            transactions.write(note("two"))
        journal.clear()
        with pytest.raises(LedgerBusy):
            transactions.write(note("three"), optional=True)
        assert journal.statements == []
    with pytest.raises(UploadNotFound):
        transactions.write(raising(UploadNotFound()))
    assert transactions.write(note("four"), optional=True) == "four"


def test_a_database_that_cannot_be_opened_is_busy(tmp_path: Path, make: Make) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/missing/ledger.db")
    transactions: Transactions = GroupedTransactions(engine, strict=True, busy_timeout_seconds=1)
    if make is direct:
        transactions = DirectTransactions(engine, strict=True)
    with pytest.raises(LedgerBusy):
        transactions.write(note("one"))
    with pytest.raises(LedgerBusy):
        notes(transactions)


def test_readers_do_not_wait_for_a_writer(engine: Engine, make: Make) -> None:
    transactions = make(engine, busy=SHORT_SECONDS)
    transactions.write(note("one"))
    with WriteLock(engine):
        assert notes(transactions) == ["one"]


def test_a_reader_sees_one_moment(engine: Engine, make: Make) -> None:
    transactions = make(engine)
    count = text("SELECT count(*) FROM notes")

    def work(connection: Connection) -> list[int]:
        before = connection.execute(count).scalar_one()
        with engine.connect() as another, another.begin():
            note("meanwhile")(another)
        return [before, connection.execute(count).scalar_one()]

    assert transactions.read(work) == [0, 0]
    assert notes(transactions) == ["meanwhile"]


def test_a_writer_has_the_lock_from_its_beginning(engine: Engine, make: Make) -> None:
    transactions = make(engine, busy=SHORT_SECONDS)

    def work(_connection: Connection) -> None:
        with engine.connect() as another, another.begin():
            raise AssertionError("two writers")

    with pytest.raises(LedgerBusy):  # the second one's
        transactions.write(work)


def test_a_strict_commit_waits_for_the_disk_unless_it_may_be_lost(
    engine: Engine, make: Make
) -> None:
    transactions = make(engine, strict=True)
    assert synchronous(transactions, durable=True) == FULL
    assert synchronous(transactions, durable=False) == NORMAL
    assert synchronous(transactions, durable=True) == FULL


def test_a_relaxed_commit_never_waits_for_the_disk(engine: Engine, make: Make) -> None:
    assert synchronous(make(engine, strict=False), durable=True) == NORMAL


def synchronous(transactions: Transactions, *, durable: bool) -> int:
    """Return the level a transaction commits with."""
    level = text("PRAGMA synchronous")
    return transactions.write(
        lambda connection: int(connection.execute(level).scalar_one()), durable=durable
    )


def test_the_database_is_opened_as_the_ledger_needs_it(engine: Engine, make: Make) -> None:
    transactions = make(engine, busy=1.5)
    pragmas = ["journal_mode", "foreign_keys", "busy_timeout"]

    def work(connection: Connection) -> list[object]:
        return [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in pragmas]

    assert transactions.read(work) == ["wal", 1, 1500]


def test_workers_have_grouped_transactions_and_others_direct_ones(engine: Engine) -> None:
    kind = GroupedTransactions if monkey.is_module_patched("socket") else DirectTransactions
    assert type(transactions_for(engine, strict=True, busy_timeout_seconds=1)) is kind


# Groups


def test_writers_that_wait_together_share_a_commit(engine: Engine, journal: Journal) -> None:
    transactions = grouped(engine)
    journal.clear()
    words = [str(number) for number in range(20)]
    assert write_at_once(transactions, *map(note, words)) == words
    assert journal.commits == 1
    assert notes(transactions) == words


def test_writers_that_come_while_one_commits_share_the_next(
    engine: Engine, journal: Journal
) -> None:
    transactions = grouped(engine)
    journal.clear()
    with WriteLock(engine):
        first = gevent.spawn(transactions.write, note("first"))
        journal.wait_for("BEGIN IMMEDIATE")
        others = [gevent.spawn(transactions.write, note(word)) for word in "abc"]
        gevent.sleep(0)  # all of them have queued up
        assert not first.ready()
    gevent.joinall([first, *others], timeout=LONG_SECONDS, raise_error=True)
    assert journal.commits == 2
    assert notes(transactions) == ["first", "a", "b", "c"]


def test_a_group_has_a_limit(engine: Engine, journal: Journal) -> None:
    transactions = grouped(engine)
    journal.clear()
    write_at_once(transactions, *(note(str(number)) for number in range(MAX_GROUP + 1)))
    assert journal.commits == 2


def test_one_that_fails_does_not_spoil_the_others(engine: Engine, journal: Journal) -> None:
    transactions = grouped(engine)
    transactions.write(note("known"))
    journal.clear()
    gone = UploadNotFound()
    outcomes = write_at_once(
        transactions, note("a"), raising(gone), note("b"), note("known"), note("c")
    )
    assert [outcomes[0], outcomes[2], outcomes[4]] == ["a", "b", "c"]
    assert outcomes[1] is gone
    assert isinstance(outcomes[3], exc.IntegrityError)
    assert journal.commits == 1
    assert notes(transactions) == ["known", "a", "b", "c"]


def test_errors_that_are_no_exceptions_stay_with_their_greenlet(engine: Engine) -> None:
    transactions = grouped(engine)
    stop = SystemExit(3)
    assert write_at_once(transactions, note("a"), raising(stop), note("b")) == ["a", stop, "b"]
    assert notes(transactions) == ["a", "b"]


def test_when_the_database_fails_the_whole_group_is_undone(engine: Engine) -> None:
    """SQLite may have rolled back everything by itself: nobody may believe to be recorded."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA max_page_count=8")

    transactions = grouped(engine)
    gone = UploadNotFound()
    outcomes = write_at_once(transactions, note("a"), raising(gone), note("x" * 100_000))
    assert [type(outcome) for outcome in outcomes] == [LedgerBusy, UploadNotFound, LedgerBusy]
    assert outcomes[0] is not outcomes[2]
    assert notes(transactions) == []
    assert transactions.write(note("b")) == "b"


def test_all_who_wait_for_a_locked_database_are_told(engine: Engine) -> None:
    transactions = grouped(engine, busy=SHORT_SECONDS)
    with WriteLock(engine):
        outcomes = write_at_once(transactions, note("a"), note("b"))
    assert [type(outcome) for outcome in outcomes] == [LedgerBusy, LedgerBusy]
    assert write_at_once(transactions, note("c"), note("d")) == ["c", "d"]
    assert notes(transactions) == ["c", "d"]


def test_many_who_wait_for_a_locked_database_are_told_after_one_timeout(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them by the time of the first: more than a group of them, and not group by group."""
    transactions, pauses, sleep = grouped(engine, busy=SHORT_SECONDS), [], sqlite.native_sleep
    monkeypatch.setattr(sqlite, "native_sleep", lambda pause: pauses.append(pause) or sleep(pause))
    works = [note(str(number)) for number in range(4 * MAX_GROUP)]
    with WriteLock(engine):
        outcomes = write_at_once(transactions, *works)
    assert {type(outcome) for outcome in outcomes} == {LedgerBusy}
    assert sum(pauses) < 1.5 * SHORT_SECONDS


@pytest.mark.parametrize("patient_first", [True, False])
def test_each_of_a_group_waits_as_long_as_it_may(engine: Engine, patient_first: bool) -> None:
    """The one who has waited enough is told, and the other's is done when the lock is free."""
    transactions = grouped(engine)
    assert isinstance(transactions, GroupedTransactions)

    def write(word: str, busy_seconds: float) -> object:
        transactions._busy_timeout_seconds = busy_seconds
        try:
            return transactions.write(note(word))
        except LedgerBusy as error:
            return error

    writers = [("patient", LONG_SECONDS), ("impatient", SHORT_SECONDS)]
    with WriteLock(engine):
        spawned = {
            word: gevent.spawn(write, word, busy_seconds)
            for word, busy_seconds in (writers if patient_first else reversed(writers))
        }
        assert isinstance(spawned["impatient"].get(timeout=LONG_SECONDS), LedgerBusy)
        assert not spawned["patient"].ready()
    assert spawned["patient"].get(timeout=LONG_SECONDS) == "patient"
    assert notes(transactions) == ["patient"]


def test_other_greenlets_run_while_a_writer_waits_for_a_lock(
    engine: Engine, journal: Journal
) -> None:
    transactions = grouped(engine)
    journal.clear()
    with WriteLock(engine):
        writer = gevent.spawn(transactions.write, note("one"))
        journal.wait_for("BEGIN IMMEDIATE")
        assert notes(transactions) == []
        assert not writer.ready()
    assert writer.get(timeout=LONG_SECONDS) == "one"


def test_one_durable_transaction_makes_its_group_wait_for_the_disk(engine: Engine) -> None:
    transactions = grouped(engine, strict=True)
    level = text("PRAGMA synchronous")

    def work(connection: Connection) -> int:
        return int(connection.execute(level).scalar_one())

    lax, strict = (gevent.spawn(transactions.write, work, durable=kind) for kind in (False, True))
    assert [lax.get(timeout=LONG_SECONDS), strict.get(timeout=LONG_SECONDS)] == [FULL, FULL]


def test_a_killed_greenlet_is_missed_by_nobody(engine: Engine, journal: Journal) -> None:
    transactions = grouped(engine)
    journal.clear()
    with WriteLock(engine):
        first = gevent.spawn(transactions.write, note("first"))
        journal.wait_for("BEGIN IMMEDIATE")
        killed = gevent.spawn(transactions.write, note("killed"))
        last = gevent.spawn(transactions.write, note("last"))
        gevent.sleep(0)
        gevent.killall([first, killed])
    assert last.get(timeout=LONG_SECONDS) == "last"
    assert notes(transactions) == ["first", "killed", "last"]  # begun is begun
    assert transactions.write(note("after")) == "after"


def test_a_killed_reader_is_missed_by_nobody(engine: Engine) -> None:
    transactions = grouped(engine)
    readers = [gevent.spawn(notes, transactions) for _ in range(5)]
    gevent.sleep(0)
    gevent.killall(readers)
    assert notes(transactions) == []


def test_errors_are_raised_and_not_printed(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    """gevent prints what leaves a native thread; a server's log must not look like a crash."""
    transactions = grouped(engine, busy=SHORT_SECONDS)
    with WriteLock(engine):
        write_at_once(transactions, note("one"))
    write_at_once(transactions, raising(UploadNotFound()))
    with pytest.raises(UploadNotFound):
        transactions.read(_raise_not_found)
    assert "Traceback" not in capfd.readouterr().err


def _raise_not_found(_connection: Connection) -> None:
    raise UploadNotFound


# Native threads


def native(transactions: Transactions, work: Callable[[Connection], str]) -> gevent.Greenlet:
    """Write in a native thread, as the end of a part does; the greenlet waits for it."""
    return gevent.spawn(NativePool(1).run, lambda: transactions.write(work))


def test_a_native_thread_writes_by_itself(engine: Engine, journal: Journal) -> None:
    transactions = grouped(engine)
    journal.clear()
    assert native(transactions, note("one")).get(timeout=LONG_SECONDS) == "one"
    assert journal.commits == 1
    assert notes(transactions) == ["one"]


def test_native_threads_and_greenlets_share_commits(engine: Engine, journal: Journal) -> None:
    transactions = grouped(engine)
    assert isinstance(transactions, GroupedTransactions)
    for first, second in [("native", "greenlet"), ("greenlet", "native")]:
        journal.clear()
        spawn = {
            "native": lambda word: native(transactions, note(word)),
            "greenlet": lambda word: gevent.spawn(transactions.write, note(word)),
        }
        with WriteLock(engine):
            writers = [spawn[first](f"{first} first")]
            journal.wait_for("BEGIN IMMEDIATE")
            kinds = [first, second, first, second]
            writers += [spawn[kind](f"{number} {kind}") for number, kind in enumerate(kinds)]
            with gevent.Timeout(LONG_SECONDS):
                while len(transactions._waiting) < len(kinds):
                    gevent.sleep(0.001)
        gevent.joinall(writers, timeout=LONG_SECONDS, raise_error=True)
        assert journal.commits == 2
    assert len(notes(transactions)) == 10


def test_many_native_threads_and_greenlets_lose_nothing(engine: Engine) -> None:
    transactions = grouped(engine)
    pool = NativePool(8)

    def write(number: int) -> str:
        work = note(str(number))
        return (
            transactions.write(work) if number % 3 else pool.run(lambda: transactions.write(work))
        )

    greenlets = [gevent.spawn(write, number) for number in range(300)]
    gevent.joinall(greenlets, timeout=LONG_SECONDS, raise_error=True)
    words = [str(number) for number in range(300)]
    assert [greenlet.value for greenlet in greenlets] == words
    assert sorted(notes(transactions), key=int) == words


def test_a_native_thread_gets_its_own_error(engine: Engine) -> None:
    transactions = grouped(engine, busy=SHORT_SECONDS)
    gone = UploadNotFound()
    writer = native(transactions, raising(gone))
    with pytest.raises(UploadNotFound) as raised:
        writer.get(timeout=LONG_SECONDS)
    assert raised.value is gone
    with WriteLock(engine):
        writer = native(transactions, note("one"))
        with pytest.raises(LedgerBusy):
            writer.get(timeout=LONG_SECONDS)
    assert native(transactions, note("two")).get(timeout=LONG_SECONDS) == "two"
    assert notes(transactions) == ["two"]
