"""How SQLite is opened, and how transactions begin on it.

Writers take the lock when they begin (BEGIN IMMEDIATE): a deferred transaction that
turns into a writer fails with SQLITE_BUSY without waiting. SQLAlchemy's
documentation, "Serializable isolation / Savepoints / Transactional DDL", says how
one begins transactions oneself.
"""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from sqlalchemy import Connection, Engine, event, exc

from app.native_threads import native_sleep

#: Execution options of a connection whose transactions only read.
READING = {"longhaul_reads": True}

#: Where a connection keeps until when its next transaction may wait to begin.
_WAITS_UNTIL = "longhaul_waits_until"

#: SQLite itself looks again after 1, 2, 5, 10, 15, 20 and more milliseconds; another
#: worker has the lock for less than one. So we look ourselves: often at first.
_LOOK_SECONDS = 0.0002
_OFTEN_SECONDS = 0.05
_LATER_LOOK_SECONDS = 0.002


def prepare_sqlite(engine: Engine, busy_timeout_seconds: float) -> None:
    """Have each connection opened, and each transaction begun, as the ledger needs it.

    A writer waits ``busy_timeout_seconds`` for others, or as ``wait_until`` says, then
    it raises OperationalError.
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
        if connection.get_execution_options().get("longhaul_reads"):
            connection.exec_driver_sql("BEGIN")
            return
        give_up_at = connection.info.pop(_WAITS_UNTIL, None)
        if give_up_at is None:
            give_up_at = time.monotonic() + busy_timeout_seconds
        _run(connection, "PRAGMA busy_timeout=0")
        try:
            if not _begins(_driver_connection(connection), give_up_at):
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # raises what is the matter
        finally:
            _run(connection, busy_timeout)


def wait_until(connection: Connection, give_up_at: float) -> None:
    """Let the next transaction wait until then (monotonic seconds); it looks at least once."""
    connection.info[_WAITS_UNTIL] = give_up_at


def is_locked(error: BaseException | None) -> bool:
    """Tell whether an error says that others have the lock."""
    if isinstance(error, exc.DBAPIError):
        error = error.orig
    # The first byte: SQLITE_BUSY_RECOVERY and others are told apart by the second.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _begins(connection: Any, give_up_at: float) -> bool:
    """Begin to write as soon as nobody else does; False if that does not come or fails."""
    started_at = time.monotonic()
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return True
        except sqlite3.Error as error:
            if not is_locked(error):
                return False
        now = time.monotonic()
        if now > give_up_at:
            return False
        often = now - started_at < _OFTEN_SECONDS
        native_sleep(_LOOK_SECONDS if often else _LATER_LOOK_SECONDS)


def synchronize(connection: Connection, full: bool) -> None:
    """Set whether SQLite's next commit waits for the disk (FULL) or not (NORMAL)."""
    if connection.dialect.name != "sqlite":
        return
    wanted = "FULL" if full else "NORMAL"
    if connection.info.get("longhaul_synchronous") != wanted:
        _run(connection, f"PRAGMA synchronous={wanted}")
        connection.info["longhaul_synchronous"] = wanted


def _run(connection: Connection, sql: str) -> None:
    """Run a statement past SQLAlchemy, which costs ten times what it does; its errors stay."""
    try:
        _driver_connection(connection).execute(sql)
    except sqlite3.Error:
        connection.exec_driver_sql(sql)  # raises it as SQLAlchemy's


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection
