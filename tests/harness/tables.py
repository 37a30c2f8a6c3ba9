"""The tables of a server under test, read and changed behind its back."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader


class Tables(ABC):
    """A server's database. Statements have ``?`` for values, and no other question marks."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """The server's settings that have it use this database."""

    @abstractmethod
    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Return rows, each column's name → value."""

    @abstractmethod
    def change(self, statement: str, *values: object) -> None:
        """Change rows, or tables."""


class Sqlite(Tables):
    """A file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def settings(self) -> dict[str, object]:
        """See Tables."""
        return {"DATABASE_PATH": self._path}

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """See Tables."""
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)) as ledger:
            ledger.row_factory = sqlite3.Row
            return [dict(row) for row in ledger.execute(query, values)]

    def change(self, statement: str, *values: object) -> None:
        """See Tables."""
        with closing(sqlite3.connect(self._path, timeout=10)) as ledger, ledger:
            ledger.execute(statement, values)


class Postgresql(Tables):
    """A database of a server, by its URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def settings(self) -> dict[str, object]:
        """See Tables."""
        return {"DATABASE_URL": self._url}

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """See Tables."""
        with self._connected() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(query.replace("?", "%s"), values).fetchall()

    def change(self, statement: str, *values: object) -> None:
        """See Tables."""
        with self._connected() as connection:
            connection.execute(statement.replace("?", "%s"), values)

    def _connected(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self._url.replace("postgresql+psycopg", "postgresql"))
        connection.adapters.register_loader("json", TextLoader)  # text, as SQLite has it
        return connection
