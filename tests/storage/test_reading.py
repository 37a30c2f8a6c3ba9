"""The contract of reading, deleting and describing objects, and of a storage's health."""

from __future__ import annotations

import os
import random
import time
from dataclasses import replace

import pytest

from app.storage.base import StagedObject

HOUR_SECONDS = 3600


@pytest.fixture
def published(backend):
    """A final object of 10,000 random bytes: (key, content); deleted afterwards."""
    content = random.randbytes(10_000)
    key = backend.publish(backend.filled(content))
    yield key, content
    backend.storage.delete(key)


def test_ranges_of_a_final_object_are_read_by_seeking(backend, published):
    key, content = published
    with backend.storage.open(key) as file:
        assert file.seekable()
        for start, size in [(0, 1), (5000, 100), (9_999, 1), (9_990, 100), (10_000, 5), (3, 9_000)]:
            file.seek(start)
            assert file.read(size) == content[start : start + size]
        assert file.seek(-10, os.SEEK_END) == 9_990
        assert file.read() == content[-10:]
        assert file.tell() == 10_000


def test_a_large_buffer_is_filled_in_place(backend, published):
    key, content = published
    buffer = bytearray(20_000)
    with backend.storage.open(key) as file:
        assert file.readinto(buffer) == 10_000
    assert buffer[:10_000] == content


def test_an_object_that_still_grows_can_be_read_on(backend, readable):
    staged = backend.staged(None)
    backend.put(staged, b"first")
    with backend.storage.open(staged.staging_key) as file:
        assert file.read() == b"first"
        assert file.read() == b""
        backend.put(staged, b" second", offset=5)
        assert file.read() == b" second"
    backend.storage.discard(staged)


def test_a_reader_outlives_publishing_and_deletion(backend, readable):
    content = random.randbytes(100_000)
    staged = backend.filled(content)
    with backend.storage.open(staged.staging_key) as file:
        assert file.read(10) == content[:10]
        backend.publish(staged)
        backend.storage.delete(staged.target_key)
        assert file.read() == content[10:]


def test_what_is_not_there_is_not_found(backend):
    unstaged = backend.unstaged(1)
    staging_key = backend.storage.create(unstaged)
    backend.storage.discard(unstaged)
    for key in (unstaged.target_key, staging_key, "no/such/folder/file", "file"):
        with pytest.raises(FileNotFoundError):
            backend.storage.open(key)
        with pytest.raises(FileNotFoundError):
            backend.storage.stat(key)


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", ".staging/root-id", ".staging/a/b"])
def test_keys_that_are_none_are_refused(backend, key):
    with pytest.raises(ValueError, match="key"):
        backend.storage.open(key)
    with pytest.raises(ValueError, match="key"):
        backend.storage.stat(key)
    with pytest.raises(ValueError, match="not a final key"):
        backend.storage.delete(key)


def test_deleting_twice_or_what_never_was_is_harmless(backend):
    key = backend.publish(backend.filled(b"x"))
    backend.storage.delete(key)
    backend.storage.delete(key)
    backend.storage.delete("no/such/folder/file")


def test_deleting_takes_no_neighbours(backend):
    first, second = backend.filled(b"1", "a/1"), backend.filled(b"2", "a/2")
    backend.publish(first)
    backend.publish(second)
    backend.storage.delete(first.target_key)
    assert backend.leftovers() == [second.target_key]
    backend.storage.delete(second.target_key)


def test_an_object_tells_its_size_and_when_it_was_changed(backend, published):
    key, content = published
    found = backend.storage.stat(key)
    assert found.size_bytes == len(content)
    # Clocks of files are coarser than the system's, and shares have their own.
    assert abs(found.modified_at_seconds - time.time()) < HOUR_SECONDS


def test_the_location_shows_where_the_file_is(backend):
    key = "videos/2024/0b7c_grüße aus köln.mp4"
    assert backend.storage.location(key) == backend.expected_location(key)


def test_a_healthy_storage_tells_its_free_bytes_and_keeps_nothing(backend):
    free = backend.storage.check()
    assert free is None or free > 0
    assert backend.leftovers() == []


def test_orphans_are_the_staged_objects_that_nobody_has_changed_lately(backend):
    old, young = backend.staged(10), backend.staged(10)
    changed = backend.storage.stat(old.staging_key).modified_at_seconds
    # Until the clock of the storage has moved on, however coarse it is.
    while backend.storage.stat(young.staging_key).modified_at_seconds <= changed:
        backend.put(young, b"still alive")
    limit = backend.storage.stat(young.staging_key).modified_at_seconds
    found = list(backend.opened().orphans(limit))
    assert [orphan.upload_id for orphan in found] == [old.upload_id]
    # A bucket does not tell how its parts were summed, which the key ends with.
    assert old.staging_key.partition("&checksum=")[0] == found[0].staging_key
    assert found[0].modified_at_seconds == changed
    for staged in (old, young):
        backend.storage.discard(staged)


def test_an_orphan_can_be_discarded_by_what_is_known_of_it(backend):
    backend.storage.create(backend.unstaged(10))
    for orphan in backend.storage.orphans(time.time() + HOUR_SECONDS):
        known = StagedObject(orphan.upload_id, None, "", orphan.root_id, orphan.staging_key)
        backend.storage.discard(known)
    assert backend.leftovers() == []


def test_orphans_are_never_those_of_another_instance_nor_final_objects(backend):
    neighbour = backend.opened("another-instance")
    theirs = backend.unstaged(10)
    theirs = replace(theirs, staging_key=neighbour.create(theirs))
    key = backend.publish(backend.filled(b"x", "looks/like.partial"))
    assert list(backend.storage.orphans(time.time() + HOUR_SECONDS)) == []
    assert [orphan.upload_id for orphan in neighbour.orphans(time.time() + HOUR_SECONDS)] == [
        theirs.upload_id
    ]
    neighbour.discard(theirs)
    backend.storage.delete(key)
