"""Whether this process is shutting down, and what has to stop when.

gunicorn sends SIGTERM, lets requests run for its graceful timeout, then kills.
Bodies that cannot be resumed in the middle (parts) may use nearly all of that
time; bodies whose every byte counts (appends) stop at once and keep them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from app.errors import LonghaulError, ShuttingDown

#: Parts stop this long before the kill: enough to answer and to be heard.
PART_MARGIN_SECONDS = 5.0

#: Downloads are broken off this long before the kill: a worker looks once a
#: second whether its last connection has ended.
DOWNLOAD_MARGIN_SECONDS = 3.0


class Drain:
    """The shutdown of this process: not begun, or begun at some time."""

    def __init__(self, graceful_timeout_seconds: float) -> None:
        self._graceful_timeout_seconds = graceful_timeout_seconds
        self._begun_at: float | None = None
        self._wakes: set[Callable[[], None]] = set()

    def begin(self) -> None:
        """Note that the process has been asked to stop. Safe in a signal handler."""
        if self._begun_at is None:
            self._begun_at = time.monotonic()
            for wake in list(self._wakes):
                wake()

    @contextlib.contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Have ``wake`` called if the shutdown begins while the context lasts."""
        self._wakes.add(wake)
        try:
            yield
        finally:
            self._wakes.discard(wake)

    @property
    def begun(self) -> bool:
        """True from the first SIGTERM on."""
        return self._begun_at is not None

    @property
    def parts_must_stop(self) -> bool:
        """True when bodies of parts have to give up, shortly before the kill."""
        return self._is_over(PART_MARGIN_SECONDS)

    def guard_part(self, _idle_seconds: float) -> LonghaulError | None:
        """Tell the pump to stop a part's body when its time is over; a ``Guard``."""
        return ShuttingDown() if self.parts_must_stop else None

    @property
    def downloads_must_stop(self) -> bool:
        """True when files that are being sent have to be broken off, shortly before the kill."""
        return self._is_over(DOWNLOAD_MARGIN_SECONDS)

    def _is_over(self, margin_seconds: float) -> bool:
        if self._begun_at is None:
            return False
        run_on_seconds = max(0.0, self._graceful_timeout_seconds - margin_seconds)
        return time.monotonic() - self._begun_at >= run_on_seconds
