"""How uploads come into being: names and sizes checked, a row, then the staged object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from app import metrics
from app.domain.clock import Clock
from app.domain.names import parse_client_name, target_key
from app.domain.parts import MAX_PARTS, Geometry
from app.domain.targets import parse_target
from app.domain.upload_ids import new_upload_id
from app.errors import LonghaulError, UploadTooLarge
from app.ledger.database import Ledger
from app.ledger.leases import Lease
from app.ledger.records import AliasKey, NewUpload, UploadRecord
from app.storage.base import Arrival, Storage
from app.uploads.policy import Policy
from app.uploads.staging import Staging, staged_object_of

log = structlog.get_logger(__name__)

#: No file system has larger files, and the ledger counts no further (BIGINT).
MAX_LENGTH_BYTES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client wants to upload.

    ``filename`` may hold folders; the file lands below ``directory``, which is
    the principal's. ``length`` in bytes, None while it is deferred. ``geometry``
    None: bytes are appended front to back. ``max_bytes`` is the principal's
    own limit beside the server's. ``checksum_sha256`` in hex. ``concat`` and
    ``headers`` as in ``NewUpload``. ``family``: see ``domain.upload_ids``.
    ``has_tokens``: it expires when they do, and not that long after its last progress.
    """

    filename: str
    length: int | None
    geometry: Geometry | None = None
    directory: str = ""
    content_type: str | None = None
    max_bytes: int | None = None
    webhook_url: str | None = None
    checksum_sha256: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    concat: str | None = None
    family: str | None = None
    headers: Mapping[str, str] | None = None
    has_tokens: bool = False


class Creator:
    """Creates uploads for all protocols."""

    def __init__(
        self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy, staging: Staging
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._staging = staging

    def create(self, protocol: str, owner: str, wish: Wish) -> UploadRecord:
        """Create an open upload and its staged object.

        Raises InvalidName, TargetRefused, UploadTooLarge, StorageFull,
        StorageUnavailable.
        """
        new = self.planned(protocol, owner, wish)
        lease = self._ledger.uploads.create(
            new, room_bytes=self._staging.room_bytes(new.root_id), monotonic=self._clock.monotonic
        )
        return self.stage(new, lease)

    def get_or_create(self, protocol: str, owner: str, wish: Wish, alias: AliasKey) -> UploadRecord:
        """Return the living upload behind an alias, else create it; whoever else asks meanwhile.

        Raises as ``create``.
        """
        new = self.planned(protocol, owner, wish)
        record, lease = self._ledger.chunks.get_or_create(
            alias,
            new,
            grace_ms=self._policy.grace_ms,
            room_bytes=self._staging.room_bytes(new.root_id),
            monotonic=self._clock.monotonic,
        )
        if lease is None:
            return record
        made = self.stage(new, lease)
        metrics.uploads_created_total.labels(protocol).inc()
        return made

    def planned(self, protocol: str, owner: str, wish: Wish) -> NewUpload:
        """Check a wish and return the upload it asks for, which exists nowhere yet.

        Raises InvalidName, TargetRefused, UploadTooLarge.
        """
        name = parse_client_name(wish.filename).below(wish.directory)
        if wish.webhook_url is not None:
            parse_target(wish.webhook_url, allow_private=self._policy.allow_private_targets)
        geometry, policy = wish.geometry, self._policy
        self.require_allowed(wish.length, wish.max_bytes, geometry)
        upload_id = new_upload_id(wish.family)
        now_ms = self._clock.now_ms()
        part_size = None if geometry is None else geometry.part_size
        part_count = None if geometry is None else geometry.part_count
        arrival = Arrival(wish.length, part_size, part_count, wish.checksum_sha256 is not None)
        return NewUpload(
            id=upload_id,
            protocol=protocol,
            owner=owner,
            filename=name.filename,
            directory=name.directory,
            length=wish.length,
            part_size=part_size,
            part_count=part_count,
            content_type=wish.content_type,
            details=wish.metadata,
            headers=wish.headers,
            concat=wish.concat,
            checksum_sha256=wish.checksum_sha256,
            webhook_url=wish.webhook_url,
            storage_backend=self._storage.backend,
            root_id=self._storage.root_for(arrival),
            target_key=target_key(upload_id, name),
            created_at_ms=now_ms,
            expires_at_ms=now_ms + (policy.lifetime_ms if wish.has_tokens else policy.ttl_ms),
        )

    def require_allowed(
        self, length: int | None, max_bytes: int | None, geometry: Geometry | None = None
    ) -> None:
        """Raise UploadTooLarge over the server's or the principal's limit, or that of parts."""
        if length is not None and length > MAX_LENGTH_BYTES:  # of several partial ones together
            raise UploadTooLarge(f"{length} bytes are more than any file can have")
        limit = self.limit_bytes(max_bytes)
        if length is not None and limit is not None and length > limit:
            raise UploadTooLarge(f"{length} bytes are over the limit of {limit} bytes")
        if geometry is not None and geometry.part_count > MAX_PARTS:
            raise UploadTooLarge(
                f"{geometry.part_count} parts are over the limit of {MAX_PARTS}; "
                "files of this size need larger parts (CHUNK_SIZE_MB for the native API)"
            )

    def limit_bytes(self, max_bytes: int | None) -> int | None:
        """Return the smaller of the server's and the principal's limit, None without any."""
        limits = [limit for limit in (self._policy.max_upload_bytes, max_bytes) if limit]
        return min(limits, default=None)

    def stage(self, new: NewUpload, lease: Lease) -> UploadRecord:
        """Make the staged object of an upload whose row has just been made, or give it up."""
        try:
            return self._staging.make(staged_object_of(new), lease)
        except LonghaulError:
            self._give_up(new.id)
            raise

    def _give_up(self, upload_id: str) -> None:
        """End an upload that could not be staged, so that it reserves no space.

        Unless the ledger is what failed: who asked for it has waited enough. Nor
        where others have found it by its alias and are staging it.
        """
        try:
            self._ledger.sweeping.abandon(upload_id, self._clock.now_ms(), optional=True)
        except LonghaulError as error:
            log.warning("create.left_to_sweeper", upload_id=upload_id, error=error.code)
