"""The contract of publishing: whole, once, atomic, and the same again after a crash."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.errors import PartsLost, TargetExists

PUBLISHERS = 8


def outcome(act):
    """Return what ``act`` returned, or the class of what it raised."""
    try:
        return act()
    except (PartsLost, TargetExists) as error:
        return type(error)


def test_publishing_turns_the_staged_object_into_the_final_one(backend):
    content = random.randbytes(backend.part_bytes)
    staged = backend.filled(content)
    assert backend.publish(staged) == staged.target_key
    assert backend.leftovers() == [staged.target_key]
    assert backend.read(staged.target_key) == content
    backend.storage.delete(staged.target_key)


def test_publishing_again_changes_nothing(backend):
    staged = backend.filled(b"once")
    for storage in (backend.storage, backend.storage, backend.opened()):
        assert backend.publish(staged, storage=storage) == staged.target_key
    assert backend.read(staged.target_key) == b"once"
    assert backend.leftovers() == [staged.target_key]
    backend.storage.delete(staged.target_key)


def test_progress_is_told_and_ends_at_the_length(backend):
    staged = backend.filled(b"12345")
    told = []
    backend.publish(staged, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)
    assert told == sorted(told)
    assert {total for _, total in told} == {5}
    backend.storage.delete(staged.target_key)


def test_an_empty_upload_becomes_an_empty_file(backend):
    staged = backend.staged(0)
    key = backend.publish(staged, {})
    assert backend.read(key) == b""
    assert backend.storage.stat(key).size_bytes == 0
    backend.storage.delete(key)


def test_an_upload_of_unknown_length_is_published_once_the_length_is_known(backend):
    staged = backend.staged(None)
    backend.put(staged, b"all there is")
    key = backend.publish(replace(staged, length=12))
    assert backend.read(key) == b"all there is"
    backend.storage.delete(key)


def test_an_upload_of_unknown_length_cannot_be_published(backend):
    staged = backend.staged(None)
    with pytest.raises(ValueError, match="unknown length"):
        backend.publish(staged)
    backend.storage.discard(staged)


def test_bytes_that_nobody_acknowledged_are_not_published(backend):
    staged = backend.staged(None)
    backend.put(staged, b"acknowledged, and what a killed request wrote after it")
    key = backend.publish(replace(staged, length=12))
    assert backend.read(key) == b"acknowledged"
    backend.storage.delete(key)


def test_an_object_that_is_too_short_has_lost_parts(backend):
    staged = backend.staged(None)
    backend.put(staged, b"short")
    with pytest.raises(PartsLost):
        backend.publish(replace(staged, length=100))
    with pytest.raises(FileNotFoundError):
        backend.storage.open(staged.target_key)
    backend.storage.discard(staged)


def test_an_object_that_has_vanished_has_lost_parts(backend):
    staged = backend.filled(b"precious")
    backend.storage.discard(staged)
    with pytest.raises(PartsLost):
        backend.publish(staged)


def test_a_final_object_of_another_length_is_not_taken_for_the_published_one(backend):
    staged = backend.filled(b"12345")
    backend.publish(staged)
    with pytest.raises(PartsLost):
        backend.publish(replace(staged, length=6))
    backend.storage.delete(staged.target_key)


def test_a_final_name_that_is_taken_is_never_overwritten(backend):
    first = backend.filled(b"first")
    backend.publish(first)
    second = backend.filled(b"other", key=first.target_key)
    with pytest.raises(TargetExists):
        backend.publish(second)
    assert backend.read(first.target_key) == b"first"
    backend.storage.delete(first.target_key)
    assert backend.read(backend.publish(second)) == b"other"
    backend.storage.delete(second.target_key)


def test_several_publishers_of_one_upload_all_succeed(backend):
    staged = backend.filled(random.randbytes(backend.part_bytes))
    start = threading.Barrier(backend.publishers)

    def publish(storage):
        start.wait()
        return backend.publish(staged, storage=storage)

    storages = [backend.opened() for _ in range(backend.publishers)]
    with ThreadPoolExecutor(backend.publishers) as pool:
        assert set(pool.map(publish, storages)) == {staged.target_key}
    assert backend.leftovers() == [staged.target_key]
    backend.storage.delete(staged.target_key)


def test_of_several_uploads_with_one_final_name_exactly_one_gets_it(backend):
    contents = [bytes([number]) * 1000 for number in range(PUBLISHERS)]
    uploads = [backend.filled(content, key="files/wanted") for content in contents]
    storages = [backend.opened() for _ in range(PUBLISHERS)]
    start = threading.Barrier(PUBLISHERS)

    def publish(upload, storage):
        start.wait()
        return outcome(lambda: backend.publish(upload, storage=storage))

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        outcomes = list(pool.map(publish, uploads, storages))
    winners = [
        content for content, got in zip(contents, outcomes, strict=True) if got == "files/wanted"
    ]
    assert outcomes.count(TargetExists) == PUBLISHERS - len(winners)
    assert backend.read("files/wanted") in winners
    # Where a server cannot be asked to complete an upload only if nothing is there, one
    # that looked before another was done replaces it. Final names carry the upload's id.
    assert len(winners) == 1 or backend.may_replace
    backend.storage.delete("files/wanted")
    for upload in uploads:
        backend.storage.discard(upload)


def test_nobody_ever_sees_half_a_file_under_the_final_name(backend):
    content = random.randbytes(16 * backend.part_bytes)
    staged = backend.staged(len(content))
    looking, seen = threading.Event(), []

    def look():
        while not seen:
            try:
                seen.append(backend.read(staged.target_key))
            except FileNotFoundError:
                looking.set()
                time.sleep(0)  # lets the others go on where threads are greenlets

    reader = threading.Thread(target=look)
    reader.start()
    looking.wait()
    receipts = {index: backend.put_part(staged, content, index) for index in range(16)}
    backend.publish(staged, receipts)
    reader.join()
    assert seen == [content]
    backend.storage.delete(staged.target_key)


@pytest.mark.parametrize(
    "name",
    [
        "movie.mp4",
        "videos/2024/movie.mp4",
        "with spaces/and more .txt",
        " leading and trailing ",
        "grüße/日本語/файл.txt",
        "emoji/🎬.mp4",
        'quotes/it\'s "this" $HOME `x` ;rm -rf *.txt',
        "-rf",
        "percent/%2e%2e%2f.txt",
        "long/" + "a" * 255,
        "long/" + "ü" * 127,
        "long/" + "🎬" * 60 + ".mp4",
        "deep/" * 150 + "file",
    ],
)
def test_names_are_kept_as_they_are(backend, name):
    staged = backend.filled(b"content", name)
    key = backend.publish(staged)
    assert key == staged.target_key
    assert backend.leftovers() == [key]
    assert backend.read(key) == b"content"
    backend.storage.delete(key)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../outside",
        "files/../../outside",
        "files/./x",
        "files//x",
        "files/",
        "files\\x",
        "files/a\0b",
        "files/a\nb",
        "files/\ud800",
        ".staging/x",
        ".STAGING/x",
        "files/.staging/x",
    ],
)
def test_a_final_key_that_could_leave_its_place_is_refused(backend, key):
    staged = replace(backend.filled(b"x"), target_key=key)
    for act in (lambda: backend.publish(staged), lambda: backend.storage.delete(key)):
        with pytest.raises(ValueError, match="not a final key"):
            act()
    backend.storage.discard(staged)
