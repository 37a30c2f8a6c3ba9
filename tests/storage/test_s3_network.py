"""S3: bytes damaged on their way, a server that stalls or dies amid a part; real progress."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.errors import StorageUnavailable
from app.storage import s3_client, s3_transfer
from app.storage.base import StagedObject
from app.storage.s3 import MIN_PART_BYTES
from tests.harness.network import Network
from tests.harness.proxy import DamagingProxy

MIB = 1 << 20
MARKER = b"sixteen or more bytes that random ones never are"

#: For clocks that tell whole seconds, on a slow machine.
PATIENCE_SECONDS = 60


@pytest.fixture
def proxy(ceph):
    """A network that damages ``MARKER``."""
    with contextlib.closing(DamagingProxy(ceph.port, MARKER)) as started:
        yield started


def marked(size):
    """Return random bytes with the marker in their middle."""
    content = bytearray(random.randbytes(size))
    middle = min(size, MIN_PART_BYTES) // 2
    content[middle : middle + len(MARKER)] = MARKER
    return bytes(content)


def require_published(backend, staged, content):
    assert backend.publish(staged) == staged.target_key
    assert backend.read(staged.target_key) == content
    assert backend.leftovers() == [staged.target_key]
    backend.storage.delete(staged.target_key)


def test_a_part_that_was_damaged_on_its_way_is_not_taken(ceph_direct, proxy):
    """The server would have it; its ETag tells."""
    content = marked(MIN_PART_BYTES + 1)
    ceph_direct.storage = ceph_direct.opened(endpoint=proxy.url)
    staged = ceph_direct.staged(len(content))
    with pytest.raises(StorageUnavailable, match="damaged"):
        ceph_direct.put_part(staged, content, 0)
    assert proxy.damaged == 1
    proxy.heal()
    for index in (0, 1):
        ceph_direct.put_part(staged, content, index)
    require_published(ceph_direct, staged, content)


@pytest.mark.parametrize("size", [1000, MIN_PART_BYTES + 1], ids=["one request", "parts"])
def test_a_transfer_that_was_damaged_on_its_way_publishes_nothing(ceph_transferred, proxy, size):
    content = marked(size)
    staged = ceph_transferred.filled(content)
    ceph_transferred.storage = ceph_transferred.opened(endpoint=proxy.url)
    with pytest.raises(StorageUnavailable, match="damaged"):
        ceph_transferred.publish(staged)
    assert proxy.damaged > 0
    with pytest.raises(FileNotFoundError):
        ceph_transferred.read(staged.target_key)
    proxy.heal()
    require_published(ceph_transferred, staged, content)


@pytest.mark.parametrize("trouble", ["frozen", "away"])
@pytest.mark.parametrize("amid", ["sending", "the answer"])
def test_a_part_fails_for_now_if_the_server_stalls_or_dies_amid_it(
    ceph_direct, monkeypatch, trouble, amid
):
    """Before anything is acknowledged; and within the client's patience, which is made short."""
    monkeypatch.setattr(s3_client, "CONNECT_SECONDS", 1)  # sending a piece may take as long
    monkeypatch.setattr(s3_client, "READ_SECONDS", 2)
    server = ceph_direct.server
    # More than all buffers on the way hold, so that sending stalls.
    content = random.randbytes(64 * MIB if amid == "sending" else MIN_PART_BYTES)
    ceph_direct.part_bytes = len(content)
    staged = ceph_direct.staged(len(content))
    view = memoryview(content)
    halfway = len(content) // 2 if amid == "sending" else len(content)
    with ceph_direct.storage.writer(staged, 0, 0, len(content)) as writer:
        writer.write(view[:halfway])
        with getattr(server, trouble)(), pytest.raises(StorageUnavailable, match="does not answer"):
            if amid == "sending":
                writer.write(view[halfway:])
            writer.commit(durable=True)
    ceph_direct.put(staged, content)
    require_published(ceph_direct, staged, content)


def test_progress_tells_bytes_that_were_sent(ceph_transferred, ceph, monkeypatch):
    monkeypatch.setattr(s3_transfer, "THREADS", 1)
    content, held_bytes = random.randbytes(8 * MIN_PART_BYTES), 2 * MIN_PART_BYTES + MIB
    staged, told = ceph_transferred.filled(content), []
    moving = threading.Event()

    def note(done, total):
        told.append((done, total))
        if done >= held_bytes - MIB:
            moving.set()

    with Network(ceph.port) as network, ThreadPoolExecutor(1) as pool:
        storage = ceph_transferred.opened(endpoint=network.url)
        network.hold_after(held_bytes)
        publishing = pool.submit(
            ceph_transferred.publish, staged, storage=storage, on_progress=note
        )
        network.wait()
        assert moving.is_set()
        # A part whose bytes have all been given to the network waits for its answer.
        assert told[-1][0] <= 3 * MIN_PART_BYTES
        network.release()
        assert publishing.result() == staged.target_key
    assert told == sorted(told)
    assert told[-1] == (len(content), len(content))
    assert len(told) > 8
    require_published(ceph_transferred, staged, content)


@pytest.mark.parametrize(
    ("way", "size"),
    [("direct", MIN_PART_BYTES + 1), ("transferred", 1000), ("transferred", MIN_PART_BYTES + 1)],
)
def test_the_content_type_is_kept(request, way, size):
    backend = request.getfixturevalue(f"ceph_{way}")
    content = random.randbytes(size)
    staged = replace(backend.unstaged(size), content_type="video/mp4")
    staged = replace(staged, staging_key=backend.storage.create(staged))
    if way == "direct":
        for index in (0, 1):
            backend.put_part(staged, content, index)
    else:
        backend.put(staged, content)
    backend.publish(staged)
    head = backend.client.head_object(Bucket=backend.bucket, Key=staged.target_key)
    assert head["ContentType"] == "video/mp4"
    require_published(backend, staged, content)


def test_an_old_upload_that_still_gets_parts_is_no_orphan(direct):
    content = random.randbytes(MIN_PART_BYTES + 1)
    staged = direct.staged(len(content))
    begun_at = direct.storage.stat(staged.staging_key).modified_at_seconds
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        direct.put_part(staged, content, 1)
        latest = direct.storage.stat(staged.staging_key).modified_at_seconds
        if latest > begun_at:
            break
        assert time.monotonic() < give_up_at, "the server's clock stands still"
    assert list(direct.storage.orphans(latest)) == []
    [orphan] = direct.storage.orphans(latest + 1)
    assert (orphan.upload_id, orphan.modified_at_seconds) == (staged.upload_id, latest)
    direct.storage.discard(
        StagedObject(orphan.upload_id, None, "", orphan.root_id, orphan.staging_key)
    )
