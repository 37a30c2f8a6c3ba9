"""API keys, kept as hashes: a stolen ledger opens no door."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection, exc, select, update

from app.errors import InvalidField
from app.ledger.models import api_keys
from app.ledger.records import ApiKeyRecord
from app.ledger.transactions import Transactions


def hash_key(key: str) -> str:
    """Return the SHA-256 of a key in hex. Keys are random and long, so no salt is needed."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class ApiKeys:
    """Keys created beside the one in the settings."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    def find(self, key: str) -> ApiKeyRecord | None:
        """Return the record of a valid key, None if it is unknown or revoked.

        The look-up is by hash, so its timing tells nothing about stored keys.
        """
        chosen = select(api_keys).where(
            api_keys.c.key_hash == hash_key(key), api_keys.c.revoked_at_ms.is_(None)
        )
        row = self._transactions.read(lambda connection: connection.execute(chosen).first())
        return None if row is None else _record(row)

    def create(self, name: str, key: str, scopes: frozenset[str], now_ms: int) -> None:
        """Store a new key under a name. Raises InvalidField if the name is taken."""

        def work(connection: Connection) -> None:
            connection.execute(
                api_keys.insert().values(
                    name=name,
                    key_hash=hash_key(key),
                    scopes=" ".join(sorted(scopes)),
                    created_at_ms=now_ms,
                )
            )

        try:
            self._transactions.write(work)
        except exc.IntegrityError as error:
            raise InvalidField("name", f"{name!r} is taken; choose another") from error

    def list(self) -> Sequence[ApiKeyRecord]:
        """Return all keys, revoked ones too, oldest first."""
        rows = self._transactions.read(
            lambda connection: connection.execute(select(api_keys).order_by(api_keys.c.id)).all()
        )
        return [_record(row) for row in rows]

    def revoke(self, name: str, now_ms: int) -> bool:
        """Revoke a key at once; False if there is no valid key of that name."""
        revoked = self._transactions.write(
            lambda connection: (
                connection.execute(
                    update(api_keys)
                    .where(api_keys.c.name == name, api_keys.c.revoked_at_ms.is_(None))
                    .values(revoked_at_ms=now_ms)
                ).rowcount
            )
        )
        return bool(revoked)


def _record(row: object) -> ApiKeyRecord:
    values = dict(row._mapping)  # type: ignore[attr-defined]  # sqlalchemy.Row
    del values["key_hash"]
    values["scopes"] = frozenset(values["scopes"].split())
    return ApiKeyRecord(**values)
