"""Alembic's entry: applies migrations on the engine that the caller hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine

from app.ledger.models import Base


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


run_migrations_online(context.config.attributes["engine"])
