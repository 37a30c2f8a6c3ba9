"""The contract of staged objects: created once, written in any order by anybody, discarded."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.domain.parts import Geometry
from app.errors import PartsLost, WrongRoot

TIB = 1 << 40

#: As a fast client's parts arrive: more at once than there are processors.
WRITERS = 8


def test_a_created_object_has_its_full_length_and_holds_zeros(backend, readable):
    staged = backend.staged(10_000)
    assert backend.storage.stat(staged.staging_key).size_bytes == 10_000
    assert backend.read(staged.staging_key) == bytes(10_000)
    backend.storage.discard(staged)


def test_creating_again_returns_the_same_key_and_keeps_the_bytes(backend, readable):
    content = random.randbytes(5000)
    staged = backend.filled(content)
    assert backend.storage.create(staged) == staged.staging_key
    assert backend.opened().create(replace(staged, staging_key=None)) == staged.staging_key
    assert backend.read(staged.staging_key) == content
    backend.storage.discard(staged)


def test_creating_again_never_shortens(backend, readable):
    content = random.randbytes(5000)
    staged = backend.filled(content)
    backend.storage.create(replace(staged, length=10))
    assert backend.read(staged.staging_key) == content
    backend.storage.discard(staged)


def test_creating_again_with_a_length_that_has_become_known_lengthens(backend, readable):
    staged = backend.staged(None)
    backend.put(staged, b"begun")
    backend.storage.create(replace(staged, length=8))
    assert backend.read(staged.staging_key) == b"begun\0\0\0"
    backend.storage.discard(staged)


def test_a_tebibyte_is_created_and_written_at_its_end(backend, random_writes, readable):
    staged = backend.staged(TIB)
    backend.put(staged, b"the end", index=20_971, offset=TIB - 7)
    assert backend.storage.stat(staged.staging_key).size_bytes == TIB
    with backend.storage.open(staged.staging_key) as file:
        file.seek(TIB - 9)
        assert file.read() == b"\0\0the end"
    backend.storage.discard(staged)


def test_an_object_of_unknown_length_grows_as_it_is_written(backend, random_writes, readable):
    staged = backend.staged(None)
    assert backend.storage.stat(staged.staging_key).size_bytes == 0
    with backend.storage.writer(staged, 0, 0, None) as writer:
        writer.write(memoryview(b"first "))
        writer.write(memoryview(b"second "))
        writer.commit(durable=True)
    backend.put(staged, b"third", offset=13)
    assert backend.read(staged.staging_key) == b"first second third"
    backend.storage.discard(staged)


@pytest.mark.parametrize("seed", range(3))
def test_parts_arrive_in_any_order(backend, seed):
    content = random.Random(seed).randbytes(5 * backend.part_bytes + 17)
    staged = backend.staged(len(content))
    order = random.Random(seed).sample(range(6), 6)
    receipts = {index: backend.put_part(staged, content, index) for index in order}
    key = backend.publish(staged, receipts)
    assert backend.read(key) == content
    backend.storage.delete(key)


def test_parts_are_written_by_many_threads_at_once(backend):
    content = random.randbytes(31 * backend.part_bytes + 5)
    staged = backend.staged(len(content))
    indexes = random.sample(range(32), 32)
    with ThreadPoolExecutor(WRITERS) as pool:
        puts = pool.map(lambda index: (index, backend.put_part(staged, content, index)), indexes)
        receipts = dict(puts)
    key = backend.publish(staged, receipts)
    assert backend.read(key) == content
    backend.storage.delete(key)


def test_parts_written_by_several_instances_meet_in_one_object(backend):
    content = random.randbytes(4 * backend.part_bytes)
    staged = backend.staged(len(content))
    geometry = Geometry.of(len(content), backend.part_bytes)
    receipts = {}
    for index in (2, 0, 3, 1):
        span = geometry.span(index)
        data = content[span.offset : span.offset + span.length]
        with backend.opened().writer(staged, index, span.offset, span.length) as writer:
            writer.write(memoryview(data))
            receipts[index] = writer.commit(durable=False)
    key = backend.publish(staged, receipts)
    assert backend.read(key) == content
    backend.storage.delete(key)


def test_a_part_may_come_in_buffers_of_any_size_that_the_caller_uses_again(backend):
    content = random.randbytes(64 * 1024 + 1)
    staged = backend.staged(len(content))
    buffer = memoryview(bytearray(10_000))
    rest = content
    with backend.storage.writer(staged, 0, 0, len(content)) as writer:
        for size in (0, 1, 4095, 4096, 4097, 10_000, *[9_999] * 5):
            piece, rest = rest[:size], rest[size:]
            buffer[: len(piece)] = piece
            writer.write(buffer[: len(piece)])
            buffer[:] = bytes(len(buffer))
        assert rest == b""
        receipt = writer.commit(durable=True)
    key = backend.publish(staged, {0: receipt})
    assert backend.read(key) == content
    backend.storage.delete(key)


def test_a_part_that_is_sent_again_replaces_the_first(backend):
    first, second = random.randbytes(backend.part_bytes), random.randbytes(backend.part_bytes)
    staged = backend.filled(first)
    receipt = backend.put(staged, second)
    key = backend.publish(staged, {0: receipt})
    assert backend.read(key) == second
    backend.storage.delete(key)


def test_a_part_given_up_halfway_can_be_sent_again(backend, sent_again_at_once):
    content = random.randbytes(2 * backend.part_bytes)
    staged = backend.staged(len(content))
    receipts = {1: backend.put_part(staged, content, 1)}
    writer = backend.storage.writer(staged, 0, 0, backend.part_bytes)
    writer.write(memoryview(b"rubbish"))
    writer.abort()
    writer.abort()
    receipts[0] = backend.put_part(staged, content, 0)
    key = backend.publish(staged, receipts)
    assert backend.read(key) == content
    backend.storage.delete(key)


def test_leaving_a_writer_without_commit_gives_the_part_up(backend):
    staged = backend.staged(backend.part_bytes)
    with backend.storage.writer(staged, 0, 0, backend.part_bytes) as writer:
        writer.write(memoryview(b"half"))
    with pytest.raises(ValueError, match="finished"):
        writer.commit(durable=True)
    backend.storage.discard(staged)


def test_an_exception_in_the_middle_of_a_part_gives_it_up_and_comes_out(backend):
    staged = backend.staged(backend.part_bytes)
    with (
        pytest.raises(ConnectionResetError),
        backend.storage.writer(staged, 0, 0, backend.part_bytes) as writer,
    ):
        raise ConnectionResetError
    with pytest.raises(ValueError, match="finished"):
        writer.write(memoryview(b"late"))
    backend.storage.discard(staged)


def test_a_committed_part_cannot_be_written_or_committed_again(backend):
    content = random.randbytes(backend.part_bytes)
    staged = backend.staged(len(content))
    with backend.storage.writer(staged, 0, 0, len(content)) as writer:
        writer.write(memoryview(content))
        receipt = writer.commit(durable=True)
        with pytest.raises(ValueError, match="finished"):
            writer.write(memoryview(b"more"))
        with pytest.raises(ValueError, match="finished"):
            writer.commit(durable=True)
    key = backend.publish(staged, {0: receipt})
    assert backend.read(key) == content
    backend.storage.delete(key)


def test_a_writer_never_creates_the_object(backend):
    unstaged = backend.unstaged(100)
    with pytest.raises(PartsLost):
        backend.storage.writer(unstaged, 0, 0, 100)
    assert backend.leftovers() == []


def test_a_writer_of_an_object_that_has_vanished_is_refused(backend):
    staged = backend.filled(b"precious")
    backend.opened().discard(staged)
    with pytest.raises(PartsLost):
        backend.put(staged, b"precious")


def test_a_part_is_not_committed_if_its_object_vanished_meanwhile(backend):
    staged = backend.staged(backend.part_bytes)
    with backend.storage.writer(staged, 0, 0, backend.part_bytes) as writer:
        writer.write(memoryview(bytes(backend.part_bytes)))
        backend.opened().discard(staged)
        with pytest.raises(backend.vanished_meanwhile):
            writer.commit(durable=True)
    with pytest.raises(PartsLost):  # small: a server that hangs up at once cuts nothing off
        backend.put(staged, b"precious")


def test_nothing_is_done_for_an_upload_of_another_root(backend):
    staged = backend.filled(b"here")
    foreign = replace(staged, root_id=backend.elsewhere().root_id)
    with pytest.raises(WrongRoot):
        backend.storage.create(foreign)
    with pytest.raises(WrongRoot):
        backend.storage.writer(foreign, 0, 0, 4)
    with pytest.raises(WrongRoot):
        backend.publish(foreign)
    with pytest.raises(WrongRoot):
        backend.storage.discard(foreign)
    assert backend.read(backend.publish(staged)) == b"here"
    backend.storage.delete(staged.target_key)


def test_a_root_keeps_its_id_and_no_two_have_the_same(backend):
    assert backend.opened().root_id == backend.storage.root_id
    assert backend.elsewhere().root_id != backend.storage.root_id


def test_instances_on_one_root_have_objects_of_their_own(backend):
    staged = backend.filled(b"mine")
    neighbour = backend.opened("another-instance")
    theirs = replace(staged, staging_key=None, target_key=f"theirs/{staged.upload_id}_x")
    theirs = replace(theirs, staging_key=neighbour.create(theirs))
    assert theirs.staging_key != staged.staging_key
    neighbour.discard(theirs)
    assert backend.read(backend.publish(staged)) == b"mine"
    backend.storage.delete(staged.target_key)


def test_discarding_twice_or_what_never_was_is_harmless(backend):
    staged = backend.filled(b"unwanted")
    backend.storage.discard(staged)
    backend.storage.discard(staged)
    backend.storage.discard(backend.unstaged(5))


def test_discarding_finds_the_object_of_a_row_that_never_learned_its_key(backend):
    staged = backend.staged(10)
    backend.storage.discard(replace(staged, staging_key=None))
    assert backend.leftovers() == []


@pytest.mark.parametrize(
    "key",
    [
        "files/a",
        ".staging/root-id",
        ".staging/x",
        ".staging/../secret.partial",
        ".staging/x/../../secret.partial",
        ".staging/x/y/z.partial",
        "/etc/passwd",
    ],
)
def test_a_staging_key_that_is_none_is_refused(backend, key):
    staged = replace(backend.unstaged(5), staging_key=key)
    for act in (
        lambda: backend.storage.writer(staged, 0, 0, 5),
        lambda: backend.storage.discard(staged),
        lambda: backend.publish(staged),
    ):
        with pytest.raises(ValueError, match="not a staging key"):
            act()


@pytest.mark.parametrize("upload_id", ["", ".", "..", "a/b", "a\0b", "a" * 65, "ä", "a.b"])
def test_an_upload_id_that_means_something_to_a_path_is_refused(backend, upload_id):
    staged = replace(backend.unstaged(5), upload_id=upload_id)
    with pytest.raises(ValueError, match="not an id"):
        backend.storage.create(staged)
