"""The pools of native threads that requests and jobs share."""

from __future__ import annotations

import os

from app.native_threads import NativePool

#: Threads that receive, hash and write. More than the cores, because a write
#: may wait for the disk; few enough that their buffers stay small in memory.
RECEIVE_THREADS = 4 + 2 * (os.cpu_count() or 1)

#: Threads that wait for fdatasync and the like (about 25 ms for 50 MiB): apart,
#: so that a slow disk does not keep other clients' bytes from being received.
SYNC_THREADS = 16

#: Threads that send files and read those that are on other servers. They wait
#: for the disk where a file is not in memory, hence more than receive.
SEND_THREADS = 8 + 2 * (os.cpu_count() or 1)

#: Threads that end parts: they wait for the disk, then for their turn in the ledger.
#: Small parts are received here, too, because they end as soon as they are received.
PART_THREADS = 16

#: Threads that verify, publish and remove files, for minutes if need be: apart,
#: so that no part waits for them. Jobs beyond this number wait for each other.
JOB_THREADS = 8

receive_pool = NativePool(RECEIVE_THREADS)
sync_pool = NativePool(SYNC_THREADS)
part_pool = NativePool(PART_THREADS)
send_pool = NativePool(SEND_THREADS)
job_pool = NativePool(JOB_THREADS)
