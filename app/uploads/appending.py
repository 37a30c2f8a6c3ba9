"""Appending: who may append what, and where; the bytes themselves move in ``growing.py``.

One request at a time appends to an upload. A newer one is taken for the same
client's next attempt: it asks the older one to let go, waits for what that has
received to be recorded, and goes by the offset as it is then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from app.domain.clock import Clock
from app.domain.states import GONE, State
from app.errors import (
    BodyTooLong,
    InvalidField,
    LonghaulError,
    NotAppendable,
    OffsetMismatch,
    PartsLost,
    ShuttingDown,
    StorageUnavailable,
    UploadGone,
    UploadLocked,
)
from app.ingest.body import Body
from app.ingest.drain import Drain
from app.ledger.appends import AppendClaim
from app.ledger.database import Ledger
from app.ledger.leases import APPEND, Contention, Lease
from app.ledger.records import FINAL, PARTIAL, UploadRecord
from app.storage.base import Storage
from app.uploads.growing import Growth, Verification, receive_nothing
from app.uploads.policy import Policy
from app.uploads.service import UploadService
from app.uploads.staging import staged_object
from app.uploads.visibility import require_visible

log = structlog.get_logger(__name__)

#: How long a request waits for an older one to let go (the tus contract).
TAKEOVER_SECONDS = 5.0
_POLL_SECONDS = 0.02
_LONGEST_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Append:
    """What a request wants to append: where, and what it tells of the upload.

    ``sees``: the owner whose uploads are visible, None: all. ``length``: of the
    whole upload, where the request tells it. ``max_bytes``: the principal's own
    limit. ``creates``: the same request has created the upload, which is to go
    again where the body is refused.
    """

    protocol: str
    sees: str | None
    offset: int
    length: int | None = None
    max_bytes: int | None = None
    verification: Verification | None = None
    creates: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """The upload after an append, and how many bytes the request has brought."""

    upload: UploadRecord
    received: int


class Appender:
    """Appends bodies to uploads. Holds no session or transaction while bytes flow."""

    def __init__(
        self,
        ledger: Ledger,
        storage: Storage,
        clock: Clock,
        policy: Policy,
        drain: Drain,
        uploads: UploadService,
    ) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._drain = drain
        self._staging = uploads.staging
        self._creator = uploads.creator
        self._jobs = uploads.jobs

    def append(self, upload_id: str, wanted: Append, body: Body) -> Appended:
        """Append ``body`` to an upload; what has arrived is durable and recorded on return.

        That also holds where BodyCut, BodyStalled, ShuttingDown, TakenOver,
        StorageFull or StorageUnavailable is raised, but for a body that is to be
        verified; and with BodyTooLong where the body does not tell its length:
        then there is kept what there is room for, but never the last byte of
        the upload. Nothing of the body is kept with OffsetMismatch,
        UploadTooLarge, InvalidField (another length than before), NotAppendable,
        UploadLocked, LeaseLost, UploadNotFound, UploadGone, DigestMismatch and
        MalformedRequest (nothing there to verify it by). Where a body is to be
        verified, a length that comes with it counts as its bytes do.
        """
        if self._drain.begun:
            raise ShuttingDown
        claim = self._claim(upload_id, wanted, body)
        if claim.lease is None:
            receive_nothing(body, self._policy.body_idle_timeout_seconds, wanted.verification)
            return Appended(claim.upload, 0)
        try:
            upload, on_verified = self._with_length(claim.upload, wanted, body, claim.lease)
            return self._grow(upload, claim.lease, wanted, body, on_verified)
        except PartsLost as error:
            raise self._vanished(claim.upload, error) from error
        finally:
            self._ledger.leases.release(claim.lease)

    def _vanished(self, upload: UploadRecord, error: PartsLost) -> LonghaulError:
        """Let an upload whose staged object has vanished start anew, unless it was ended."""
        self._ledger.parts.forget_all(upload)
        current = self._ledger.uploads.get(upload.id)
        if current is None or current.state in GONE:
            return UploadGone()
        log.error("staging.vanished", upload_id=upload.id, cause=str(error.__cause__))
        return StorageUnavailable(
            "This upload's stored bytes have vanished; ask for its offset and send them again"
        )

    def _claim(self, upload_id: str, wanted: Append, body: Body) -> AppendClaim:
        """Lease the upload's end, asking whoever has it to let go; or find it finished."""
        give_up_at = self._clock.monotonic() + TAKEOVER_SECONDS
        pause_seconds = _POLL_SECONDS
        while True:
            now_ms = self._clock.now_ms()
            claim = self._ledger.appends.claim(
                upload_id, now_ms, self._policy.ttl_ms, self._clock.monotonic
            )
            try:
                upload = require_visible(claim.upload, wanted.protocol, wanted.sees, now_ms)
                self._refuse(upload, wanted, body, settled=claim.lease is not None)
            except LonghaulError:
                if claim.lease is not None:
                    self._ledger.leases.release(claim.lease)
                raise
            if claim.lease is not None or upload.state is not State.OPEN:
                return claim
            holder = self._ledger.appends.holder(upload_id)
            if holder is not None and self._ledger.leases.take_from_dead(holder):
                continue
            # Every time, because the holder may be another one by now.
            self._ledger.leases.ask(upload_id, APPEND, Contention.RELEASE)
            if self._clock.monotonic() >= give_up_at:
                raise UploadLocked
            self._clock.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LONGEST_POLL_SECONDS)

    def _refuse(self, upload: UploadRecord, wanted: Append, body: Body, *, settled: bool) -> None:
        """Raise what forbids an append, whoever has the lease.

        Not ``settled``: the offset may still move on, but it never goes back.
        """
        if upload.concat == FINAL:
            raise NotAppendable
        if upload.length is not None and wanted.length not in (None, upload.length):
            raise InvalidField("length", f"is {upload.length} and cannot be changed")
        settled = settled or upload.state is not State.OPEN
        if wanted.offset < upload.offset or (settled and wanted.offset != upload.offset):
            raise OffsetMismatch(upload.offset, wanted.offset)
        room_bytes = self._room_bytes(upload, wanted, wanted.offset)
        if body.length and room_bytes is not None and body.length > room_bytes:
            raise BodyTooLong(room_bytes)

    def _room_bytes(self, upload: UploadRecord, wanted: Append, offset: int) -> int | None:
        """Return how many bytes may come from ``offset`` on, None: any number."""
        length = wanted.length if upload.length is None else upload.length
        if length is None:
            length = self._creator.limit_bytes(wanted.max_bytes)
        return None if length is None else max(0, length - offset)

    def _with_length(
        self, upload: UploadRecord, wanted: Append, body: Body, lease: Lease
    ) -> tuple[UploadRecord, Callable[[], object] | None]:
        """Set a length that was deferred until this request; or return what sets it.

        Where nothing is to come any more, the commit that completes the upload
        sets it: a refused body or a crash in between would leave one that looks
        complete to its client, and that nobody finalizes. Where the body is to be
        verified it counts when that is done: a refused one changes nothing.
        """
        length = wanted.length
        if length is None or upload.length is not None:
            return upload, None
        self._creator.require_allowed(length, wanted.max_bytes)
        if length < upload.offset:
            raise InvalidField("length", f"is less than the {upload.offset} bytes received")
        if length == upload.offset:
            receive_nothing(body, self._policy.body_idle_timeout_seconds, wanted.verification)
            if upload.concat != PARTIAL:
                return replace(upload, length=length), None
        room_bytes = self._staging.room_bytes(upload.root_id)

        def set_length() -> UploadRecord:
            return self._ledger.appends.set_length(lease, length, room_bytes)

        if wanted.verification is None or length == upload.offset:
            return set_length(), None
        return replace(upload, length=length), set_length

    def _grow(
        self,
        upload: UploadRecord,
        lease: Lease,
        wanted: Append,
        body: Body,
        on_verified: Callable[[], object] | None,
    ) -> Appended:
        if body.length != 0:  # the ledger may not know the length yet
            upload = replace(self._staging.ensure(upload, lease), length=upload.length)
        growth = Growth(
            ledger=self._ledger,
            storage=self._storage,
            clock=self._clock,
            policy=self._policy,
            drain=self._drain,
            upload=upload,
            lease=lease,
            room_bytes=self._room_bytes(upload, wanted, upload.offset),
            verification=wanted.verification,
            on_verified=on_verified,
            keeps_refused=not wanted.creates,
            jobs=self._jobs,
        )
        if body.length == 0:
            recorded = growth.record_nothing(body)
        else:
            recorded = growth.receive(staged_object(upload), body)
        return Appended(recorded, recorded.offset - upload.offset)
