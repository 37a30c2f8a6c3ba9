"""Native threads beside those that receive: they hash what the others write meanwhile.

One connection's bytes are received, hashed and written one after the other, on one
core, though hashing takes longer than the rest. Where a core is idle it is done
beside: a single connection is nearly twice as fast (docs/performance.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from gevent import monkey

from app.native_threads import native_lock

_start_thread = monkey.get_original("_thread", "start_new_thread")


class Companion:
    """A native thread that does one thing at a time for another one. Lives as long as the process.

    ``start`` and ``wait`` are called by one thread in turns; a ``wait`` without a
    ``start`` before it returns at once.
    """

    def __init__(self) -> None:
        self._wanted, self._finished = native_lock(), native_lock()
        self._wanted.acquire()
        self._finished.acquire()
        self._busy = False
        self._work: Callable[[], object] | None = None
        self._error: BaseException | None = None
        _start_thread(self._serve, ())

    def start(self, work: Callable[[], object]) -> None:
        """Begin ``work``, which must not touch gevent, and not log."""
        self._work, self._busy = work, True
        self._wanted.release()

    def wait(self) -> None:
        """Wait until the work is done; raises what it has raised."""
        if not self._busy:
            return
        self._finished.acquire()
        self._busy = False
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _serve(self) -> None:
        while True:
            self._wanted.acquire()
            work, self._work = self._work, None
            try:
                assert work is not None
                work()
            except BaseException as error:  # noqa: BLE001 - raised by ``wait``
                self._error = error
            del work  # or it would keep its buffer until the next one
            self._finished.release()


class Companions:
    """Companions for the first ``limit`` jobs that run at once, none for the others.

    With more of them than that, the cores have enough to do.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Single operations of lists, which need no lock: jobs run in many threads.
        self._jobs: list[None] = []
        self._idle: list[Companion] = []
        self._pid = 0

    def enter(self, *, wanted: bool) -> Companion | None:
        """Begin a job; return its companion if it wants one and may. ``leave`` ends the job."""
        self._jobs.append(None)
        if not wanted or len(self._jobs) > self._limit:
            return None
        if self._pid != os.getpid():  # threads do not come along through a fork
            self._pid, self._idle = os.getpid(), []
        try:
            return self._idle.pop()
        except IndexError:
            return Companion()

    def leave(self, companion: Companion | None) -> None:
        """End a job whose companion does nothing any more."""
        self._jobs.pop()
        if companion is not None:
            self._idle.append(companion)


companions = Companions(max(1, (os.cpu_count() or 1) // 2))
