"""The two INSERT … ON CONFLICT statements that SQLAlchemy spells per database."""

from __future__ import annotations

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert


def insert(connection: Connection, table: Table) -> Insert:
    """Return the dialect's INSERT, which has ``on_conflict_do_…``."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def insert_or_ignore(connection: Connection, table: Table) -> Insert:
    """Return an INSERT that does nothing where the row exists; ``rowcount`` tells."""
    return insert(connection, table).on_conflict_do_nothing()
