"""Killed between any two changes of a disk or a share, and several processes at once."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

STEPWISE = (Path(__file__).parent / "stepwise.py").read_text()
INSTANCE = "an-instance"
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


class Stepping:
    """A process that waits before each change it makes; see stepwise.py."""

    def __init__(self, processes, place, action, staged=None, way="best"):
        upload = [json.dumps(asdict(staged))] if staged else []
        self._processes = processes
        self.process = processes.start(STEPWISE, *place, INSTANCE, way, action, *upload)
        self.step = self._read()

    def _read(self):
        return self.process.stdout.readline().split()

    def proceed(self):
        """Let it make the change it waits with; return False if it is done."""
        if self.step[0] == "done":
            return False
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.step = self._read()
        return True

    def proceed_to(self, *steps):
        """Let it go on until it waits before one of ``steps``."""
        while self.step[0] not in steps:
            assert self.proceed(), f"it never came to {steps}"

    def proceed_to_rename_into(self, folder):
        """Let it go on until it waits before renaming into a folder that is there by then."""
        while not (self.step[0] in {"renameat2", "rename"} and folder.exists()):
            assert self.proceed(), "it never came to renaming"

    def finish(self):
        """Let it make all its changes; return the outcome it printed."""
        while self.proceed():
            pass
        self.process.communicate()
        return self.step[1]

    def kill(self):
        self._processes.kill(self.process)


def let_all_begin(started):
    """Let processes that have started do what they are for, all at once."""
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()


def killed_before_each_change(processes, prepare, place, action, way="best"):
    """Yield what ``prepare`` returned, once for each step, after a kill at that step.

    The last time the process has come to its end unkilled.
    """
    steps, done = 0, False
    while not done:
        prepared = prepare()
        running = Stepping(processes, place(), action, prepared, way)
        done = not all(running.proceed() for _ in range(steps)) or running.step[0] == "done"
        running.kill()
        yield prepared
        steps += 1
    assert steps > 3, "the process was never stopped: it does not see what changes"


def test_publishing_survives_a_kill_at_every_step(stepped_way, processes):
    backend, way = stepped_way
    content = random.randbytes(backend.part_bytes)
    number = iter(range(1000))

    def prepare():
        return backend.filled(content, f"new folder {next(number)}/below/movie.mp4")

    for staged in killed_before_each_change(processes, prepare, backend.place, "publish", way):
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

    for staged in killed_before_each_change(processes, prepare, stepped.place, "create"):
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

    def place():
        folders.append(("first starts", str(next(numbers))))
        return backend.place(*folders[-1])

    for _ in killed_before_each_change(processes, lambda: None, place, "start", way):
        first = backend.below(*folders[-1])
        assert backend.below(*folders[-1]).root_id == first.root_id
        assert first.check() > 0
    shutil.rmtree(backend.root / "first starts")


def test_publishing_survives_that_its_new_folder_is_removed_meanwhile(stepped, processes):
    staged = stepped.filled(b"content", "folder/below/movie.mp4")
    publishing = Stepping(processes, stepped.place(), "publish", staged)
    publishing.proceed_to_rename_into(stepped.root / "folder/below")
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
    assert found == {INSTANCE, "root-id"}
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
