"""Native threads beside those that receive: they hash what the others write meanwhile.

One connection's bytes are received, hashed and written one after the other, on one
core, though hashing takes longer than the rest. Where few jobs run, it is done beside
by a second thread (docs/performance.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue

from gevent import monkey

_NativeQueue = monkey.get_original("queue", "SimpleQueue")
_start_thread = monkey.get_original("_thread", "start_new_thread")


class Companion:
    """A native thread that does for another one what is put to it. Lives as long as the process.

    ``start`` and ``wait`` are called by one thread at a time.
    """

    def __init__(self) -> None:
        self._wanted: SimpleQueue[Callable[[], object]] = _NativeQueue()
        self._done: SimpleQueue[BaseException | None] = _NativeQueue()
        self._pending = 0
        _start_thread(self._serve, ())

    def start(self, work: Callable[[], object]) -> None:
        """Have ``work`` done after what is pending; it must not touch gevent, and not log."""
        self._pending += 1
        self._wanted.put(work)

    def wait(self, at_most: int = 0) -> None:
        """Wait until ``at_most`` works are pending; raises what one of the others has raised."""
        error: BaseException | None = None
        while self._pending > at_most:
            error = self._done.get() or error
            self._pending -= 1
        if error is not None:
            raise error

    def _serve(self) -> None:
        while True:
            self._done.put(_attempt(self._wanted.get()))


def _attempt(work: Callable[[], object]) -> BaseException | None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - raised by ``wait``
        return error
    return None


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
            return self._idle.pop() if self._idle else Companion()
        except (IndexError, RuntimeError):  # somebody was faster; the system has no more threads
            return None

    def leave(self, companion: Companion | None) -> None:
        """End a job whose companion does nothing any more."""
        self._jobs.pop()
        if companion is not None:
            self._idle.append(companion)


companions = Companions(max(1, (os.cpu_count() or 1) // 2))
