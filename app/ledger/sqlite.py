"""How SQLite is opened, and how transactions begin on it.

Writers take the lock when they begin (BEGIN IMMEDIATE): a deferred transaction that
turns into a writer fails with SQLITE_BUSY without waiting. SQLAlchemy's
documentation, "Serializable isolation / Savepoints / Transactional DDL", says how
one begins transactions oneself.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, event, exc

from app.native_threads import native_sleep

#: Execution options of a connection whose transactions only read.
READING = {"longhaul_reads": True}

#: Of a ``KeptConnection``, which begins its transactions by itself.
_KEPT = {"longhaul_kept": True}

#: SQLite itself looks again after 1, 2, 5, 10, 15, 20 and more milliseconds; another
#: worker has the lock for less than one. So we look ourselves: often at first.
_LOOK_SECONDS = 0.0002
_OFTEN_SECONDS = 0.05
_LATER_LOOK_SECONDS = 0.002
_NO_TIMEOUT = "PRAGMA busy_timeout=0"


def prepare_sqlite(engine: Engine, busy_timeout_seconds: float) -> None:
    """Have each connection opened, and each transaction begun, as the ledger needs it.

    A writer waits ``busy_timeout_seconds`` for others, then it raises OperationalError.
    """
    busy_timeout = f"PRAGMA busy_timeout={int(busy_timeout_seconds * 1000)}"

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(busy_timeout)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        options = connection.get_execution_options()
        if "longhaul_kept" in options:
            return
        driver = driver_connection(connection)
        if "longhaul_reads" in options:
            run(driver, "BEGIN")
            return
        run(driver, _NO_TIMEOUT)
        try:
            _begin_to_write(driver, time.monotonic() + busy_timeout_seconds)
        finally:
            run(driver, busy_timeout)


class KeptConnection:
    """A connection of somebody who writes often, one transaction after the other.

    SQLAlchemy takes it for one endless transaction. It takes five times as long to begin
    and to end one as SQLite does, so that is done past it here.
    """

    def __init__(self, engine: Engine) -> None:
        self.connection = engine.connect().execution_options(**_KEPT)
        self.connection.begin()
        self._driver = driver_connection(self.connection)
        run(self._driver, _NO_TIMEOUT)

    def begin(self, give_up_at: float) -> None:
        """Begin to write; wait for others until then (monotonic seconds), look at least once."""
        _begin_to_write(self._driver, give_up_at)

    def commit(self) -> None:
        """Commit. If this raises, ``close``."""
        run(self._driver, "COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if it is not undone yet."""
        if self._driver.in_transaction:
            run(self._driver, "ROLLBACK")

    def close(self) -> None:
        """Close it, and whatever was begun; nobody gets it again."""
        self.connection.invalidate()
        self.connection.close()


def is_locked(error: BaseException | None) -> bool:
    """Tell whether an error says that others have the lock."""
    if isinstance(error, exc.DBAPIError):
        error = error.orig
    # The first byte: SQLITE_BUSY_RECOVERY and others are told apart by the second.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _begin_to_write(driver: Any, give_up_at: float) -> None:
    """Begin as soon as nobody else writes. Raises OperationalError if that does not come."""
    started_at = time.monotonic()
    while True:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.Error as error:
            now = time.monotonic()
            if not is_locked(error) or now > give_up_at:
                raise translated(error, "BEGIN IMMEDIATE") from error
        often = now - started_at < _OFTEN_SECONDS
        native_sleep(_LOOK_SECONDS if often else _LATER_LOOK_SECONDS)


def synchronize(connection: Connection, full: bool) -> None:
    """Set whether SQLite's next commit waits for the disk (FULL) or not (NORMAL)."""
    if connection.dialect.name != "sqlite":
        return
    wanted = "FULL" if full else "NORMAL"
    if connection.info.get("longhaul_synchronous") != wanted:
        run(driver_connection(connection), f"PRAGMA synchronous={wanted}")
        connection.info["longhaul_synchronous"] = wanted


def run(driver: Any, sql: str, arguments: Sequence[object] = ()) -> sqlite3.Cursor:
    """Run a statement past SQLAlchemy, which costs ten times what it does; raise its errors."""
    try:
        cursor: sqlite3.Cursor = driver.execute(sql, arguments)
        return cursor
    except sqlite3.Error as error:
        raise translated(error, sql) from error


def driver_connection(connection: Connection) -> Any:
    """Return SQLite's own connection."""
    return connection.connection.driver_connection


def translated(error: sqlite3.Error, sql: str) -> exc.DBAPIError:
    """Return the error that SQLAlchemy would raise."""
    kind = {
        sqlite3.OperationalError: exc.OperationalError,
        sqlite3.InterfaceError: exc.InterfaceError,
        sqlite3.IntegrityError: exc.IntegrityError,
    }.get(type(error), exc.DBAPIError)
    return kind(sql, None, error)
