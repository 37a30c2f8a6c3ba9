"""What services return: frozen values that adapters render. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.domain.parts import Geometry
from app.domain.states import State
from app.ledger.records import FINAL, ReceiptRecord, UploadRecord


@dataclass(frozen=True, slots=True)
class PartView:
    """A part of an upload; the last two are None while it is pending."""

    index: int
    sha256: str | None
    received_at_ms: int | None

    @property
    def is_received(self) -> bool:
        """True when the part is stored and recorded."""
        return self.received_at_ms is not None


@dataclass(frozen=True, slots=True)
class UploadView:
    """An upload as its owner may see it. Times are milliseconds since 1970 UTC.

    ``final_path`` is where the file is, None until it is complete. ``parts``
    is None unless they were asked for.
    """

    id: str
    owner: str
    protocol: str
    filename: str
    length: int
    part_size: int
    part_count: int
    received: int
    state: State
    error: str | None
    received_percent: float
    finalized_percent: int
    storage_backend: str
    final_path: str | None
    created_at_ms: int
    expires_at_ms: int
    completed_at_ms: int | None
    parts: Sequence[PartView] | None = None


@dataclass(frozen=True, slots=True)
class PartStored:
    """The receipt of a part, and how far its upload is; ``again``: it was stored before."""

    upload_id: str
    index: int
    sha256: str
    received: int
    part_count: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class PendingParts:
    """The parts of an open upload that are still to be sent."""

    upload_id: str
    geometry: Geometry
    indexes: Sequence[int]
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class AppendedView:
    """An appended upload as its owner may see it. Times are milliseconds since 1970 UTC.

    ``offset`` bytes are durable; None for one that is made of others while it
    is being made. ``length`` is None while it is deferred, ``expires_at_ms``
    once nothing expires any more. ``headers`` as the client sent them.
    """

    id: str
    state: State
    offset: int | None
    length: int | None
    expires_at_ms: int | None
    headers: Mapping[str, str]


def appended_view(upload: UploadRecord) -> AppendedView:
    """Build a view of an appended upload's record."""
    offset: int | None = upload.offset
    if upload.concat == FINAL:
        offset = upload.length if upload.state is State.COMPLETE else None
    return AppendedView(
        id=upload.id,
        state=upload.state,
        offset=offset,
        length=upload.length,
        expires_at_ms=upload.expires_at_ms if upload.state is State.OPEN else None,
        headers=upload.headers or {},
    )


def upload_view(
    upload: UploadRecord,
    final_path: str | None,
    receipts: Sequence[ReceiptRecord] | None = None,
) -> UploadView:
    """Build a view of a record; with ``receipts``, with its parts."""
    geometry = upload.geometry
    return UploadView(
        id=upload.id,
        owner=upload.owner,
        protocol=upload.protocol,
        filename=upload.filename,
        length=geometry.length,
        part_size=geometry.part_size,
        part_count=geometry.part_count,
        received=upload.received,
        state=upload.state,
        error=upload.error,
        received_percent=upload.received_percent,
        finalized_percent=upload.finalized_percent,
        storage_backend=upload.storage_backend,
        final_path=final_path,
        created_at_ms=upload.created_at_ms,
        expires_at_ms=upload.expires_at_ms,
        completed_at_ms=upload.completed_at_ms,
        parts=None if receipts is None else _parts(geometry, receipts),
    )


def _parts(geometry: Geometry, receipts: Sequence[ReceiptRecord]) -> Sequence[PartView]:
    known = {receipt.part: receipt for receipt in receipts}
    return [
        PartView(index, receipt.sha256, receipt.received_at_ms)
        if (receipt := known.get(index))
        else PartView(index, None, None)
        for index in range(geometry.part_count)
    ]
