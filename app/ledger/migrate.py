"""Migrations: run once, under a lock, before workers are forked or from the command line."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

DIRECTORY = Path(__file__).resolve().parents[2] / "migrations"

#: Key of PostgreSQL's advisory lock: "longhaul" in ASCII.
_ADVISORY_LOCK = 0x6C6F6E676861756C


@cache
def head_revision() -> str | None:
    """Return the revision this version of the code needs."""
    return ScriptDirectory(str(DIRECTORY)).get_current_head()


def migrate(engine: Engine) -> None:
    """Bring the tables to the newest revision; waits while another process does so."""
    config = Config()
    config.set_main_option("script_location", str(DIRECTORY))
    with _alone(engine):
        config.attributes["engine"] = engine
        command.upgrade(config, "head")


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
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
