"""Native threads for calls that would block the hub: reads, writes, hashes, syncs.

gevent's pools hand work from a greenlet to a real thread and wake the greenlet
when it is done. What runs there must not touch gevent primitives.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar, cast

from gevent import get_hub, monkey
from gevent.threadpool import ThreadPool

T = TypeVar("T")

#: Threads that receive, hash and write. More than the cores, because a write
#: may wait for the disk; few enough that their buffers stay small in memory.
RECEIVE_THREADS = 4 + 2 * (os.cpu_count() or 1)

#: Threads that wait for fdatasync and the like (about 25 ms for 50 MiB): apart,
#: so that a slow disk does not keep other clients' bytes from being received.
SYNC_THREADS = 16

#: Threads that send files and read those that are on other servers. They wait
#: for the disk where a file is not in memory, hence more than receive.
SEND_THREADS = 8 + 2 * (os.cpu_count() or 1)

#: Threads that verify, publish and remove files, for minutes if need be: apart,
#: so that no part waits for them. Jobs beyond this number wait for each other.
JOB_THREADS = 8


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
        released right afterwards. Exceptions of ``work`` are raised here.
        """
        if not _is_greenlet():
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


def _is_greenlet() -> bool:
    """False in a real thread of `flask jobs run`: it may block, and has no hub to wait in."""
    return (
        monkey.is_module_patched("threading")
        or threading.current_thread() is threading.main_thread()
    )


def _caught(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """Return what ``work`` returns and what it raises: of the latter gevent would print a trace."""
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001 - raised in the greenlet
        return None, error


receive_pool = NativePool(RECEIVE_THREADS)
sync_pool = NativePool(SYNC_THREADS)
send_pool = NativePool(SEND_THREADS)
job_pool = NativePool(JOB_THREADS)
