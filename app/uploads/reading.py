"""Reading files back: which bytes an upload has to offer, and opening them.

A finished file is read as a whole or in part. One that is appended to (tus, the
pipe) can be read while it grows, up to what is durable and recorded, whoever
writes it. Knows neither HTTP nor who asks: the adapters do. What is opened is
sent by ``ingest.sending``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import BinaryIO

import structlog

from app.domain.clock import Clock
from app.domain.states import State
from app.errors import (
    UploadGone,
    UploadLocked,
    UploadNotFound,
    UploadNotOpen,
    UploadUnfinished,
    WrongRoot,
)
from app.ingest.sending import Reach
from app.ingest.threads import sync_pool
from app.ledger.database import Ledger
from app.ledger.records import FINAL, UploadRecord
from app.storage.base import Storage
from app.uploads.policy import Policy
from app.uploads.visibility import require_visible
from app.uploads.watching import Watches

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.05

#: How old what is known of an upload may be while its file is read: a finished
#: file may only be deleted, and then its readers are broken off.
GROWING_AGE_SECONDS = 0.2
FINISHED_AGE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FileView:
    """A file that can be read. ``length`` in bytes, None while it is deferred.

    ``finished``: all bytes are there and stay as they are. ``key``: where the
    storage has it.
    """

    upload_id: str
    protocol: str
    filename: str
    content_type: str | None
    length: int | None
    finished: bool
    modified_at_ms: int
    key: str
    upload: UploadRecord = field(repr=False)


class FileReader:
    """Finds and opens files for reading."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy
        self._watches = Watches(ledger.uploads.get, clock)

    def find(self, upload_id: str, protocol: str | None = None, *, sees: str | None) -> FileView:
        """Return the file of an upload; see ``require_visible`` for the arguments.

        One that is being finalized is waited for a little. Raises
        UploadNotFound, UploadGone, UploadUnfinished where it cannot be read
        before it is complete (parts) with how far it is, UploadNotOpen where it
        failed for good, WrongRoot where another node has it.
        """
        give_up_at = self._clock.monotonic() + self._policy.complete_wait_seconds
        while True:
            upload = require_visible(
                self._ledger.uploads.get(upload_id), protocol, sees, self._clock.now_ms()
            )
            if upload.state is State.COMPLETE:
                return self._finished(upload)
            if upload.state is State.FAILED:
                raise UploadNotOpen(upload.state, "be read")
            if upload.state is State.OPEN or self._clock.monotonic() >= give_up_at:
                return self._growing(upload)
            self._clock.sleep(_POLL_SECONDS)

    def open(self, view: FileView) -> OpenFile:
        """Open a file at its beginning. Raises UploadNotFound, UploadLocked, StorageUnavailable.

        One that is published meanwhile has the same bytes under its final key.
        """
        give_up_at = self._clock.monotonic() + self._policy.complete_wait_seconds
        while True:
            try:
                return OpenFile(self._opened(view.key), view, self._watches, self._clock)
            except FileNotFoundError as error:
                if view.finished:
                    log.error("download.file_missing", upload_id=view.upload_id, key=view.key)
                    raise UploadNotFound from error
                if self._clock.monotonic() >= give_up_at:
                    raise UploadLocked from error
            self._clock.sleep(_POLL_SECONDS)
            view = self.find(view.upload_id, sees=None)

    def _opened(self, key: str) -> BinaryIO:
        return sync_pool.run(lambda: self._storage.open(key))

    def _finished(self, upload: UploadRecord) -> FileView:
        assert upload.final_key is not None, "a complete upload has been published"
        if not self._storage.reaches_final(upload.root_id):
            raise WrongRoot
        return _view(upload, upload.final_key, finished=True)

    def _growing(self, upload: UploadRecord) -> FileView:
        """Return an unfinished file, which must be one that is appended to.

        One that is made of others is nothing until it is made.
        """
        appended = upload.part_size is None and upload.concat != FINAL
        if appended and upload.root_id not in self._storage.root_ids:
            raise WrongRoot
        if not appended or not self._storage.capabilities_of(upload.root_id).readable_staging:
            raise UploadUnfinished(upload.state, upload.received, upload.part_count)
        if upload.staging_key is None:  # it is being made, or again after a crash
            raise UploadLocked
        return _view(upload, upload.staging_key, finished=False)


class OpenFile:
    """A file that is being read: a ``Supply`` of ``ingest.sending``.

    Opened under whatever key it had: publishing renames the file, and what is
    open stays readable.
    """

    def __init__(self, file: BinaryIO, view: FileView, watches: Watches, clock: Clock) -> None:
        self.file = file
        self.upload_id = view.upload_id
        self.protocol = view.protocol
        self._view = view
        self._watches = watches
        self._watch = watches.begin(view.upload)
        self._clock = clock

    def reach(self) -> Reach:
        """Tell how far the file can be read now. Raises UploadGone once it has been given up.

        An upload that has expired after it was complete (a pipe's time is over)
        is read to its end.
        """
        age_seconds = FINISHED_AGE_SECONDS if self._view.finished else GROWING_AGE_SECONDS
        upload = self._watch.latest(age_seconds)
        if upload is None or upload.state in (State.DELETED, State.CANCELLED, State.FAILED):
            raise UploadGone
        if self._view.finished:
            assert self._view.length is not None
            return Reach(self._view.length, final=True)
        if upload.completed_at_ms is not None:
            assert upload.length is not None, "a complete upload has a length"
            return Reach(upload.length, final=True)
        if upload.state is State.EXPIRED or upload.has_expired(self._clock.now_ms()):
            raise UploadGone
        return Reach(upload.offset, final=upload.offset == upload.length)

    def close(self) -> None:
        """Close the file, and stop watching the upload; idempotent."""
        if not self.file.closed:
            self._watches.end(self._watch)
            self.file.close()


def _view(upload: UploadRecord, key: str, *, finished: bool) -> FileView:
    return FileView(
        upload_id=upload.id,
        protocol=upload.protocol,
        filename=upload.filename,
        content_type=upload.content_type,
        length=upload.length,
        finished=finished,
        modified_at_ms=upload.completed_at_ms or upload.progress_at_ms,
        key=key,
        upload=upload,
    )
