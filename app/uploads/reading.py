"""Reading files back: which bytes an upload has to offer, and opening them.

Knows neither HTTP nor who asks: the adapters do. What is opened is sent by
``ingest.sending``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import structlog

from app.domain.clock import Clock
from app.domain.states import GONE, State
from app.errors import UploadNotFound, UploadNotOpen, UploadUnfinished, WrongRoot
from app.ingest.threads import sync_pool
from app.ledger.database import Ledger
from app.ledger.records import UploadRecord
from app.storage.base import Storage
from app.uploads.policy import Policy

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class FileView:
    """A file that can be read. ``key`` is where the storage has its ``length`` bytes."""

    upload_id: str
    protocol: str
    filename: str
    content_type: str | None
    key: str
    length: int
    modified_at_ms: int


class FileReader:
    """Finds and opens files for reading."""

    def __init__(self, ledger: Ledger, storage: Storage, clock: Clock, policy: Policy) -> None:
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._policy = policy

    def find(self, upload_id: str, *, sees: str | None) -> FileView:
        """Return the file of an upload; ``sees``: whose uploads are visible, None: all.

        One that is being finalized is waited for a little. Raises
        UploadNotFound, UploadUnfinished with how far it is, UploadNotOpen where
        it failed for good, WrongRoot where another node has it.
        """
        upload = self._finalized(upload_id, sees)
        if upload.state is State.FAILED:
            raise UploadNotOpen(upload.state, "be read")
        if upload.state is not State.COMPLETE:
            raise UploadUnfinished(upload.state, upload.received, upload.part_count or 0)
        return self._view(upload)

    def open(self, view: FileView) -> BinaryIO:
        """Open a file at its beginning; ``fileno()`` where it has one. Raises UploadNotFound."""
        try:
            return sync_pool.run(lambda: self._storage.open(view.key))
        except FileNotFoundError as error:
            log.error("download.file_missing", upload_id=view.upload_id, key=view.key)
            raise UploadNotFound from error

    def _view(self, upload: UploadRecord) -> FileView:
        if upload.final_key is None:
            raise UploadNotFound
        if not self._storage.reaches_final(upload.root_id):
            raise WrongRoot
        assert upload.length is not None, "a complete upload has a length"
        modified_at_ms = upload.completed_at_ms or upload.progress_at_ms
        return FileView(
            upload_id=upload.id,
            protocol=upload.protocol,
            filename=upload.filename,
            content_type=upload.content_type,
            key=upload.final_key,
            length=upload.length,
            modified_at_ms=modified_at_ms,
        )

    def _finalized(self, upload_id: str, sees: str | None) -> UploadRecord:
        """Return an upload, giving one that is being finalized a moment to get ready."""
        give_up_at = self._clock.monotonic() + self._policy.complete_wait_seconds
        while True:
            upload = self._ledger.uploads.get(upload_id)
            if upload is None or upload.state in GONE or upload.has_expired(self._clock.now_ms()):
                raise UploadNotFound
            if sees is not None and upload.owner != sees:
                raise UploadNotFound
            if upload.state is not State.FINALIZING or self._clock.monotonic() >= give_up_at:
                return upload
            self._clock.sleep(_POLL_SECONDS)
