"""Migrations: run once, under a lock, before workers are forked or from the command line."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from flask_migrate import Migrate
from sqlalchemy import Connection, Engine, exc, text

from app.errors import LedgerBusy, LonghaulError
from app.ledger.models import db
from app.ledger.postgresql import wait_for_locks

log = structlog.get_logger(__name__)

DIRECTORY = Path(__file__).resolve().parents[2] / "migrations"

#: Key of PostgreSQL's advisory lock: "longhaul" in ASCII.
_ADVISORY_LOCK = 0x6C6F6E676861756C


class LedgerOutdated(LonghaulError):
    """The tables are not those this version needs."""

    code = "ledger_outdated"

    def __init__(
        self, message: str = "The database is not migrated; run: flask ledger migrate"
    ) -> None:
        super().__init__(message)


class LedgerTooNew(LedgerOutdated):
    """The tables are those of a version that came after this one."""

    code = "ledger_too_new"

    def __init__(self) -> None:
        super().__init__("The database belongs to a newer version of Longhaul; install that one")


def install(app: Flask) -> None:
    """Put Flask-Migrate's ``flask db …`` on an application: developers make revisions with it."""
    Migrate(app, db, directory=str(DIRECTORY))


def migrate(engine: Engine) -> None:
    """Bring the tables to the newest revision; waits while another process does so.

    Raises LedgerTooNew, or LedgerBusy where the database cannot be opened; the
    log says why.
    """
    config = Config()
    config.set_main_option("script_location", str(DIRECTORY))
    config.attributes["engine"] = engine
    try:
        with _alone(engine):
            with engine.connect() as connection:
                _known_revision(connection)
            command.upgrade(config, "head")
    except (OSError, exc.OperationalError, exc.InterfaceError) as error:
        log.error("ledger.unavailable", error=str(error.__cause__ or error))
        raise LedgerBusy from error


def check_revision(connection: Connection) -> None:
    """Raise LedgerOutdated or LedgerTooNew unless the tables are those of this version."""
    if _known_revision(connection) != _revisions()[0]:
        raise LedgerOutdated


def _known_revision(connection: Connection) -> str | None:
    """Return the revision of the tables, None where there are none. Raises LedgerTooNew."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is not None and revision not in _revisions():
        raise LedgerTooNew
    return revision


@cache
def _revisions() -> Sequence[str]:
    """Return the revisions this version knows, the newest first."""
    scripts = ScriptDirectory(str(DIRECTORY)).walk_revisions()
    return [script.revision for script in scripts]


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        database = engine.url.database
        assert database is not None
        path = Path(database)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{path}.migrating", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:
        wait_for_locks(connection)
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
