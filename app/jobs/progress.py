"""Progress of a long step, recorded about once a second while the step runs elsewhere."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from app.errors import TryAgain
from app.ledger.finalizing import FinalizeQueue
from app.ledger.leases import Lease

RECORD_SECONDS = 1.0


class ProgressRecorder:
    """A context manager around a step; ``moved`` is called with bytes from any thread.

    ``idle``: nothing will be moved, so nothing is recorded.
    """

    def __init__(self, queue: FinalizeQueue, lease: Lease, *, idle: bool = False) -> None:
        self._queue = queue
        self._lease = lease
        self._moved_bytes = 0
        self._done = threading.Event()
        self._thread = (
            None if idle else threading.Thread(target=self._record, name="progress", daemon=True)
        )

    def moved(self, moved_bytes: int, _of_bytes: int) -> None:
        """Note how far the step is. Touches nothing but a number: safe in native threads."""
        self._moved_bytes = moved_bytes

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def _record(self) -> None:
        recorded_bytes = 0
        while not self._done.wait(RECORD_SECONDS):
            moved_bytes = self._moved_bytes
            if moved_bytes == recorded_bytes:
                continue
            try:
                self._queue.record_progress(self._lease, moved_bytes)
                recorded_bytes = moved_bytes
            except TryAgain:
                continue  # progress is a courtesy; the outcome's commit decides
