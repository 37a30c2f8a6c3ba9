"""SMB: connections that break, servers that freeze, and what is shared by many threads."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from app.errors import StorageUnavailable
from app.storage.smb import SmbStorage
from tests.harness.frames import Frames

MIB = 1 << 20

#: Longer than any retry pauses, so that only a failure takes it all.
RECOVERY_SECONDS = 60

#: The least that a first pause can be between two attempts to connect.
SMALLEST_PAUSE_SECONDS = 0.75 * 0.25

#: Enough to see pauses grow, within some seconds.
ATTEMPTS = 5

#: What frozen servers are given in these tests.
PATIENCE_SECONDS = 1.0


@pytest.fixture
def own(own_samba, smb_backend):
    """A share whose server may be killed or frozen. Impatient: a frozen one is soon given up."""
    backend = smb_backend(own_samba, "own", timeout_seconds=PATIENCE_SECONDS)
    yield backend
    backend.close()


def recovered(act):
    """Return what ``act`` returns once it works again."""
    give_up_at = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return act()
        except StorageUnavailable:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def test_a_part_in_flight_fails_when_the_server_dies_and_can_be_sent_again(own):
    content = random.randbytes(4 * MIB)
    staged = own.staged(len(content))
    own.put(staged, content[:MIB])
    with own.storage.writer(staged, 1, MIB, 3 * MIB) as writer:
        writer.write(memoryview(content)[MIB : 2 * MIB])
        own.samba.kill()
        with pytest.raises(StorageUnavailable):
            writer.write(memoryview(content)[2 * MIB : 3 * MIB])
            writer.write(memoryview(content)[3 * MIB :])
            writer.commit(durable=True)
        with pytest.raises((StorageUnavailable, ValueError)):
            writer.commit(durable=True)
    own.samba.start()
    recovered(lambda: own.put(staged, content[MIB:], index=1, offset=MIB))
    assert own.read(own.publish(staged)) == content


def test_a_writer_that_lost_its_connection_never_commits_on_another(own):
    """Its bytes may not have been written, whatever the new connection says."""
    staged = own.staged(2 * MIB)
    with own.storage.writer(staged, 0, 0, 2 * MIB) as writer:
        writer.write(memoryview(bytes(MIB)))
        own.samba.kill()
        own.samba.start()
        recovered(own.storage.check)
        with pytest.raises(StorageUnavailable):
            writer.commit(durable=True)


def test_while_the_server_is_away_everything_fails_at_once_with_the_reason(own):
    staged = own.staged(1)
    own.samba.kill()
    started_at = time.monotonic()
    for _ in range(100):
        for act in (own.storage.check, lambda: own.storage.writer(staged, 0, 0, 1)):
            with pytest.raises(StorageUnavailable, match="SMB_HOST and SMB_PORT"):
                act()
    assert time.monotonic() - started_at < 10
    own.samba.start()
    recovered(lambda: own.put(staged, b"x"))


def test_a_server_that_is_away_is_tried_with_growing_pauses_until_it_is_back(
    own_samba, smb_backend
):
    """Whoever asks in between is told at once, and nobody asks the server."""
    with Frames(own_samba.port) as network:
        backend = smb_backend(own_samba, "own")
        storage = SmbStorage(backend.share(port=network.port), backend.path, "an-instance")
        own_samba.kill()
        known = len(network.attempts)
        asked = refused_until(storage, lambda: len(network.attempts) >= known + ATTEMPTS)
        pauses = pauses_between(network.attempts[known:])
        for number, pause in enumerate(pauses):
            assert pause >= SMALLEST_PAUSE_SECONDS * 2**number, pauses
        assert asked > 10 * ATTEMPTS, "they waited instead of being told"
        own_samba.start()
        recovered(storage.check)
        own_samba.kill()
        known = len(network.attempts)
        refused_until(storage, lambda: len(network.attempts) >= known + 2)
        assert pauses_between(network.attempts[known:]) < pauses[-1:], "it began anew"
        backend.close()


def refused_until(storage, is_enough):
    """Ask a storage without a pause, and be refused, until it is enough; return how often."""
    count = 0
    while not is_enough():
        with pytest.raises(StorageUnavailable):
            storage.check()
        count += 1
    return count


def pauses_between(moments):
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def test_nothing_is_noticed_of_a_restart_while_the_connection_was_idle(own):
    staged = own.filled(b"content")
    own.samba.kill()
    own.samba.start()
    assert own.read(own.publish(staged)) == b"content"


def test_what_can_be_repeated_is_when_its_connection_breaks_in_the_middle(own):
    staged = own.filled(b"content")
    own.samba.freeze_sessions()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(own.storage.stat, staged.staging_key)
        own.samba.wait_for_a_request()
        own.samba.kill_sessions()
        assert asked.result().size_bytes == 7


def test_a_frozen_server_is_given_up_after_the_timeout(own):
    staged = own.staged(MIB)
    writer = own.storage.writer(staged, 0, 0, MIB)
    writer.write(memoryview(bytes(MIB)))
    own.samba.freeze()
    started_at = time.monotonic()
    with pytest.raises(StorageUnavailable, match="does not answer"):
        writer.commit(durable=True)
    with pytest.raises(StorageUnavailable):
        own.storage.check()
    # One silence, and one attempt to connect.
    assert time.monotonic() - started_at < 2 * PATIENCE_SECONDS + 5
    own.samba.thaw()
    recovered(lambda: own.put(staged, bytes(MIB)))
    assert own.read(own.publish(staged)) == bytes(MIB)


def test_all_who_wait_for_a_frozen_server_are_freed_together(own):
    staged = own.staged(8 * MIB)
    writers = [own.storage.writer(staged, index, index * MIB, MIB) for index in range(8)]
    own.samba.freeze()

    def put(writer):
        with pytest.raises(StorageUnavailable), writer:
            for _ in range(8):
                writer.write(memoryview(bytes(MIB)))
            writer.commit(durable=True)

    started_at = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, writers))
    assert time.monotonic() - started_at < 3 * PATIENCE_SECONDS + 5
    own.samba.thaw()
    recovered(own.storage.check)


def test_a_server_that_works_long_on_an_answer_is_waited_for(
    mounts, own_samba, smb_backend, tmp_path
):
    """Its disk takes longer than the timeout, while it still says that it lives."""
    disk = tmp_path / "disk"
    mounts.disk("ext4", tmp_path / "image", disk)
    own_samba.add_share("slow", disk)
    backend = smb_backend(own_samba, "root", share="slow", timeout_seconds=PATIENCE_SECONDS)
    staged = backend.staged(MIB)
    with backend.storage.writer(staged, 0, 0, MIB) as writer, ThreadPoolExecutor(1) as pool:
        mounts.freeze(disk)
        writer.write(memoryview(bytes(MIB)))
        committed = pool.submit(writer.commit, durable=True)
        with pytest.raises(TimeoutError):
            committed.result(3 * PATIENCE_SECONDS)
        mounts.thaw(disk)
        assert committed.result() is None
    backend.close()


def test_many_parts_share_one_connection(samba, smb_backend):
    backend = smb_backend(samba, "one-connection")
    storage = SmbStorage(backend.share(connections=1), backend.path, "an-instance")
    parts, size = 16, 3 * MIB + 1
    content = random.randbytes(parts * size)
    staged = backend.staged(len(content))
    together = threading.Barrier(parts)

    def put(index):
        data = memoryview(content)[index * size : (index + 1) * size]
        with storage.writer(staged, index, index * size, size) as writer:
            together.wait()
            for start in range(0, size, 700_000):
                writer.write(data[start : start + 700_000])
            writer.commit(durable=True)

    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(put, range(parts)))
    assert backend.read(backend.publish(staged)) == content
    backend.storage.delete(staged.target_key)
    backend.close()


def test_what_has_been_sent_of_many_slow_parts_takes_no_memory(smb):
    """A thousand clients may pause in the middle of a part: each had four MiB on their way."""
    parts, size = 20, 4 * MIB
    staged = smb.staged(2 * parts * size)
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(smb.storage.writer(staged, index, index * size, 2 * size))
            for index in range(parts)
        ]
        data = memoryview(bytes(size))
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for writer in writers:
            writer.write(data)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    assert kept_bytes < parts * size / 4
    smb.storage.discard(staged)


def test_a_forked_process_makes_connections_of_its_own(smb, processes):
    staged = smb.staged(2 * MIB)
    program = """
