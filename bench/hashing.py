"""How fast this machine hashes: SHA-256 by OpenSSL, all cores at once."""

from __future__ import annotations

import hashlib
import os
import threading
import time

from bench.loads import MIB

#: What the product hashes in: large enough that calling it costs nothing.
_BUFFER_BYTES = MIB
_MEASURE_SECONDS = 1.0


def cores() -> int:
    """Return how many cores this process may run on."""
    return len(os.sched_getaffinity(0))


def hash_bytes_per_second(threads: int, seconds: float = _MEASURE_SECONDS) -> float:
    """Return the bytes that so many threads hash in a second, together.

    hashlib lets go of the GIL for buffers of this size. Each thread's rate is
    over its own time, because none ends exactly on time.
    """
    content = os.urandom(_BUFFER_BYTES)
    together = threading.Barrier(threads)
    rates: list[float] = []

    def hash_for_a_while() -> None:
        digest = hashlib.sha256()
        count = 0
        together.wait()
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            digest.update(content)
            count += 1
        rates.append(count * _BUFFER_BYTES / elapsed)

    workers = [threading.Thread(target=hash_for_a_while) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)
