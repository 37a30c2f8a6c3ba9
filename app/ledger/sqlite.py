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

from sqlalchemy import Connection, Engine, event

from app.native_threads import native_sleep

#: Execution options of a connection whose transactions only read.
READING = {"longhaul_reads": True}

#: SQLite itself looks again after 1, 2, 5, 10, 15, 20 and more milliseconds; another
#: worker has the lock for less than one. So for a while we look ourselves.
_LOOK_SECONDS = 0.0002
_LOOKING_SECONDS = 0.05


def prepare_sqlite(engine: Engine, busy_timeout_seconds: float) -> None:
    """Have each connection opened, and each transaction begun, as the ledger needs it.

    A writer waits at least ``busy_timeout_seconds`` for others, then it raises
    OperationalError.
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
        elif not _begins_soon(_driver_connection(connection), busy_timeout):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begins_soon(connection: Any, busy_timeout: str) -> bool:
    """Begin to write as soon as nobody else does; False if that takes long."""
    give_up_at = time.monotonic() + _LOOKING_SECONDS
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return True
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    return False
            native_sleep(_LOOK_SECONDS)
    finally:
        connection.execute(busy_timeout)


def synchronize(connection: Connection, full: bool) -> None:
    """Set whether SQLite's next commit waits for the disk (FULL) or not (NORMAL)."""
    if connection.dialect.name != "sqlite":
        return
    wanted = "FULL" if full else "NORMAL"
    if connection.info.get("longhaul_synchronous") != wanted:
        _driver_connection(connection).execute(f"PRAGMA synchronous={wanted}")
        connection.info["longhaul_synchronous"] = wanted


def _driver_connection(connection: Connection) -> Any:
    return connection.connection.driver_connection
