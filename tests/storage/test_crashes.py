"""Killed between any two changes of a disk or a share, and several processes at once."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict

import pytest

from tests.harness.stepping import INSTANCE, Stepping, killed_before_each_change

PROCESSES = 4

#: How files are renamed: as this system does it, by links, by looking first.
WAYS = ["best", "link", "look"]


@pytest.fixture(params=["local", "smb"])
def stepped(request):
    """A backend on which a process can be stopped at each step."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[("local", way) for way in WAYS] + [("smb", "best")], ids="-".join)
def stepped_way(request):
    """A backend, and a way in which it renames: ``(backend, way)``."""
    return request.getfixturevalue(request.param[0]), request.param[1]


def let_all_begin(started):
    """Let processes that have started do what they are for, all at once."""
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()


def test_publishing_survives_a_kill_at_every_step(stepped_way, processes):
    backend, way = stepped_way
    content = random.randbytes(backend.part_bytes)
    number = iter(range(1000))

    def prepare():
        return backend.filled(content, f"new folder {next(number)}/below/movie.mp4")

    def start(staged):
        return Stepping(processes, backend.place(), "publish", staged, way)

    for staged in killed_before_each_change(prepare, start):
        names = [staged.staging_key, staged.target_key]
        assert {backend.read(key) for key in names if key in backend.leftovers()} == {content}
        assert backend.publish(staged) == staged.target_key
        assert backend.leftovers() == [staged.target_key]
        assert backend.read(staged.target_key) == content
        backend.storage.delete(staged.target_key)


def test_creating_survives_a_kill_at_every_step(stepped, processes):
    content = random.randbytes(stepped.part_bytes)

    def prepare():
        return stepped.unstaged(len(content))

    def start(staged):
        return Stepping(processes, stepped.place(), "create", staged)

    for staged in killed_before_each_change(prepare, start):
        key = stepped.opened().create(staged)
        assert stepped.leftovers() == [key]
        assert stepped.storage.stat(key).size_bytes == len(content)
        stepped.put(staged, content)
        assert stepped.read(stepped.publish(staged)) == content
        stepped.storage.delete(staged.target_key)


def test_the_first_start_survives_a_kill_at_every_step(stepped_way, processes):
    backend, way = stepped_way
    numbers = iter(range(1000))
    folders = []

    def start(_):
        folders.append(("first starts", str(next(numbers))))
        return Stepping(processes, backend.place(*folders[-1]), "start", way=way)

    for _ in killed_before_each_change(lambda: None, start):
        first = backend.below(*folders[-1])
        assert backend.below(*folders[-1]).root_id == first.root_id
        assert first.check() > 0
    shutil.rmtree(backend.root / "first starts")


def test_publishing_survives_that_its_new_folder_is_removed_meanwhile(stepped, processes):
    staged = stepped.filled(b"content", "folder/below/movie.mp4")
    publishing = Stepping(processes, stepped.place(), "publish", staged)
    folder = stepped.root / "folder/below"
    while not (publishing.step[0] in {"renameat2", "rename"} and folder.exists()):
        assert publishing.proceed(), "it never came to renaming"
    (stepped.root / "folder/below").rmdir()
    (stepped.root / "folder").rmdir()
    publishing.proceed()
    assert publishing.finish() == staged.target_key
    assert stepped.read(staged.target_key) == b"content"
    stepped.storage.delete(staged.target_key)


def test_publishing_gives_up_for_now_if_its_folder_is_removed_again_and_again(stepped, processes):
    staged = stepped.filled(b"content", "folder/movie.mp4")
    publishing = Stepping(processes, stepped.place(), "publish", staged)
    while publishing.step[0] != "done":
        folder = stepped.root / "folder"
        if publishing.step[0] in {"renameat2", "rename"} and folder.exists():
            folder.rmdir()
        publishing.proceed()
    assert publishing.step[1] == "StorageUnavailable"
    assert stepped.read(stepped.publish(staged)) == b"content"
    stepped.storage.delete(staged.target_key)