import json, os, sys
from app.storage.base import StagedObject
from tests.harness.storages import opened
kind, place, upload, size = sys.argv[1:]
storage = opened(kind, place, "an-instance")
staged, size = StagedObject(**json.loads(upload)), int(size)

def put(index, writer):
    writer.write(memoryview(bytes([index + 1]) * size))
    writer.commit(durable=True)

before = storage.writer(staged, 0, 0, size)
child = os.fork()
if not child:
    put(1, storage.writer(staged, 1, size, size))
    os._exit(0)
_, status = os.waitpid(child, 0)
put(0, before)
print(status, storage.stat(staged.staging_key).size_bytes)
"""
    told = processes.run(program, *smb.place(), json.dumps(asdict(staged)), MIB)
    assert told.split() == ["0", str(2 * MIB)]
    assert smb.read(smb.publish(staged)) == b"\1" * MIB + b"\2" * MIB
    smb.storage.delete(staged.target_key)


UNDER_LOAD = """
from gevent import monkey
monkey.patch_all()
import json, sys, time
import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool
from app.storage.base import StagedObject
from tests.harness.storages import opened
kind, place, upload, size = sys.argv[1:]
storage = opened(kind, place, "an-instance")
staged, size = StagedObject(**json.loads(upload)), int(size)
pool, done, longest = ThreadPool(8), Event(), 0.0

def watch():
    global longest
    while not done.is_set():
        seen_at = time.monotonic()
        gevent.sleep(0.001)
        longest = max(longest, time.monotonic() - seen_at)

def put(index):
    # Half of them write in the hub's thread, half in native ones, as parts do.
    run = pool.apply if index % 2 else (lambda act, args=(): act(*args))
    with storage.writer(staged, index, index * size, size) as writer:
        data = memoryview(bytes([index]) * size)
        for start in range(0, size, 1 << 20):
            run(writer.write, (data[start : start + (1 << 20)],))
        run(lambda: writer.commit(durable=True))
    storage.stat(staged.staging_key)
    storage.check()

heart, began_at = gevent.spawn(watch), time.monotonic()
for greenlet in [gevent.spawn(put, index) for index in range(24)]:
    greenlet.get()
done.set()
heart.get()
print(longest, time.monotonic() - began_at)
"""


def test_the_hub_goes_on_while_greenlets_and_native_threads_write(smb, processes):
    size = 4 * MIB
    staged = smb.staged(24 * size)
    told = processes.run(UNDER_LOAD, *smb.place(), json.dumps(asdict(staged)), size)
    # 100 MiB take a second or so, on a busy machine more: a hub that waited for them would show it.
    longest_pause, all_of_it = map(float, told.splitlines()[-1].split())
    assert longest_pause < max(0.5, all_of_it / 4)
    with smb.storage.open(smb.publish(staged)) as file:
        for index in range(24):
            assert file.read(size) == bytes([index]) * size
    smb.storage.delete(staged.target_key)
