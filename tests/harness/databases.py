"""Ledgers' databases: real ones, each a test's own, and opened by several processes at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Table, create_engine, event, select, text, update

from app.ledger.database import Ledger, open_ledger
from app.ledger.models import leases
from app.ledger.transactions import GroupedTransactions
from tests.harness.wire import wait_until

#: Long enough for a slow disk, short enough for a test that waits for it.
BUSY_TIMEOUT_SECONDS = 5.0


@dataclass
class Database:
    """A database under a test, migrated or not, and what this process has open of it.

    ``run_directory`` is where its processes prove that they are alive.
    """

    url: str
    run_directory: Path
    _engines: list[Engine] = field(default_factory=list)
    _ledgers: list[tuple[Ledger, Engine]] = field(default_factory=list)

    @property
    def is_sqlite(self) -> bool:
        """True on SQLite, whose write transactions take turns."""
        return self.url.startswith("sqlite")

    def engine(self) -> Engine:
        """Open it anew, as another process would."""
        self._engines.append(create_engine(self.url))
        return self._engines[-1]

    def ledger(
        self, *, strict: bool = False, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS
    ) -> Ledger:
        """Open the ledger as another process would: with a life and leases of its own."""
        engine = self.engine()
        ledger = open_ledger(
            engine,
            self.run_directory,
            strict=strict,
            busy_timeout_seconds=busy_timeout_seconds,
        )
        self._ledgers.append((ledger, engine))
        return ledger

    @cached_property
    def by_hand(self) -> Engine:
        """For looking at rows and meddling with them past the ledger."""
        return self.engine()

    def rows(self, table: Table) -> Sequence[Any]:
        """Return all rows of a table by its primary key."""
        with self.by_hand.connect() as connection:
            return connection.execute(select(table).order_by(*table.primary_key)).all()

    def change(self, table: Table, **values: object) -> None:
        """Set columns in all rows of a table."""
        with self.by_hand.begin() as connection:
            connection.execute(update(table).values(**values))

    def before(self, ledger: Ledger, statement: str, deed: Callable[[], object]) -> None:
        """Do something once, when ``ledger`` is about to run a statement that begins so.

        For what only happens between two statements of a transaction.
        """
        (engine,) = (engine for opened, engine in self._ledgers if opened is ledger)

        still_to_do = [deed]

        @event.listens_for(engine, "before_cursor_execute")
        def meddle(_connection: object, _cursor: object, begun: str, *_: object) -> None:
            if begun.startswith(statement) and still_to_do:
                still_to_do.pop()()

    def has_waiting_locks(self) -> bool:
        """Tell whether a transaction waits for another one (PostgreSQL)."""
        waiting = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
        with self.by_hand.connect() as connection:
            return bool(connection.execute(waiting).scalar_one())

    def age_leases(self, seconds: float) -> None:
        """Let all leases be older than they are: the clocks they go by cannot be moved."""
        self.change(leases, until_ms=leases.c.until_ms - int(seconds * 1000))

    def close(self) -> None:
        """Let go of everything that is open in this process."""
        for ledger, _ in self._ledgers:
            forget_leases(ledger)
            die(ledger)
            end_threads(ledger)
        for engine in self._engines:
            # A connection that is given back after ``dispose`` would stay open: one that
            # leases are being renewed on, for example.
            wait_until(lambda pool=engine.pool: not pool.checkedout(), "they are given back")
            engine.dispose()


def forget_leases(ledger: Ledger) -> None:
    """Renew none of a ledger's leases any more, as a process that hangs."""
    for lease in list(ledger.leases._held.values()):
        ledger.leases.drop(lease)


def die(ledger: Ledger) -> None:
    """Let go of a ledger's proof of life, as the system does when a process ends."""
    life = ledger.leases._life
    if life._descriptor >= 0:
        os.close(life._descriptor)
    life._descriptor, life._pid = -1, 0


def end_threads(ledger: Ledger) -> None:
    """End a ledger's native threads, if it has some, and give their connection back."""
    transactions = ledger.transactions
    if isinstance(transactions, GroupedTransactions):
        transactions._writer.kill()
        transactions._readers.kill()
        with transactions._turn:
            transactions._disconnect()
