"""Native threads for calls that would block gevent's hub, and locks that work in them.

gevent's pools hand work from a greenlet to a real thread and wake the greenlet
when it is done. What runs there must not touch gevent primitives, so what it
locks with is made by ``native_lock``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

from gevent import get_hub, monkey
from gevent.threadpool import ThreadPool

T = TypeVar("T")

#: A lock of the system's, in a patched process too. Never held by the hub's thread.
native_lock: Callable[[], Any] = monkey.get_original("_thread", "allocate_lock")

#: Sleeps the thread, in a patched process too; for native threads only.
native_sleep: Callable[[float], None] = monkey.get_original("time", "sleep")

_thread_id: Callable[[], int] = monkey.get_original("_thread", "get_ident")

#: The thread that imports this is the one whose hub serves; a fork keeps its id.
_MAIN_THREAD_ID = _thread_id()


def in_native_thread() -> bool:
    """Tell whether the caller runs outside the hub's thread, and so may block."""
    return _thread_id() != _MAIN_THREAD_ID


class NativePool:
    """A pool of native threads, made on first use so that it belongs to the forked worker."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pool: ThreadPool | None = None
        self._pid = 0

    def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` in a native thread; the calling greenlet waits, others go on.

        The call never returns or raises while ``work`` still runs, whatever is
        thrown at the greenlet: descriptors and buffers that ``work`` uses may be
        released right afterwards. Exceptions of ``work`` are raised here. A
        caller in a native thread may block, so ``work`` runs right there.
        """
        if in_native_thread():
            return work()
        if self._pool is None or self._pid != os.getpid():
            self._pool = ThreadPool(self._size, hub=get_hub())
            self._pid = os.getpid()
        job = self._pool.spawn(_caught, work)
        interruption: BaseException | None = None
        while not job.ready():
            try:
                job.wait()
            except BaseException as thrown:  # noqa: BLE001 - raised below, once the job is over
                interruption = thrown
        if interruption is not None:
            raise interruption
        result, error = cast(tuple[T | None, BaseException | None], job.get())
        if error is not None:
            raise error
        return cast(T, result)


def _caught(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Return what ``work`` returns and what it raises: of the latter gevent would print a trace."""
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001 - raised in the greenlet
        return None, error
