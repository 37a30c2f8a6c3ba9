"""Statements of the hot path, run on SQLite's own connection.

SQLAlchemy takes 45 µs around a statement for which SQLite itself takes 7
(measured), and a part takes seven of them. So a statement is compiled here
once, by SQLAlchemy, and then handed to the driver with its values in order.
Other databases, where a round trip costs more than that, get it the usual way.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from app.ledger.sqlite import driver_connection, run, translated

Statement = Select[Any] | Insert | Update | Delete
Values = Mapping[str, object]
Row = Mapping[str, Any]


class Prepared:
    """A Core statement with named parameters, compiled on first use.

    It runs in the transaction that its connection is in.
    """

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._compiled: _Compiled | None = None

    def first(self, connection: Connection, values: Values) -> Row | None:
        """Run the statement; return its first row, column → value, or None."""
        if connection.dialect.name != "sqlite":
            row = connection.execute(self._statement, values).first()
            return None if row is None else cast(Row, row._mapping)
        rows, _ = self._for(connection).run(connection, values)
        return rows[0] if rows else None

    def count(self, connection: Connection, values: Values) -> int:
        """Run an UPDATE or DELETE; return how many rows it changed. An INSERT tells nothing."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, values).rowcount
        _, count = self._for(connection).run(connection, values)
        return count

    def _for(self, connection: Connection) -> _Compiled:
        if self._compiled is None:
            self._compiled = _Compiled(self._statement, connection)
        return self._compiled


class _Compiled:
    """What SQLite's driver needs to run a statement, and to read its rows."""

    def __init__(self, statement: Statement, connection: Connection) -> None:
        dialect = connection.dialect
        compiled = statement.compile(dialect=dialect)
        assert isinstance(compiled, SQLCompiler)
        assert not compiled.post_compile_params, "a list of values has no fixed SQL"
        self._sql = str(compiled)
        names = compiled.positiontup or ()
        self._arguments = [_argument(compiled, name, dialect) for name in names]
        self._columns = [
            (str(column.key), _of_dialect(column.type, dialect).result_processor(dialect, None))
            for column in statement.exported_columns
        ]

    def run(self, connection: Connection, values: Values) -> tuple[list[Row], int]:
        """Return all rows, and how many rows were changed (-1 for a SELECT)."""
        arguments = [argument(values) for argument in self._arguments]
        cursor = run(driver_connection(connection), self._sql, arguments)
        try:
            # All of them: a statement that is not at its end forbids to commit.
            found = cursor.fetchall() if self._columns else []
        except sqlite3.Error as error:
            raise translated(error, self._sql) from error
        return [self._row(row) for row in found], cursor.rowcount

    def _row(self, row: Sequence[Any]) -> Row:
        return {
            name: value if process is None else process(value)
            for (name, process), value in zip(self._columns, row, strict=True)
        }


def _argument(compiled: SQLCompiler, name: str, dialect: Dialect) -> Callable[[Values], object]:
    """Return what computes a parameter's value from the values of an execution."""
    bound = compiled.binds[name]
    process = _of_dialect(bound.type, dialect).bind_processor(dialect)
    if bound.callable is not None:
        source: Callable[[Values], object] = _computed(bound.callable)
    elif bound.required:
        source = _given(bound.key)
    else:
        source = _fixed(bound.value)
    if process is None:
        return source
    return lambda values: process(source(values))


def _of_dialect(kind: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    return kind.dialect_impl(dialect)


def _computed(compute: Callable[[], object]) -> Callable[[Values], object]:
    return lambda _values: compute()


def _given(key: str) -> Callable[[Values], object]:
    return lambda values: values[key]


def _fixed(value: object) -> Callable[[Values], object]:
    return lambda _values: value
