"""Local disk: bytes that come from a pipe, inside the kernel or not."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator

import pytest

from app.errors import StorageFull, StorageUnavailable
from app.ingest.pipes import PIPE_BYTES, Pipe
from app.storage import local_files
from app.storage.local_files import LocalWriter

pytestmark = pytest.mark.skipif(not hasattr(os, "splice"), reason="Linux only: splice(2)")

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def put(writer: LocalWriter, pipe: Pipe, data: bytes) -> None:
    """Write ``data`` as it comes through a pipe."""
    for at in range(0, len(data), PIPE_BYTES):
        count = os.write(pipe.writer, data[at : at + PIPE_BYTES])
        writer.write_from(pipe.reader, count)


@pytest.mark.parametrize("durable", [False, True])
def test_bytes_from_a_pipe_and_from_memory_follow_each_other(local, pipe, durable):
    data = random.randbytes(3 * MIB + 5)
    staged = local.staged(len(data) + 10)
    with local.storage.writer(staged, 0, 10, len(data)) as writer:
        writer.write(memoryview(data)[:MIB])
        put(writer, pipe, data[MIB : 3 * MIB])
        writer.write(memoryview(data)[3 * MIB :])
        assert writer.splices
        writer.commit(durable=durable)
    assert (local.root / staged.staging_key).read_bytes() == bytes(10) + data
    local.storage.discard(staged)


@pytest.mark.parametrize("reason", ["EINVAL", "ENOSYS"])
@pytest.mark.parametrize("moved", [0, 1])
def test_where_the_kernel_cannot_bytes_come_into_memory_and_none_is_lost(
    local, pipe, monkeypatch, reason, moved
):
    """Some network file systems, and sandboxes that know less than Linux does."""
    real, calls = os.splice, []

    def refusing(*arguments: int, **options: int) -> int:
        calls.append(arguments)
        if len(calls) <= moved:
            return real(*arguments, **options)
        raise OSError(getattr(errno, reason), "no")

    monkeypatch.setattr(local_files, "_splice", refusing)
    data = random.randbytes(2 * MIB + 5)
    staged = local.staged(len(data))
    with local.storage.writer(staged, 0, 0, len(data)) as writer:
        put(writer, pipe, data)
        assert not writer.splices
        writer.commit(durable=True)
    assert len(calls) == moved + 1
    assert (local.root / staged.staging_key).read_bytes() == data
    local.storage.discard(staged)


def test_a_python_without_splice_does_without(local, pipe, monkeypatch):
    monkeypatch.setattr(local_files, "_splice", None)
    staged = local.staged(3)
    with local.storage.writer(staged, 0, 0, 3) as writer:
        assert not writer.splices
        put(writer, pipe, b"abc")
        writer.commit(durable=True)
    assert (local.root / staged.staging_key).read_bytes() == b"abc"
    local.storage.discard(staged)


def test_a_full_disk_is_told(tmp_path, mounts, local_backend, pipe):
    mounts.tmpfs(tmp_path / "uploads", size_kib=1024)
    small = local_backend(tmp_path)
    staged = small.staged(10 * MIB)
    with small.storage.writer(staged, 0, 0, 2 * MIB) as writer, pytest.raises(StorageFull):
        put(writer, pipe, bytes(2 * MIB))
    small.storage.discard(staged)
    assert small.leftovers() == []


def test_a_broken_disk_is_told(local, pipe, monkeypatch):
    def broken(*_: int, **__: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(local_files, "_splice", broken)
    staged = local.staged(3)
    with (
        local.storage.writer(staged, 0, 0, 3) as writer,
        pytest.raises(StorageUnavailable, match="reports errors") as raised,
    ):
        put(writer, pipe, b"abc")
    assert staged.staging_key in str(raised.value.__cause__)
    local.storage.discard(staged)
