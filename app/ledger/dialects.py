"""INSERT … ON CONFLICT, which SQLAlchemy spells per database."""

from __future__ import annotations

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = sqlite.Insert | postgresql.Insert


def insert(dialect: str, table: Table) -> Insert:
    """Return the dialect's INSERT, which has ``on_conflict_do_…``."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
