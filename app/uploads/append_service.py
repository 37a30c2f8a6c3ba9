"""Create, append to, look at and end uploads that grow front to back.

Takes plain values and collaborators, raises typed errors, returns frozen views.
Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.clock import Clock
from app.domain.states import State
from app.errors import (
    BodyTooLong,
    LonghaulError,
    RequestRefused,
    UploadGone,
    UploadLocked,
    UploadNotOpen,
)
from app.ingest.body import Body
from app.ingest.drain import Drain
from app.ledger.database import Ledger
from app.ledger.records import FINAL, PARTIAL, UploadRecord
from app.storage.base import Arrival, Storage
from app.uploads.appending import Append, Appended, Appender
from app.uploads.concatenating import Concatenator, can_join
from app.uploads.creating import Wish
from app.uploads.policy import Policy
from app.uploads.service import UploadService
from app.uploads.views import AppendedView, appended_view
from app.uploads.visibility import require_visible

#: How long ending an upload waits for its finalizing, which takes moments on a local disk.
END_WAIT_SECONDS = 5.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class AppendReceipt:
    """The upload after a request, and how many bytes that has brought."""

    upload: AppendedView
    received: int


class AppendService:
    """Uploads that grow. ``sees`` arguments name the owner whose uploads are visible, None: all."""

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
        self._uploads = uploads
        self._creator = uploads.creator
        self._appender = Appender(ledger, storage, clock, policy, drain, uploads)
        self._concatenator = Concatenator(ledger, storage, clock, uploads.staging, self._creator)

    @property
    def can_concatenate(self) -> bool:
        """Whether uploads can be made of others, where the storage puts those that grow."""
        root_id = self._storage.root_for(Arrival(None, None, None, verified=False))
        return can_join(self._storage.capabilities_of(root_id))

    def create(self, owner: str, wish: Wish, first: Append, body: Body) -> AppendReceipt:
        """Create an upload, and append ``body`` to it as ``first`` says.

        Raises as ``Creator.create`` does, and what ``Appender.append`` raises
        for bodies that are wrong; then the upload is gone again. Whatever else
        stops the body leaves the upload with the bytes that have come.
        """
        if body.length and wish.length is not None and body.length > wish.length:
            raise BodyTooLong(wish.length)
        record = self._creator.create(first.protocol, owner, wish)
        if body.length == 0 and (record.length != 0 or record.concat == PARTIAL):
            return AppendReceipt(appended_view(record), 0)
        try:
            return self._receipt(
                self._appender.append(record.id, replace(first, creates=True), body)
            )
        except LonghaulError as error:
            if isinstance(error, RequestRefused):
                self._uploads.end(record.id)
                raise
        current = self._visible(record.id, first.protocol, None)
        return AppendReceipt(appended_view(current), current.offset)

    def concatenate(
        self, protocol: str, owner: str, wish: Wish, partial_ids: Sequence[str]
    ) -> AppendedView:
        """Create an upload of others and wait a little for its file; see ``Concatenator.create``.

        Returns it waiting for its partial ones, on its way, or complete. Raises
        UploadNotOpen if it has failed by then; it is gone again.
        """
        upload = self._concatenator.create(protocol, owner, wish, partial_ids)
        if upload.state is State.FINALIZING:
            upload = self._uploads.outcome(upload)
        if upload.state is State.FAILED:
            self._uploads.end(upload.id)
            raise UploadNotOpen(upload.state, f"be made: {upload.error}")
        return appended_view(upload)

    def append(self, upload_id: str, wanted: Append, body: Body) -> AppendReceipt:
        """Append a body to an upload; see ``Appender.append``."""
        return self._receipt(self._appender.append(upload_id, wanted, body))

    def look(self, upload_id: str, protocol: str, *, sees: str | None) -> AppendedView:
        """Return an upload; what it tells is durable. Raises UploadNotFound, UploadGone.

        The latter also for one that was to be made of others and has failed: it
        has no bytes of its own that a client could go on with.
        """
        upload = self._visible(upload_id, protocol, sees)
        if upload.concat == FINAL and upload.state is State.FAILED:
            raise UploadGone(upload.error or "")
        return appended_view(upload)

    def end(self, upload_id: str, protocol: str, *, sees: str | None) -> None:
        """Cancel an unfinished upload, whoever appends to it, or delete a complete one.

        Raises UploadNotFound, UploadGone, and UploadLocked while it is being
        finalized for long.
        """
        give_up_at = self._clock.monotonic() + END_WAIT_SECONDS
        while True:
            self._visible(upload_id, protocol, sees)
            try:
                self._uploads.end(upload_id)
                return
            except UploadNotOpen as error:
                if self._clock.monotonic() >= give_up_at:
                    raise UploadLocked from error
                self._clock.sleep(_POLL_SECONDS)

    def finalize(self, upload_id: str) -> UploadRecord:
        """Have an upload finalized that has all its bytes, and wait a little for the outcome.

        For operators: clients' uploads come to that by themselves. Raises as
        ``AppendLedger.queue_finalize``.
        """
        queued = self._ledger.appends.queue_finalize(upload_id, self._clock.now_ms())
        return self._uploads.outcome(queued)

    def _receipt(self, appended: Appended) -> AppendReceipt:
        return AppendReceipt(appended_view(appended.upload), appended.received)

    def _visible(self, upload_id: str, protocol: str, sees: str | None) -> UploadRecord:
        upload = self._ledger.uploads.get(upload_id)
        return require_visible(upload, protocol, sees, self._clock.now_ms())