@pytest.mark.parametrize(
    ("kind", "way", "step"),
    [
        ("local", "best", "renameat2"),
        ("local", "link", "link"),
        ("local", "link", "unlink"),
        ("local", "look", "rename"),
        ("smb", "best", "rename"),
        ("smb", "best", "FLUSH"),
    ],
)
def test_publishing_survives_that_another_process_is_faster(request, processes, kind, way, step):
    backend = request.getfixturevalue(kind)
    staged = backend.filled(b"content", "folder/movie.mp4")
    slow = Stepping(processes, backend.place(), "publish", staged, way)
    slow.proceed_to(step)
    backend.publish(staged)
    assert slow.finish() == staged.target_key
    assert backend.leftovers() == [staged.target_key]
    backend.storage.delete(staged.target_key)


def test_discarding_while_a_process_publishes_leaves_one_of_the_two_outcomes(stepped, processes):
    staged = stepped.filled(b"content")
    publishing = Stepping(processes, stepped.place(), "publish", staged)
    publishing.proceed_to("renameat2", "rename")
    stepped.storage.discard(staged)
    # Samba lets a renamed file live; a disk has nothing left to rename.
    if publishing.finish() == "PartsLost":
        assert stepped.leftovers() == []
    else:
        assert stepped.leftovers() == [staged.target_key]
        assert stepped.read(staged.target_key) == b"content"
        stepped.storage.delete(staged.target_key)


STARTING = """
import sys
from tests.harness.storages import opened
print("ready", flush=True)
sys.stdin.readline()
print(opened(*sys.argv[1:], "an-instance").root_id)
"""


def test_processes_that_start_at_once_agree_on_the_root(stepped, processes):
    place = stepped.place("new", "root")
    started = [processes.start(STARTING, *place) for _ in range(PROCESSES)]
    let_all_begin(started)
    ids = {process.communicate()[0].strip() for process in started}
    assert ids == {stepped.below("new", "root").root_id}
    shutil.rmtree(stepped.root / "new")


@pytest.mark.parametrize(
    ("kind", "way", "step"),
    [("local", "best", "renameat2"), ("local", "link", "link"), ("smb", "best", "rename")],
)
def test_a_process_that_meets_another_ones_marker_takes_that(request, processes, kind, way, step):
    backend = request.getfixturevalue(kind)
    slow = Stepping(processes, backend.place("new"), "start", way=way)
    slow.proceed_to(step)
    first = backend.below("new")
    assert slow.finish() == first.root_id
    found = {path.name for path in (backend.root / "new/.staging").iterdir()}
    assert {name for name in found if not name.endswith(".claim")} == {INSTANCE, "root-id"}
    shutil.rmtree(backend.root / "new")


WRITING = """
import json, sys
from app.storage.base import StagedObject
from tests.harness.storages import opened
kind, place, upload, first, step, parts, size = sys.argv[1:]
storage, staged = opened(kind, place, "an-instance"), StagedObject(**json.loads(upload))
print("ready", flush=True)
sys.stdin.readline()
for index in range(int(first), int(parts), int(step)):
    with storage.writer(staged, index, index * int(size), int(size)) as writer:
        writer.write(memoryview(bytes([index]) * int(size)))
        writer.commit(durable=True)
"""


def test_several_processes_write_their_parts_of_one_object(stepped, processes):
    parts = 32
    staged = stepped.staged(parts * stepped.part_bytes)
    told = (*stepped.place(), json.dumps(asdict(staged)))
    started = [
        processes.start(WRITING, *told, first, PROCESSES, parts, stepped.part_bytes)
        for first in range(PROCESSES)
    ]
    let_all_begin(started)
    for process in started:
        process.communicate()
        assert process.returncode == 0
    content = b"".join(bytes([index]) * stepped.part_bytes for index in range(parts))
    assert stepped.read(stepped.publish(staged)) == content
    stepped.storage.delete(staged.target_key)
