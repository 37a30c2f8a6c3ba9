"""Migrations: the only thing that makes tables, once, under a lock."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.schema import Table

from app.errors import LedgerBusy
from app.ledger.database import open_ledger
from app.ledger.migrate import LedgerOutdated, LedgerTooNew, migrate
from app.ledger.models import Base, instance
from tests.harness.databases import Database
from tests.harness.peer import Peer


class BrokenOff(Exception):
    """What ends a migration in its midst."""


def tables(database: Database) -> set[str]:
    return set(inspect(database.by_hand).get_table_names())


def server_engine(database: Database) -> Engine:
    """Return an engine as the server has it: it begins transactions in its own way."""
    engine = database.engine()
    open_ledger(engine, database.run_directory, strict=True, busy_timeout_seconds=5)
    return engine


def test_a_fresh_database_gets_all_tables_and_an_id(empty_database: Database) -> None:
    migrate(server_engine(empty_database))
    assert tables(empty_database) == {*Base.metadata.tables, "alembic_version"}
    ledger = empty_database.ledger()
    ledger.check()
    assert str(uuid.UUID(ledger.instance_id())) == ledger.instance_id()


def test_sqlites_file_has_its_write_ahead_log_before_it_is_shared(tmp_path: Path) -> None:
    """A connection that has to give it one first waits for nobody: it fails at once."""
    database = Database(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "run")
    migrate(server_engine(database))
    with database.by_hand.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        connection.exec_driver_sql("BEGIN")
        connection.execute(select(instance))
        database.ledger().check()
    database.close()


def test_a_database_without_tables_is_trouble_that_passes(empty_database: Database) -> None:
    """Drivers call it by different names; a server that waits for its tables answers 503."""
    ledger = empty_database.ledger()
    with pytest.raises(LedgerBusy):
        ledger.uploads.get("any")
    with pytest.raises(LedgerBusy):
        ledger.uploads.cancel("any", 1)


def test_the_directory_of_the_database_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new/folder/ledger.db", tmp_path / "run")
    migrate(server_engine(database))
    database.ledger().check()
    database.close()


def test_two_ledgers_have_different_ids(tmp_path: Path) -> None:
    ids = set()
    for name in ("one", "two"):
        database = Database(f"sqlite:///{tmp_path}/{name}.db", tmp_path / "run")
        migrate(server_engine(database))
        ids.add(database.ledger().instance_id())
        database.close()
    assert len(ids) == 2


def test_migrating_again_changes_nothing(empty_database: Database) -> None:
    engine = server_engine(empty_database)
    migrate(engine)
    before = empty_database.ledger().instance_id()
    migrate(engine)
    assert empty_database.ledger().instance_id() == before


def test_processes_that_migrate_at_once_take_turns(
    empty_database: Database, start_peer: Callable[[Database], Peer]
) -> None:
    peers = [start_peer(empty_database) for _ in range(3)]
    for peer in peers:
        peer.begin("migrate")
    assert [peer.outcome() for peer in peers] == [None, None, None]
    assert len(empty_database.rows(instance)) == 1
    empty_database.ledger().check()


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE instance", "CREATE TABLE deliveries", "INSERT INTO instance"]
)
def test_a_migration_that_breaks_off_leaves_nothing_and_can_be_repeated(
    empty_database: Database, statement: str
) -> None:
    engine = server_engine(empty_database)

    def break_off(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if text.strip().startswith(statement):
            raise BrokenOff

    event.listen(engine, "before_cursor_execute", break_off)
    with pytest.raises(BrokenOff):
        migrate(engine)
    assert tables(empty_database) <= {"alembic_version"}
    event.remove(engine, "before_cursor_execute", break_off)
    migrate(engine)
    empty_database.ledger().check()


def differences(database: Database, metadata: MetaData) -> Sequence[object]:
    """Return what the models have and the tables lack, or the other way round."""
    with database.by_hand.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def test_the_models_are_what_the_migrations_make(database: Database) -> None:
    assert differences(database, Base.metadata) == []


def test_a_drift_of_the_models_would_be_noticed(database: Database) -> None:
    changed = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.sorted_tables:
        table.to_metadata(changed)
    changed.tables["uploads"].append_column(Column("colour", String(8)))
    changed.tables["receipts"].c.size.type = Integer()
    Table("folders", changed, Column("id", Integer, primary_key=True))
    found = str(differences(database, changed))
    assert "colour" in found
    assert "folders" in found
    if not database.is_sqlite:  # its integers are of one size
        assert "modify_type" in found


def test_a_ledger_without_tables_says_what_to_do(empty_database: Database) -> None:
    ledger = empty_database.ledger()
    with pytest.raises(LedgerOutdated, match="run: flask ledger migrate"):
        ledger.check()
    with pytest.raises(LedgerOutdated):
        ledger.instance_id()


def test_a_ledger_of_a_newer_version_is_left_alone(database: Database) -> None:
    with database.by_hand.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'f00d'")
    with pytest.raises(LedgerTooNew, match="newer version"):
        database.ledger().check()
    with pytest.raises(LedgerTooNew):
        migrate(server_engine(database))


def test_a_database_out_of_reach_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for url in (
        f"sqlite:///{tmp_path}/file/ledger.db",
        f"sqlite:///{tmp_path}",
        "postgresql+psycopg://app@127.0.0.1:1/ledger",
    ):
        engine = create_engine(url)
        with pytest.raises(LedgerBusy):
            migrate(engine)
        engine.dispose()
