"""How a transaction is run: where, on which connection, and with whom it shares a commit.

A transaction is a function of a SQLAlchemy Connection; it is run as a whole and
may be run again, so it has no effects but the database's.

SQLite blocks whoever calls it (a FULL commit beside bulk syncs takes tens of
milliseconds), so in a gevent process its work runs in native threads:
``GroupedTransactions``. Write transactions that wait together share one commit,
each in a savepoint of its own; a native thread that has something to write need
not go back to its greenlet first. PostgreSQL's driver waits in the hub by itself
and a command-line process has nobody to hold up: ``DirectTransactions``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, cast

import gevent
import structlog
from gevent import monkey
from gevent.event import Event
from gevent.threadpool import ThreadPool
from sqlalchemy import Connection, Engine, exc

from app.errors import LedgerBusy
from app.ledger.postgresql import prepare_postgresql
from app.ledger.sqlite import (
    READING,
    KeptConnection,
    is_locked,
    prepare_sqlite,
    synchronize,
)
from app.native_threads import in_native_thread, native_lock

T = TypeVar("T")
Work = Callable[[Connection], T]

log = structlog.get_logger(__name__)

#: What the driver raises when the database is locked, full, gone or out of connections.
_PASSING = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError)

#: SQLSTATEs of trouble of PostgreSQL's that SQLite has as an OperationalError: tables or
#: columns are not there (yet), this is a standby, a privilege has been taken away.
_PASSING_STATES = {"42P01", "42703", "25006", "42501"}

#: Threads that read while the one that writes is busy; WAL lets them.
READER_THREADS = 2

#: Write transactions that may share a commit: bounds how long the first waits.
MAX_GROUP = 64


class Transactions(Protocol):
    """Runs transactions. ``durable`` False: a power cut may forget the commit (leases).

    LedgerBusy is raised where the database is locked for the busy timeout, counted
    from the call. ``optional``: at once, while others have just waited in vain:
    for what a request leaves behind when it has failed, or it would wait again.

    ``from_native_threads``: ``write`` may be called in a native thread of a gevent
    process, too, and blocks it. Nothing is logged there.
    """

    from_native_threads: bool

    def write(self, work: Work[T], *, durable: bool = True, optional: bool = False) -> T: ...

    def read(self, work: Work[T]) -> T: ...


def transactions_for(engine: Engine, *, strict: bool, busy_timeout_seconds: float) -> Transactions:
    """Prepare ``engine`` and return the way to run transactions on it in this process."""
    if engine.dialect.name != "sqlite":
        prepare_postgresql(engine, busy_timeout_seconds)
        return DirectTransactions(engine, strict=False)
    prepare_sqlite(engine, busy_timeout_seconds)
    if monkey.is_module_patched("socket"):
        return GroupedTransactions(engine, strict=strict, busy_timeout_seconds=busy_timeout_seconds)
    return DirectTransactions(engine, strict=strict)


class DirectTransactions:
    """Runs each transaction at once in the calling thread or greenlet."""

    from_native_threads = False

    def __init__(self, engine: Engine, *, strict: bool) -> None:
        self._engine = engine
        self._strict = strict
        self._in_vain = False

    def write(self, work: Work[T], *, durable: bool = True, optional: bool = False) -> T:
        def run() -> T:
            with self._engine.connect() as connection:
                synchronize(connection, durable and self._strict)
                with connection.begin():
                    return work(connection)

        if optional and self._in_vain:
            raise LedgerBusy
        outcome = _attempt(run)
        self._in_vain = outcome.error is not None and _passes(outcome.error)
        return outcome.get()

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
        if _passes(self.error):
            if _may_log():  # else whoever answers the request tells the cause
                log.warning("ledger.unavailable", error=str(self.error.__cause__ or self.error))
            raise LedgerBusy from self.error
        raise self.error


@dataclass(slots=True)
class _Ticket:
    """A write transaction that waits for its turn in a group, for a lock until ``give_up_at``.

    ``done`` wakes a greenlet; native threads see by ``finished`` that their turn
    has been used by another one.
    """

    work: Work[Any]
    durable: bool
    give_up_at: float
    outcome: _Outcome[Any] = field(default_factory=_Outcome)
    finished: bool = False
    done: Event | None = None


class GroupedTransactions:
    """Runs SQLite transactions in native threads; waiting writers share a commit.

    One thread at a time has the turn: the thread that writes for greenlets, or a
    native one that wants to write itself. It commits all that wait, whoever they
    are, on a connection that is kept: what SQLite and its driver remember of it
    (pages, compiled statements) is what makes small transactions cheap.
    """

    from_native_threads = True

    def __init__(self, engine: Engine, *, strict: bool, busy_timeout_seconds: float) -> None:
        self._engine = engine
        self._strict = strict
        self._busy_timeout_seconds = busy_timeout_seconds
        self._writer = ThreadPool(1)
        self._readers = ThreadPool(READER_THREADS)
        self._turn = native_lock()
        self._kept: KeptConnection | None = None
        # Appended to by whoever writes, taken from by who has the turn: single
        # operations of a list, which need no lock.
        self._waiting: list[_Ticket] = []
        self._asleep: list[_Ticket] = []
        self._committing = False
        self._in_vain = False

    def write(self, work: Work[T], *, durable: bool = True, optional: bool = False) -> T:
        if optional and self._in_vain:
            raise LedgerBusy
        ticket = _Ticket(work, durable, time.monotonic() + self._busy_timeout_seconds)
        if in_native_thread():
            self._waiting.append(ticket)
            while not ticket.finished:
                self._commit_next(ticket)
            return cast(T, ticket.outcome.get())
        ticket.done = Event()
        self._asleep.append(ticket)
        self._waiting.append(ticket)
        if not self._committing:
            self._committing = True
            gevent.spawn(self._commit_waiting)
        ticket.done.wait()
        return cast(T, ticket.outcome.get())

    def read(self, work: Work[T]) -> T:
        if in_native_thread():
            return _attempt(lambda: _read(self._engine, work)).get()
        outcome = self._readers.apply(_attempt, (lambda: _read(self._engine, work),))
        return cast(T, outcome.get())

    def _commit_waiting(self) -> None:
        """Commit group after group until no greenlet waits; in a greenlet of its own."""
        try:
            while self._asleep:
                self._writer.apply(self._commit_next, (self._asleep[0],))
                finished = [ticket for ticket in self._asleep if ticket.finished]
                self._asleep = [ticket for ticket in self._asleep if not ticket.finished]
                for ticket in finished:
                    assert ticket.done is not None
                    ticket.done.set()
        finally:
            self._committing = False

    def _commit_next(self, wanted: _Ticket) -> None:
        """Have the next turn, unless ``wanted`` is finished before it comes; never raises."""
        with self._turn:
            if wanted.finished:
                return
            group = self._waiting[:MAX_GROUP]
            del self._waiting[: len(group)]
            error = _attempt(lambda: self._run_group(group)).error
            if isinstance(error, exc.SQLAlchemyError):  # the connection may be broken
                _attempt(self._disconnect)
            self._in_vain = error is not None and _passes(error)
            # Where others have the lock, those who came later may still wait.
            now = time.monotonic() if is_locked(error) else math.inf
            for ticket in group:
                if ticket.give_up_at > now:
                    ticket.outcome = _Outcome()
                    continue
                # An error of the group: nothing of it is committed.
                ticket.outcome.error = ticket.outcome.error or error
                ticket.finished = True
            self._waiting[:0] = [ticket for ticket in group if not ticket.finished]

    def _run_group(self, group: list[_Ticket]) -> None:
        if self._kept is None:
            self._kept = KeptConnection(self._engine)
        kept = self._kept
        synchronize(kept.connection, self._strict and any(ticket.durable for ticket in group))
        kept.begin(min(ticket.give_up_at for ticket in group))
        try:
            self._run_each(kept.connection, group)
        except BaseException:
            kept.rollback()
            raise
        kept.commit()

    def _run_each(self, connection: Connection, group: list[_Ticket]) -> None:
        if len(group) == 1:  # spares the savepoint
            group[0].outcome.result = group[0].work(connection)
            return
        for ticket in group:
            try:
                with connection.begin_nested():
                    ticket.outcome.result = ticket.work(connection)
            except BaseException as error:
                if _passes(error):
                    raise  # locked, full, broken: nothing of this group is committed
                ticket.outcome.error = error

    def _disconnect(self) -> None:
        """Give up the connection; the next turn opens another one."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()


def _read(engine: Engine, work: Work[T]) -> T:
    with engine.connect().execution_options(**READING) as connection:
        with connection.begin():
            return work(connection)


def _passes(error: BaseException) -> bool:
    if isinstance(error, exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return isinstance(error, _PASSING) or state in _PASSING_STATES
    return isinstance(error, _PASSING)


def _may_log() -> bool:
    """Logging takes locks, which in a patched process are gevent's."""
    return not (in_native_thread() and monkey.is_module_patched("threading"))


def _attempt(run: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(result=run())
    except BaseException as error:  # noqa: BLE001 - raised by ``get``
        return _Outcome(error=error)
