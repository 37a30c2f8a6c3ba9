"""Checkpoints: what a long transfer has written is saved now and then, while it goes on.

Saving (a sync of the disk, a commit of the ledger) takes tens of milliseconds. It
runs in a greenlet of its own while bytes go on arriving, so it costs a fast
client nothing; a disk that is slower than the client makes the client wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import structlog

from app.errors import LedgerBusy, LonghaulError

log = structlog.get_logger(__name__)

#: What a crash of the server may cost a client (the tus contract).
EVERY_BYTES = 32 * 1024 * 1024
EVERY_SECONDS = 5.0


class Checkpoints:
    """Calls ``save`` with the number of bytes written; one call at a time.

    A context manager: when it is left, no call is running any more. ``error`` is
    what a call has raised and no later one can heal.
    """

    def __init__(self, save: Callable[[int], None]) -> None:
        self._save = save
        self._begun_bytes = 0
        self._begun_at = time.monotonic()
        self._running: gevent.Greenlet[[int], None] | None = None
        self.error: LonghaulError | None = None

    def look(self, written: int) -> None:
        """Begin to save if it is time, with ``written`` bytes; called in the transfer's greenlet.

        Waits only where a former call is still running though the next is due.
        """
        due = written - self._begun_bytes >= EVERY_BYTES or (
            written > self._begun_bytes and time.monotonic() - self._begun_at >= EVERY_SECONDS
        )
        if due and self.error is None:
            self._join()
            self._begun_bytes, self._begun_at = written, time.monotonic()
            self._running = gevent.spawn(self._run, written)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._join()

    def _run(self, written: int) -> None:
        try:
            self._save(written)
        except LedgerBusy:
            pass  # the next one, or the end of the transfer, records more
        except LonghaulError as error:
            self.error = error
        except Exception:
            log.exception("checkpoint.bug")

    def _join(self) -> None:
        """Wait for the call that is running, whatever is thrown at this greenlet meanwhile."""
        interruption: BaseException | None = None
        while self._running is not None and not self._running.ready():
            try:
                self._running.join()
            except BaseException as thrown:  # noqa: BLE001 - raised below, once the call is over
                interruption = thrown
        self._running = None
        if interruption is not None:
            raise interruption
