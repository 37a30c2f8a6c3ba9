"""Prepared statements: the same on SQLite's own connection as by SQLAlchemy elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    exc,
    select,
    update,
)

from app.ledger.dialects import insert
from app.ledger.prepared import Prepared
from tests.harness.databases import Database

notes = Table(
    "prepared_notes",
    MetaData(),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("word", Text, nullable=False),
    Column("size", BigInteger),
    Column("details", JSON),
)

INSERT = Prepared(
    notes.insert().values({column.name: bindparam(column.name) for column in notes.c})
)
SELECT = Prepared(select(notes).where(notes.c.id == bindparam("id")))


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """A connection within a transaction, and the table."""
    with database.by_hand.connect() as connection, connection.begin():
        notes.create(connection)
        yield connection


def put(connection: Connection, number: int, word: str, **more: object) -> None:
    INSERT.count(connection, {"id": number, "word": word, "size": None, "details": None, **more})


def test_rows_come_back_by_the_names_of_their_columns(connection: Connection) -> None:
    put(connection, 1, "one", size=2**40, details={"a": [1, None]})
    assert SELECT.first(connection, {"id": 1}) == {
        "id": 1,
        "word": "one",
        "size": 2**40,
        "details": {"a": [1, None]},
    }
    assert SELECT.first(connection, {"id": 2}) is None


def test_values_go_to_their_places_whatever_their_order(connection: Connection) -> None:
    put(connection, 1, "one", size=5)
    larger = Prepared(
        update(notes)
        .where(notes.c.word == bindparam("old"), notes.c.size < bindparam("limit"))
        .values(word=bindparam("new"), size=notes.c.size + 1)
        .returning(notes.c.size)
    )
    asked = {"limit": 6, "new": "two", "old": "one"}
    assert larger.first(connection, asked) == {"size": 6}
    assert larger.first(connection, asked) is None
    row = SELECT.first(connection, {"id": 1})
    assert row is not None
    assert row["word"] == "two"


def test_fixed_values_stay_and_computed_ones_are_computed_each_time(
    connection: Connection,
) -> None:
    numbers = count(10)
    statement = Prepared(
        notes.insert()
        .values(
            id=bindparam("computed", callable_=lambda: next(numbers), type_=Integer),
            word="always this",
        )
        .returning(notes.c.id, notes.c.word)
    )
    assert statement.first(connection, {}) == {"id": 10, "word": "always this"}
    assert statement.first(connection, {}) == {"id": 11, "word": "always this"}


def test_changed_rows_are_counted(connection: Connection) -> None:
    for number in range(3):
        put(connection, number, "same")
    gone = Prepared(delete(notes).where(notes.c.word == bindparam("word")))
    assert gone.count(connection, {"word": "same"}) == 3
    assert gone.count(connection, {"word": "same"}) == 0


def test_an_upsert_that_changes_nothing_returns_no_row(connection: Connection) -> None:
    upsert = insert(connection.dialect.name, notes).values(id=bindparam("id"), word="new", size=1)
    statement = Prepared(
        upsert.on_conflict_do_update(
            index_elements=["id"], set_={"size": notes.c.size + 1}, where=notes.c.size < 2
        ).returning(notes.c.size)
    )
    sizes = [statement.first(connection, {"id": 1}) for _ in range(3)]
    assert sizes == [{"size": 1}, {"size": 2}, None]


def test_a_broken_constraint_is_sqlalchemys_error(connection: Connection) -> None:
    put(connection, 1, "one")
    with pytest.raises(exc.IntegrityError), connection.begin_nested():
        put(connection, 1, "again")
    put(connection, 2, "two")
    assert SELECT.first(connection, {"id": 2}) is not None


def test_a_missing_table_is_sqlalchemys_error(connection: Connection) -> None:
    missing = Prepared(select(Table("nowhere", MetaData(), Column("id", Integer))))
    kinds = (exc.OperationalError, exc.ProgrammingError)  # SQLite's, PostgreSQL's
    with pytest.raises(kinds), connection.begin_nested():
        missing.first(connection, {})


def test_a_value_that_is_missing_is_a_bug(connection: Connection) -> None:
    with pytest.raises((KeyError, exc.StatementError)):
        SELECT.first(connection, {})


def test_statements_do_not_keep_a_transaction_from_ending(database: Database) -> None:
    with database.by_hand.connect() as connection:
        with connection.begin():
            notes.create(connection)
            put(connection, 1, "one")
            put(connection, 2, "two")
        with connection.begin():  # the second row is never asked for
            assert Prepared(select(notes.c.id)).first(connection, {}) == {"id": 1}
        with connection.begin():
            notes.drop(connection)
