"""The ledger's tables. Migrations create them; nothing else does.

Times are milliseconds since 1970 UTC (``_ms``), sizes are bytes. Leases alone
have a clock of their own, see ``leases.py``.
"""

from __future__ import annotations

from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can change it on any database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base)

#: SQLite counts up by itself only in an INTEGER primary key.
_AutoId = BigInteger().with_variant(Integer, "sqlite")


def _of_upload(**options: Any) -> Mapped[str]:
    return mapped_column(String(36), ForeignKey("uploads.id", ondelete="CASCADE"), **options)


class Instance(Base):
    """One row: the random id of this ledger, which names its staging directories."""

    __tablename__ = "instance"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)


class Upload(Base):
    """A file on its way, or what became of it."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index("ix_uploads_state_expires", "state", "expires_at_ms"),
        Index("ix_uploads_state_due", "state", "due_at_ms"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)  # uuid4
    protocol: Mapped[str] = mapped_column(String(16))
    owner: Mapped[str] = mapped_column(String(255), index=True)
    filename: Mapped[str] = mapped_column(Text)
    directory: Mapped[str] = mapped_column(Text)
    length: Mapped[int | None] = mapped_column(BigInteger)  # None while deferred
    part_size: Mapped[int | None] = mapped_column(BigInteger)
    part_count: Mapped[int | None] = mapped_column(Integer)
    offset: Mapped[int] = mapped_column(BigInteger, default=0)  # durable prefix of appends
    received: Mapped[int] = mapped_column(Integer, default=0)  # parts
    state: Mapped[str] = mapped_column(String(16))
    content_type: Mapped[str | None] = mapped_column(Text)  # as the client told it, checked
    edition: Mapped[int] = mapped_column(Integer, default=0)  # ledger.editions
    details: Mapped[dict[str, Any]] = mapped_column("metadata", JSON)
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON)  # answered as they were sent
    concat: Mapped[str | None] = mapped_column(String(8))  # records.PARTIAL or FINAL
    checksum_sha256: Mapped[str | None] = mapped_column(String(64))  # promised, hex
    webhook_url: Mapped[str | None] = mapped_column(Text)
    storage_backend: Mapped[str] = mapped_column(String(16))
    root_id: Mapped[str] = mapped_column(String(64))  # whose disk the bytes are on
    staging_key: Mapped[str | None] = mapped_column(Text)  # None: not made yet, or discarded
    target_key: Mapped[str] = mapped_column(Text)
    final_key: Mapped[str | None] = mapped_column(Text)  # set when published
    progress_bytes: Mapped[int] = mapped_column(BigInteger, default=0)  # of finalizing
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, default=0)  # of finalizing, since queued
    due_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # next try to finalize
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    progress_at_ms: Mapped[int] = mapped_column(BigInteger)  # last recorded bytes
    completed_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    ended_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # cancelled, expired or deleted


class Concatenation(Base):
    """A place in a final upload and the partial one whose bytes belong there.

    No foreign key to the partial: a final tells what it was made of when they are gone.
    """

    __tablename__ = "concatenations"

    final_id: Mapped[str] = _of_upload(primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    partial_id: Mapped[str] = mapped_column(String(36), index=True)


class BitmapWord(Base):
    """32 parts a row: the truth about what has been received."""

    __tablename__ = "bitmap"

    upload_id: Mapped[str] = _of_upload(primary_key=True)
    word: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    bits: Mapped[int] = mapped_column(BigInteger)


class Receipt(Base):
    """What is known of a received part; written with its bit."""

    __tablename__ = "receipts"

    upload_id: Mapped[str] = _of_upload(primary_key=True)
    part: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    storage_receipt: Mapped[str | None] = mapped_column(Text)  # opaque, for publishing
    received_at_ms: Mapped[int] = mapped_column(BigInteger)
    edition: Mapped[int] = mapped_column(Integer, default=0)  # of the file, that it is of


class Alias(Base):
    """A client's own name for an upload: Resumable identifiers, pipe keys."""

    __tablename__ = "aliases"

    namespace: Mapped[str] = mapped_column(String(16), primary_key=True)
    owner: Mapped[str] = mapped_column(String(255), primary_key=True)
    client_key: Mapped[str] = mapped_column(String(1024), primary_key=True)
    upload_id: Mapped[str] = _of_upload(index=True)


class LeaseRow(Base):
    """Who may write what, until when. No foreign key: some leases guard no upload."""

    __tablename__ = "leases"

    upload_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)  # process
    generation: Mapped[int] = mapped_column(BigInteger)
    boot_id: Mapped[str] = mapped_column(String(64))
    until_ms: Mapped[int] = mapped_column(BigInteger)  # on the lease clock
    contended: Mapped[int] = mapped_column(Integer, default=0)  # leases.Contention


class Event(Base):
    """Something that happened to an upload; written with the change it reports."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(_AutoId, primary_key=True, autoincrement=True)
    upload_id: Mapped[str] = _of_upload(index=True)
    kind: Mapped[str] = mapped_column(String(32))
    message: Mapped[str | None] = mapped_column(Text)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Webhook(Base):
    """A subscription to events of all uploads."""

    __tablename__ = "webhooks"

    id: Mapped[int] = mapped_column(_AutoId, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(255))
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str | None] = mapped_column(Text)
    kinds: Mapped[list[str]] = mapped_column(JSON)
    enabled: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class Delivery(Base):
    """One POST to one address, tried until it succeeds or is given up."""

    __tablename__ = "deliveries"
    __table_args__ = (Index("ix_deliveries_state_due", "state", "due_at_ms"),)

    id: Mapped[int] = mapped_column(_AutoId, primary_key=True, autoincrement=True)
    upload_id: Mapped[str] = _of_upload(index=True)
    event_id: Mapped[int] = mapped_column(
        _AutoId, ForeignKey("events.id", ondelete="CASCADE"), index=True
    )
    webhook_id: Mapped[int | None] = mapped_column(
        _AutoId, ForeignKey("webhooks.id", ondelete="SET NULL"), index=True
    )
    url: Mapped[str] = mapped_column(Text)
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))  # pending, delivered, failed
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    due_at_ms: Mapped[int] = mapped_column(BigInteger)
    status_code: Mapped[int | None] = mapped_column(Integer)
    response_body: Mapped[str | None] = mapped_column(Text)  # first 4 KiB
    error: Mapped[str | None] = mapped_column(Text)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)


class ApiKey(Base):
    """A key for programs, kept as its SHA-256: the key itself cannot be read back."""

    __tablename__ = "api_keys"
    __table_args__ = (UniqueConstraint("name"), UniqueConstraint("key_hash"))

    id: Mapped[int] = mapped_column(_AutoId, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(255))
    key_hash: Mapped[str] = mapped_column(String(64))
    scopes: Mapped[str] = mapped_column(Text)  # space-separated
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    revoked_at_ms: Mapped[int | None] = mapped_column(BigInteger)


def _table(model: type[Base]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


# The hot path issues Core statements on the tables, not ORM loads.
instance = _table(Instance)
uploads = _table(Upload)
concatenations = _table(Concatenation)
bitmap = _table(BitmapWord)
receipts = _table(Receipt)
aliases = _table(Alias)
leases = _table(LeaseRow)
events = _table(Event)
webhooks = _table(Webhook)
deliveries = _table(Delivery)
api_keys = _table(ApiKey)
