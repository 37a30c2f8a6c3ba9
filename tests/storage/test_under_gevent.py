"""The same storages in a process that gevent has patched, as the server's workers are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.conftest import CEPH_PORT

#: A suite of several hundred tests, on a machine that is several times slower.
SUITE_SECONDS = 600

CONTRACT = ["test_staging.py", "test_joining.py", "test_publishing.py", "test_reading.py"]

SUITE = """
from gevent import monkey
monkey.patch_all()
import sys
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("backends", ["not ceph and not localstack", "ceph and direct"])
def test_the_whole_contract_holds_in_a_patched_process(request, processes, monkeypatch, backends):
    here = Path(__file__).parent
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-k", backends]
    if backends.startswith("ceph"):
        monkeypatch.setenv(CEPH_PORT, str(request.getfixturevalue("ceph").port))
    done = processes.run(
        SUITE, *options, *(here / name for name in CONTRACT), patience_seconds=SUITE_SECONDS
    )
    assert " passed" in done
    assert " skipped" not in done


NATIVE_THREADS = """
from gevent import monkey
monkey.patch_all()
import json, resource, sys
import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool
from app.errors import StorageFull
from app.storage.base import StagedObject
from app.storage.local import LocalStorage

root, upload, size = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
storage, staged = LocalStorage(root, "an-instance"), StagedObject(**upload)
pool, written = ThreadPool(4), Event()
beats = 0

def beat():
    global beats
    while not written.is_set():
        beats += 1
        gevent.sleep(0)

def put(index):
    with storage.writer(staged, index, index * size, size) as writer:
        data = memoryview(bytes([index]) * size)
        for start in range(0, size, 1 << 20):
            pool.apply(writer.write, (data[start : start + (1 << 20)],))
        pool.apply(writer.commit, kwds={"durable": True})

heart = gevent.spawn(beat)
for greenlet in [gevent.spawn(put, index) for index in range(8)]:
    greenlet.get()
written.set()
heart.get()

def write_too_much():
    # Returned, because gevent prints what a job raises.
    try:
        writer.write(memoryview(b"x"))
    except StorageFull as error:
        return error

_, unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
with storage.writer(staged, 8, 8 * size, size) as writer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, unlimited))
    error = pool.apply(write_too_much)
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
print(json.dumps({"beats": beats, "error": error.code}))
"""


def test_native_threads_write_while_the_hub_goes_on(local, processes):
    size = 4 << 20
    staged = local.staged(8 * size)
    output = processes.run(NATIVE_THREADS, local.root, json.dumps(asdict(staged)), size)
    told = json.loads(output.splitlines()[-1])
    assert told["error"] == "storage_full"
    assert told["beats"] > 100
    with local.storage.open(local.publish(staged)) as file:
        for index in range(8):
            assert file.read(size) == bytes([index]) * size
    local.storage.delete(staged.target_key)
