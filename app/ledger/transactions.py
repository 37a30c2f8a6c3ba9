"""How a transaction is run: where, on which connection, and with whom it shares a commit.

A transaction is a function of a SQLAlchemy Connection; it is run as a whole and
may be run again, so it has no effects but the database's.

SQLite blocks whoever calls it (a FULL commit beside bulk syncs takes tens of
milliseconds), so in a gevent process its work runs in native threads:
``GroupedTransactions``. Write transactions that wait together share one commit,
each in a savepoint of its own. PostgreSQL's driver waits in the hub by itself
and a command-line process has nobody to hold up: ``DirectTransactions``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

import gevent
import structlog
from gevent import monkey
from gevent.event import Event
from gevent.threadpool import ThreadPool
from sqlalchemy import Connection, Engine, event, exc

from app.errors import LedgerBusy

T = TypeVar("T")
Work = Callable[[Connection], T]

log = structlog.get_logger(__name__)

#: What the driver raises when the database is locked, full, gone or out of connections.
_PASSING = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)

#: Threads that read while the one that writes is busy; WAL lets them.
READER_THREADS = 2

#: Write transactions that may share a commit: bounds how long the first waits.
MAX_GROUP = 64


class Transactions(Protocol):
    """Runs transactions. ``durable`` False: a power cut may forget the commit (leases)."""

    def write(self, work: Work[T], *, durable: bool = True) -> T: ...

    def read(self, work: Work[T]) -> T: ...


def transactions_for(engine: Engine, *, strict: bool, busy_timeout_seconds: float) -> Transactions:
    """Prepare ``engine`` and return the way to run transactions on it in this process."""
    if engine.dialect.name != "sqlite":
        return DirectTransactions(engine, strict=False)
    _prepare_sqlite(engine, busy_timeout_seconds)
    if monkey.is_module_patched("socket"):
        return GroupedTransactions(engine, strict=strict)
    return DirectTransactions(engine, strict=strict)


class DirectTransactions:
    """Runs each transaction at once in the calling thread or greenlet."""

    def __init__(self, engine: Engine, *, strict: bool) -> None:
        self._engine = engine
        self._strict = strict

    def write(self, work: Work[T], *, durable: bool = True) -> T:
        def run() -> T:
            with self._engine.connect() as connection:
                _synchronize(connection, durable and self._strict)
                with connection.begin():
                    return work(connection)

        return _attempt(run).get()

    def read(self, work: Work[T]) -> T:
        return _attempt(lambda: _read(self._engine, work)).get()


@dataclass(slots=True)
class _Outcome(Generic[T]):
    """What a transaction returned or raised. An exception must not leave a native thread:
    gevent would print it, and logging there is forbidden, for its locks are gevent's."""

    result: T | None = None
    error: BaseException | None = None

    def get(self) -> T:
        """Return the result or raise the error, the driver's passing ones as LedgerBusy."""
        if self.error is None:
            return cast(T, self.result)
        if isinstance(self.error, _PASSING):
            log.warning("ledger.unavailable", error=str(self.error.__cause__ or self.error))
            raise LedgerBusy from self.error
        raise self.error


@dataclass(slots=True)
class _Ticket:
    """A write transaction that waits for its turn in a group."""

    work: Work[Any]
    durable: bool
    outcome: _Outcome[Any] = field(default_factory=_Outcome)
    done: Event = field(default_factory=Event)


class GroupedTransactions:
    """Runs SQLite transactions in native threads; waiting writers share a commit."""

    def __init__(self, engine: Engine, *, strict: bool) -> None:
        self._engine = engine
        self._strict = strict
        self._writer = ThreadPool(1)
        self._readers = ThreadPool(READER_THREADS)
        self._waiting: list[_Ticket] = []
        self._committing = False

    def write(self, work: Work[T], *, durable: bool = True) -> T:
        ticket = _Ticket(work, durable)
        self._waiting.append(ticket)
        if not self._committing:
            self._committing = True
            gevent.spawn(self._commit_waiting)
        ticket.done.wait()
        return cast(T, ticket.outcome.get())

    def read(self, work: Work[T]) -> T:
        outcome = self._readers.apply(_attempt, (lambda: _read(self._engine, work),))
        return cast(T, outcome.get())

    def _commit_waiting(self) -> None:
        """Commit group after group until nobody waits; in a greenlet of its own."""
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
                self._writer.apply(self._commit_group, (group,))
                for ticket in group:
                    ticket.done.set()
        finally:
            self._committing = False

    def _commit_group(self, group: list[_Ticket]) -> None:
        """Run and commit a group; in the writer's native thread. Never raises."""
        error = _attempt(lambda: self._run_group(group)).error
        if error is not None:  # nothing of the group is committed
            for ticket in group:
                ticket.outcome.error = ticket.outcome.error or error

    def _run_group(self, group: list[_Ticket]) -> None:
        with self._engine.connect() as connection:
            _synchronize(connection, self._strict and any(ticket.durable for ticket in group))
            with connection.begin():
                if len(group) == 1:  # spares the savepoint
                    group[0].outcome.result = group[0].work(connection)
                    return
                for ticket in group:
                    try:
                        with connection.begin_nested():
                            ticket.outcome.result = ticket.work(connection)
                    except _PASSING:
                        raise  # locked, full, broken: nothing of this group is committed
                    except BaseException as error:  # noqa: BLE001 - raised by its own greenlet
                        ticket.outcome.error = error


def _read(engine: Engine, work: Work[T]) -> T:
    with engine.connect().execution_options(longhaul_begin="BEGIN") as connection:
        with connection.begin():
            return work(connection)


def _attempt(run: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(result=run())
    except BaseException as error:  # noqa: BLE001 - raised by ``get``
        return _Outcome(error=error)


def _prepare_sqlite(engine: Engine, busy_timeout_seconds: float) -> None:
    """Let us begin transactions ourselves: writers take the lock at once (BEGIN IMMEDIATE).

    SQLAlchemy's documentation, "Serializable isolation / Savepoints / Transactional DDL",
    says how; a deferred transaction that turns into a writer fails with SQLITE_BUSY
    without waiting.
    """

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout={int(busy_timeout_seconds * 1000)}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql(options.get("longhaul_begin", "BEGIN IMMEDIATE"))


def _synchronize(connection: Connection, full: bool) -> None:
    """Set whether SQLite's next commit waits for the disk (FULL) or not (NORMAL)."""
    if connection.dialect.name != "sqlite":
        return
    wanted = "FULL" if full else "NORMAL"
    if connection.info.get("longhaul_synchronous") != wanted:
        driver_connection = connection.connection.driver_connection
        assert driver_connection is not None
        driver_connection.execute(f"PRAGMA synchronous={wanted}")
        connection.info["longhaul_synchronous"] = wanted
