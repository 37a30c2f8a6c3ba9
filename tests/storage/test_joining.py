"""The contract of joining: staged objects become one, by the backend's own way or any's."""

from __future__ import annotations

import errno
import os
import random
from dataclasses import replace

import pytest

from app.errors import LeaseLost, PartsLost, StorageFull, WrongRoot
from app.storage import local_copies
from app.storage.base import Storage

# The direct way into a bucket has nothing to join: its parts cannot be read back.
pytestmark = pytest.mark.usefixtures("random_writes", "readable")


@pytest.fixture(params=["own", "general"])
def join(request, backend):
    """Join as the backend does, and as any storage can that reads what it has staged."""

    def joined(target, sources, on_progress=lambda done, total: None, storage=backend.storage):
        if request.param == "own":
            storage.join(target, sources, on_progress)
        else:
            Storage.join(storage, target, sources, on_progress)

    return joined


def contents(*lengths):
    return [random.randbytes(length) for length in lengths]


def discard(backend, *staged):
    for one in staged:
        backend.storage.discard(one)


def test_objects_are_joined_in_order_and_stay_as_they_are(backend, join):
    first, second = contents(backend.part_bytes, 3 * 1024 * 1024 + 1)
    sources = [backend.filled(first), backend.filled(second), backend.filled(b"")]
    one, two, empty = sources
    whole = first + second + first
    target = backend.staged(len(whole))
    join(target, [one, empty, two, one])
    assert [backend.read(source.staging_key) for source in sources] == [first, second, b""]
    assert backend.read(target.staging_key) == whole
    assert backend.read(backend.publish(target, {})) == whole
    backend.storage.delete(target.target_key)
    discard(backend, *sources)


def test_nothing_joined_is_an_empty_object(backend, join):
    target, empty = backend.staged(0), backend.filled(b"")
    join(target, [])
    join(target, [empty])
    assert backend.read(backend.publish(target, {})) == b""
    backend.storage.delete(target.target_key)
    discard(backend, empty)


def test_another_process_begins_anew(backend, join):
    first, second = contents(1000, 2000)
    one, two = backend.filled(first), backend.filled(second)
    target = backend.filled(random.randbytes(3000))  # what one that was killed has left
    join(target, [one, two], storage=backend.opened())
    assert backend.read(target.staging_key) == first + second
    join(target, [two, one])
    assert backend.read(target.staging_key) == second + first
    discard(backend, one, two, target)


def test_only_the_length_of_a_source_counts(backend, join):
    one = replace(backend.filled(b"bytes, and what nobody acknowledged"), length=5)
    two = backend.filled(b"two")
    target = backend.staged(8)
    join(target, [one, two])
    assert backend.read(target.staging_key) == b"bytestwo"
    discard(backend, one, two, target)


def test_progress_grows_to_the_total_and_may_stop_it(backend, join):
    (content,) = contents(2 * 1024 * 1024)
    source = backend.filled(content)
    target = backend.staged(2 * len(content))
    told = []
    join(target, [source, source], lambda *progress: told.append(progress))
    assert told == sorted(told)
    assert told[-1] == (2 * len(content), 2 * len(content))
    assert len(told) >= 2

    def stop(done, total):
        raise LeaseLost

    with pytest.raises(LeaseLost):
        join(target, [source, source], stop)
    join(target, [source, source])
    assert backend.read(target.staging_key) == 2 * content
    discard(backend, source, target)


@pytest.mark.parametrize("place", [0, 1])
def test_a_source_that_has_vanished_is_noticed(backend, join, place):
    sources = [backend.filled(b"one"), backend.filled(b"two")]
    target = backend.staged(6)
    backend.opened().discard(sources[place])
    with pytest.raises(PartsLost):
        join(target, sources)
    discard(backend, sources[1 - place], target)


def test_a_source_that_was_never_staged_is_noticed(backend, join):
    source, target = backend.unstaged(3), backend.staged(3)
    with pytest.raises(PartsLost):
        join(target, [source])
    discard(backend, target)


def test_a_source_that_is_too_short_is_noticed(backend, join):
    source = backend.staged(None)
    backend.put(source, b"sho")
    target = backend.staged(8)
    for length in (4, 5):
        with pytest.raises(PartsLost):
            join(target, [replace(source, length=length)] * 2)
    discard(backend, source, target)


def test_a_target_that_has_vanished_is_never_made(backend, join):
    source, target = backend.filled(b"one"), backend.staged(3)
    backend.opened().discard(target)
    with pytest.raises(PartsLost):
        join(target, [source])
    discard(backend, source)


def test_nothing_is_joined_into_an_object_of_another_root(backend, join):
    source, target = backend.filled(b"one"), backend.staged(3)
    foreign = replace(target, root_id=backend.elsewhere().root_id)
    with pytest.raises(WrongRoot):
        join(foreign, [source])
    assert backend.read(target.staging_key) == bytes(3)
    discard(backend, source, target)


# Local disk


@pytest.mark.parametrize(
    "error", [errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, None]
)
@pytest.mark.parametrize("succeeds_before", [0, 1])
def test_bytes_go_through_memory_where_the_kernel_does_not_copy(
    local, monkeypatch, error, succeeds_before
):
    """``error`` None: it says that it has copied nothing, as some file systems do."""
    calls = []

    def refusing(source, target, count, at, to):
        calls.append(count)
        if len(calls) <= succeeds_before:
            return os.copy_file_range(source, target, min(count, 1000), at, to)
        if error is None:
            return 0
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(local_copies, "_COPY", refusing)
    first, second = contents(3 * 1024 * 1024 + 1, 2000)
    one, two = local.filled(first), local.filled(second)
    target = local.staged(len(first) + len(second))
    local.storage.join(target, [one, two], lambda done, total: None)
    assert local.read(target.staging_key) == first + second
    assert calls
    discard(local, one, two, target)


def test_a_full_disk_is_no_reason_to_try_it_through_memory(local, monkeypatch):
    def full(source, target, count, at, to):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(local_copies, "_COPY", full)
    source, target = local.filled(b"one"), local.staged(3)
    with pytest.raises(StorageFull):
        local.storage.join(target, [source], lambda done, total: None)
    discard(local, source, target)


def test_a_staged_bucket_upload_is_joined_by_its_disk(transferred, monkeypatch):
    """Which moves no bytes through this process where it can share blocks."""
    monkeypatch.setattr(Storage, "join", None)
    source = transferred.filled(b"one")
    target = transferred.staged(6)
    transferred.storage.join(target, [source, source], lambda done, total: None)
    assert transferred.read(target.staging_key) == b"oneone"
    discard(transferred, source, target)
