"""Opening the ledger: its revision is checked, never changed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine as Engine  # for those who may not import SQLAlchemy
from sqlalchemy import func, select

from app.domain.states import State
from app.ledger.appends import AppendLedger
from app.ledger.chunks import ChunkLedger
from app.ledger.concatenations import ConcatenationLedger
from app.ledger.editions import Editions
from app.ledger.finalizing import FinalizeQueue
from app.ledger.keys import ApiKeys
from app.ledger.leases import Leases
from app.ledger.liveness import ProcessLife
from app.ledger.migrate import LedgerOutdated as LedgerOutdated  # for those who open a ledger
from app.ledger.migrate import check_revision
from app.ledger.models import instance, uploads
from app.ledger.outbox import Outbox
from app.ledger.parts import PartLedger
from app.ledger.sweeping import SweepLedger
from app.ledger.transactions import Transactions, transactions_for
from app.ledger.uploads import UploadLedger


@dataclass(frozen=True, slots=True)
class Ledger:
    """All of the ledger, each part with its own transactions."""

    transactions: Transactions
    leases: Leases
    uploads: UploadLedger
    parts: PartLedger
    appends: AppendLedger
    chunks: ChunkLedger
    editions: Editions
    concatenations: ConcatenationLedger
    finalizing: FinalizeQueue
    sweeping: SweepLedger
    outbox: Outbox
    keys: ApiKeys

    def instance_id(self) -> str:
        """Return the random id of this ledger. Raises as ``check`` does."""
        self.check()
        return self.transactions.read(
            lambda connection: str(connection.execute(select(instance.c.id)).scalar_one())
        )

    def check(self) -> None:
        """Prove that the database answers and has the right tables.

        Raises LedgerBusy, LedgerOutdated or LedgerTooNew.
        """
        self.transactions.read(check_revision)

    def count_by_state(self) -> dict[State, int]:
        """Return how many uploads are in each state (for metrics)."""
        counted = select(uploads.c.state, func.count()).group_by(uploads.c.state)
        rows = self.transactions.read(lambda connection: connection.execute(counted).all())
        return {State(state): count for state, count in rows}


def open_ledger(
    engine: Engine, run_directory: Path, *, strict: bool, busy_timeout_seconds: float
) -> Ledger:
    """Put the ledger on ``engine``; no I/O happens before its first use."""
    transactions = transactions_for(
        engine, strict=strict, busy_timeout_seconds=busy_timeout_seconds
    )
    leases = Leases(transactions, ProcessLife(run_directory), engine.dialect.name)
    finalizing = FinalizeQueue(transactions, leases)
    editions = Editions(transactions, leases)
    return Ledger(
        transactions=transactions,
        leases=leases,
        uploads=UploadLedger(transactions, leases, editions),
        parts=PartLedger(transactions, leases, editions, engine.dialect.name),
        appends=AppendLedger(transactions, leases, finalizing),
        chunks=ChunkLedger(transactions, leases, editions, engine.dialect.name),
        editions=editions,
        concatenations=ConcatenationLedger(transactions),
        finalizing=finalizing,
        sweeping=SweepLedger(transactions, leases),
        outbox=Outbox(transactions, leases),
        keys=ApiKeys(transactions),
    )
