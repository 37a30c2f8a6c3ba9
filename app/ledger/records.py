"""Rows of the ledger as plain, frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.parts import Geometry
from app.domain.states import State

#: ``concat`` of an upload that others are made of, and of one that is made of others.
PARTIAL, FINAL = "partial", "final"


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What is known of an upload when it is created. Times in ms since 1970, sizes in bytes.

    ``part_size`` and ``part_count`` are None where bytes are appended front to
    back. ``headers`` are the protocol's own, answered as they were sent.
    """

    id: str
    protocol: str
    owner: str
    filename: str
    directory: str
    length: int | None
    part_size: int | None
    part_count: int | None
    content_type: str | None
    details: Mapping[str, Any]
    checksum_sha256: str | None
    webhook_url: str | None
    storage_backend: str
    root_id: str
    target_key: str
    created_at_ms: int
    expires_at_ms: int
    headers: Mapping[str, str] | None = None
    concat: str | None = None


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """A row of ``uploads``; see ``models.Upload`` for the columns."""

    id: str
    protocol: str
    owner: str
    filename: str
    directory: str
    length: int | None
    part_size: int | None
    part_count: int | None
    offset: int
    received: int
    state: State
    content_type: str | None
    edition: int
    details: Mapping[str, Any]
    headers: Mapping[str, str] | None
    concat: str | None
    checksum_sha256: str | None
    webhook_url: str | None
    storage_backend: str
    root_id: str
    staging_key: str | None
    target_key: str
    final_key: str | None
    progress_bytes: int
    error: str | None
    attempts: int
    due_at_ms: int | None
    created_at_ms: int
    progress_at_ms: int
    completed_at_ms: int | None
    expires_at_ms: int
    ended_at_ms: int | None

    @classmethod
    def from_row(cls, row: Any) -> UploadRecord:
        """Build a record of a row selected with the columns of ``uploads``."""
        return cls.from_columns(row._mapping)

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> UploadRecord:
        """Build a record of the columns of ``uploads``, name → value; others may be among them."""
        values = dict(columns)
        values["details"] = values.pop("metadata")
        values["state"] = State(values["state"])
        return cls(**{name: values[name] for name in cls.__slots__})

    @property
    def geometry(self) -> Geometry:
        """How the file is cut; only for uploads of known length that come in parts."""
        assert self.length is not None
        assert self.part_size is not None
        assert self.part_count is not None
        return Geometry(self.length, self.part_size, self.part_count)

    @property
    def is_full(self) -> bool:
        """True when an appended upload has all its bytes; of an unknown length it never has."""
        return self.offset == self.length

    @property
    def received_percent(self) -> float:
        """What has arrived of all parts, or of all bytes where they are appended; 0-100.

        With two decimals; 100 for an empty file.
        """
        in_parts = self.part_count is not None
        done, total = (self.received, self.part_count) if in_parts else (self.offset, self.length)
        return round(100 * done / total, 2) if total else 100.0

    @property
    def finalized_percent(self) -> int:
        """Bytes verified or moved of all bytes, 0-100; 100 only when complete."""
        if self.state is State.COMPLETE:
            return 100
        if self.state is not State.FINALIZING or not self.length:
            return 0
        return min(99, 100 * self.progress_bytes // self.length)

    def has_expired(self, now_ms: int) -> bool:
        """Tell whether an unfinished upload's time is over, swept already or not."""
        return self.state in (State.OPEN, State.FAILED) and self.expires_at_ms <= now_ms


@dataclass(frozen=True, slots=True)
class AliasKey:
    """A client's own name for an upload: what kind of name, whose, and the name itself."""

    namespace: str
    owner: str
    client_key: str


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A received part: bytes, SHA-256 in hex where one was computed, the storage's own receipt.

    ``edition`` of the file that it is of (``ledger.editions``); whoever records it says.
    """

    part: int
    size: int
    sha256: str | None
    storage_receipt: str | None
    received_at_ms: int
    edition: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A webhook delivery that is due; ``secret`` of the subscription, if it has one."""

    id: int
    upload_id: str
    url: str
    payload: str
    secret: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """An API key without the key; ``scopes`` as in ``domain.scopes``."""

    id: int
    name: str
    scopes: frozenset[str]
    created_at_ms: int
    revoked_at_ms: int | None
