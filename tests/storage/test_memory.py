"""The storage in memory: what tests of other code make it do."""

from __future__ import annotations

import pytest

from app.errors import StorageFull, StorageUnavailable
from app.storage.base import StagedObject
from app.storage.memory import MemoryStorage

KIB = 1024


def staged_in(storage, upload_id="u", length=100 * KIB):
    staged = StagedObject(upload_id, length, f"files/{upload_id}_x", storage.root_id)
    storage.create(staged)
    return staged


def put(storage, staged, data, offset=0):
    with storage.writer(staged, 0, offset, len(data)) as writer:
        writer.write(memoryview(data))
        writer.commit(durable=True)


def test_it_wants_its_writers_called_in_greenlets():
    assert not MemoryStorage.capabilities.native_thread_writes


def test_it_is_full_when_its_capacity_is_used_up_and_no_more_when_there_is_room():
    storage = MemoryStorage(capacity_bytes=16 * KIB)
    staged = staged_in(storage)
    put(storage, staged, bytes(12 * KIB))
    assert storage.check() == 4 * KIB
    with pytest.raises(StorageFull):
        put(storage, staged, bytes(8 * KIB), offset=12 * KIB)
    put(storage, staged, bytes(12 * KIB))
    storage.discard(staged)
    assert storage.check() == 16 * KIB


def test_holes_are_not_counted_against_the_capacity():
    storage = MemoryStorage(capacity_bytes=4 * KIB)
    staged = staged_in(storage, length=1 << 40)
    put(storage, staged, b"x", offset=(1 << 40) - 1)
    assert storage.check() == 0


def test_while_it_is_out_of_reach_nothing_works_and_nothing_is_lost():
    storage = MemoryStorage()
    staged = staged_in(storage, length=1)
    writer = storage.writer(staged, 0, 0, 1)
    storage.available = False
    assert not storage.sibling("another-instance").available
    for act in (
        lambda: storage.create(staged),
        lambda: storage.writer(staged, 0, 0, 1),
        lambda: writer.write(memoryview(b"x")),
        lambda: storage.publish(staged, {}, lambda *_: None),
        lambda: storage.discard(staged),
        lambda: storage.open("files/u_x"),
        lambda: storage.stat("files/u_x"),
        lambda: storage.delete("files/u_x"),
        lambda: storage.check(),
        lambda: storage.orphans(2**40),
    ):
        with pytest.raises(StorageUnavailable):
            act()
    storage.available = True
    writer.write(memoryview(b"x"))
    writer.commit(durable=True)
    assert storage.publish(staged, {}, lambda *_: None) == "files/u_x"
    assert storage.stored_keys() == ["files/u_x"]


def test_a_reader_has_no_descriptor():
    storage = MemoryStorage()
    storage.publish(staged_in(storage, length=0), {}, lambda *_: None)
    with storage.open("files/u_x") as file, pytest.raises(OSError, match="fileno"):
        file.fileno()
