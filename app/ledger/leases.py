"""Leases: who may write a part, append, create or finalize, and until when.

A lease lasts 6 s and is renewed every 2 s, all of a process in one statement,
whether bytes flow or not. Its time is the database's clock (PostgreSQL) or the
time since boot (SQLite), never the wall clock. A writer stops before its own
monotonic deadline, and a commit demands the lease's generation and that it has
not run out, so a holder that was overtaken can never record anything.

Whoever claims a lease of a dead process of this node gets it at once
(``liveness``); those of other nodes run out.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection
from typing import TypeVar

import structlog
from sqlalchemy import (
    BigInteger,
    Connection,
    Insert,
    bindparam,
    cast,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from app.domain.clock import boot_seconds
from app.errors import LedgerBusy
from app.ledger.dialects import insert
from app.ledger.lease import LEASE_MS as LEASE_MS
from app.ledger.lease import Contention as Contention
from app.ledger.lease import Lease as Lease
from app.ledger.liveness import ProcessLife, boot_clock_ms, boot_id
from app.ledger.models import leases as _rows
from app.ledger.prepared import Prepared
from app.ledger.transactions import Transactions

T = TypeVar("T")

log = structlog.get_logger(__name__)

RENEW_SECONDS = 2.0

#: How often a holder looks whether somebody waits for it.
WATCH_SECONDS = 1.0

#: Generations renewed in one statement; below SQLite's bound of 32,766 parameters.
_RENEW_AT_ONCE = 10_000

#: Keys of leases that are not a part's.
APPEND, CREATE, FINALIZE = "append", "create", "finalize"


class Leases:
    """The leases of this process, and the statements on the lease table.

    Methods that take a connection are part of the caller's transaction.
    """

    def __init__(self, transactions: Transactions, life: ProcessLife, dialect: str) -> None:
        self._transactions = transactions
        self._life = life
        self.on_sqlite = dialect == "sqlite"
        self._boot_id = boot_id() if self.on_sqlite else ""
        self._held: dict[int, Lease] = {}
        self._unreleased: set[int] = set()  # generations
        self._starting = threading.Lock()
        self._keeper: threading.Thread | None = None
        # Built once: a statement made anew costs six times as much as running it.
        self._claim = Prepared(self._claim_statement(dialect))
        self._end = Prepared(delete(_rows).where(*self._ours()))
        self._held_by = select(_rows.c.upload_id, _rows.c.owner).where(
            _rows.c.key == bindparam("held_key"), self.live()
        )
        self._is_valid = select(_rows.c.generation).where(*self._ours())
        self._prolong = update(_rows).where(*self._ours()).values(until_ms=self._now() + LEASE_MS)

    # -- inside a transaction ------------------------------------------------

    def claim(self, connection: Connection, upload_id: str, key: str) -> int | None:
        """Try to take a lease; return its new generation, None while a live holder has it.

        What a former holder has committed is sure to be seen only after this:
        on PostgreSQL it may end its lease between two statements of the caller.
        """
        generation = secrets.randbits(62)
        names = {"upload_id": upload_id, "key": key, "owner": self._life.owner}
        values = {**names, "generation": generation}
        claimed = self._claim.first(connection, values)
        if claimed is None:
            owner = self.holder(connection, upload_id, key)
            if owner is None or not self._life.is_dead(owner):
                return None
            connection.execute(delete(_rows).where(_rows.c.owner == owner))
            claimed = self._claim.first(connection, values)
        return None if claimed is None else generation

    def holder(self, connection: Connection, upload_id: str, key: str) -> str | None:
        """Return the process that holds a lease, dead or alive; None if nobody does."""
        return connection.execute(
            select(_rows.c.owner).where(_rows.c.upload_id == upload_id, _rows.c.key == key)
        ).scalar_one_or_none()

    def held(self, connection: Connection, key: str) -> set[str]:
        """Return the uploads whose lease ``key`` is held by a process not known to be dead."""
        rows = connection.execute(self._held_by, {"held_key": key}).all()
        return {row.upload_id for row in rows if not self._life.is_dead(row.owner)}

    def give_back(self, connection: Connection, generation: int) -> None:
        """End a lease that was claimed in this transaction and is not wanted after all."""
        connection.execute(delete(_rows).where(_rows.c.generation == generation))

    def end_all(self, connection: Connection, upload_id: str) -> None:
        """End every lease of an upload, whoever holds it: none can commit any more."""
        connection.execute(delete(_rows).where(_rows.c.upload_id == upload_id))

    def end(self, connection: Connection, lease: Lease) -> bool:
        """Give a lease back as part of a commit; False if it is not ours any more."""
        return bool(self._end.count(connection, _names(lease)))

    def is_valid(self, connection: Connection, lease: Lease) -> bool:
        """Tell whether a lease is still ours and has not run out."""
        return connection.execute(self._is_valid, _names(lease)).first() is not None

    def prolong(self, connection: Connection, lease: Lease) -> bool:
        """Renew a lease as part of a commit that goes on under it; False if it is not ours.

        Until the commit nobody can take it over: who tries waits for the row.
        """
        return bool(connection.execute(self._prolong, _names(lease)).rowcount)

    def live(self) -> ColumnElement[bool]:
        """Return the condition that a row of the lease table has not run out."""
        return (_rows.c.until_ms > self._now()) & (_rows.c.boot_id == self._boot_id)

    # -- transactions of their own ------------------------------------------

    def hold(self, upload_id: str, key: str, generation: int, claimed_at: float) -> Lease:
        """Start renewing a claimed lease; ``claimed_at``: monotonic, before the transaction."""
        lease = Lease(upload_id, key, generation, claimed_at)
        self._held[generation] = lease
        self._have_kept()
        return lease

    def drop(self, lease: Lease) -> None:
        """Stop renewing a lease that ``end`` has given back."""
        self._held.pop(lease.generation, None)

    def release(self, lease: Lease) -> None:
        """Give a lease back that was not ended by a commit; harmless if it was. Never raises.

        While the ledger is busy that is left to the thread that renews.
        """
        if self._held.pop(lease.generation, None) is None:
            return
        try:
            self._give_all_back([lease.generation], optional=True)
        except LedgerBusy:
            self._unreleased.add(lease.generation)
            self._have_kept()

    def _give_all_back(self, generations: Collection[int], *, optional: bool = False) -> None:
        ended = delete(_rows).where(_rows.c.generation.in_(generations))
        self._transactions.write(lambda tx: tx.execute(ended), durable=False, optional=optional)

    def ask(self, upload_id: str, key: str | None, contention: Contention) -> None:
        """Tell the holder of a lease (``key`` None: of every lease of the upload) to let go."""
        for lease in list(self._held.values()):
            if lease.upload_id == upload_id and key in (None, lease.key):
                lease.contend(contention)
        chosen = (_rows.c.upload_id == upload_id) & (_rows.c.contended < contention)
        if key is not None:
            chosen &= _rows.c.key == key
        asked = update(_rows).where(chosen).values(contended=contention)
        self._transactions.write(lambda connection: connection.execute(asked), durable=False)

    def take_from_dead(self, owner: str | None = None) -> bool:
        """Free the leases of dead processes of this node (one, or all); True if any was dead."""
        owners = self._life.dead() if owner is None else [owner]
        dead = [name for name in owners if self._life.is_dead(name)]
        if dead:
            self._transactions.write(
                lambda connection: connection.execute(delete(_rows).where(_rows.c.owner.in_(dead))),
                durable=False,
            )
            for name in dead:
                self._life.bury(name)
        return bool(dead)

    # -- keeping ------------------------------------------------------------

    def _have_kept(self) -> None:
        """Start the thread that renews, unless it runs."""
        with self._starting:
            if self._keeper is None or not self._keeper.is_alive():
                self._keeper = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._keeper.start()

    def _keep(self) -> None:
        """Renew and watch in a thread of its own, which ends when there is nothing to do."""
        renewed_at = 0.0
        while True:
            time.sleep(WATCH_SECONDS)
            with self._starting:  # ``_have_kept`` either was before or starts another thread
                if not self._held and not self._unreleased:
                    self._keeper = None
                    return
            started_at = boot_seconds()
            renewing = started_at - renewed_at >= RENEW_SECONDS - WATCH_SECONDS / 2
            try:
                for lease_group in _groups(list(self._held.values())):
                    self._visit(lease_group, renewing=renewing)
                renewed_at = started_at if renewing else renewed_at
                for generations in _groups(list(self._unreleased)):
                    self._give_all_back(generations)
                    self._unreleased.difference_update(generations)
            except LedgerBusy:
                pass  # the deadlines stop the holders if this goes on
            except Exception:
                log.exception("leases.bug")  # every writer needs this loop: it goes on

    def _visit(self, leases: list[Lease], *, renewing: bool) -> None:
        """Renew leases, or only look whether somebody waits for them."""
        at = boot_seconds()
        seen = (_rows.c.generation, _rows.c.contended)
        ours = _rows.c.generation.in_([lease.generation for lease in leases])
        if renewing:
            renew = update(_rows).where(ours, self.live()).values(until_ms=self._now() + LEASE_MS)
            renewed = renew.returning(*seen)
            rows = self._transactions.write(lambda tx: tx.execute(renewed).all(), durable=False)
        else:
            found = select(*seen).where(ours)
            rows = self._transactions.read(lambda tx: tx.execute(found).all())
        for generation, contended in rows:
            if lease := self._held.get(generation):
                if renewing:
                    lease.renewed(at)
                lease.contend(Contention(contended))

    def _claim_statement(self, dialect: str) -> Insert:
        """INSERT a lease, or take over one that has run out; else it returns no row."""
        claim = insert(dialect, _rows).values(
            upload_id=bindparam("upload_id"),
            key=bindparam("key"),
            owner=bindparam("owner"),
            generation=bindparam("generation"),
            boot_id=self._boot_id,
            until_ms=self._now() + LEASE_MS,
            contended=Contention.NONE,
        )
        replaced = ("owner", "generation", "boot_id", "until_ms", "contended")
        return claim.on_conflict_do_update(
            index_elements=["upload_id", "key"],
            set_={name: claim.excluded[name] for name in replaced},
            where=~self.live(),
        ).returning(_rows.c.generation)

    def _ours(self) -> tuple[ColumnElement[bool], ...]:
        """The conditions for a lease (``_names``) to be held by us now."""
        return (
            _rows.c.upload_id == bindparam("lease_upload_id"),
            _rows.c.key == bindparam("lease_key"),
            _rows.c.generation == bindparam("lease_generation"),
            self.live(),
        )

    def _now(self) -> ColumnElement[int]:
        """The lease clock in milliseconds, read anew whenever a statement is executed."""
        if self.on_sqlite:
            return bindparam("lease_clock", callable_=boot_clock_ms, type_=BigInteger)
        return cast(func.extract("epoch", func.clock_timestamp()) * 1000, BigInteger)


def _names(lease: Lease) -> dict[str, object]:
    return {
        "lease_upload_id": lease.upload_id,
        "lease_key": lease.key,
        "lease_generation": lease.generation,
    }


def _groups(items: list[T]) -> list[list[T]]:
    return [items[at : at + _RENEW_AT_ONCE] for at in range(0, len(items), _RENEW_AT_ONCE)]
