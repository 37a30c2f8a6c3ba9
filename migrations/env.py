"""Alembic's entry, for `flask ledger migrate` and for developers' `flask db …`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine

from app.ledger.models import Base, db


def run_migrations_online(engine: Engine) -> None:
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            # SQLite cannot alter constraints in place: tables are copied.
            render_as_batch=engine.dialect.name == "sqlite",
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        if connection.in_transaction():
            connection.commit()


# The server hands an engine over; Flask-Migrate's commands have the application's.
given = context.config.attributes.get("engine")
run_migrations_online(given if given is not None else db.engine)
