"""Local disk: killed between any two changes of the disk, and several processes at once."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from app.storage.local import LocalStorage

STEPWISE = (Path(__file__).parent / "stepwise.py").read_text()
INSTANCE = "an-instance"
WAYS = ["best", "link", "look"]
PROCESSES = 4


class Stepping:
    """A process that waits before each change it makes; see stepwise.py."""

    def __init__(self, processes, root, action, staged=None, way="best"):
        upload = [json.dumps(asdict(staged))] if staged else []
        self._processes = processes
        self.process = processes.start(STEPWISE, root, INSTANCE, way, action, *upload)
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

    def proceed_to(self, step):
        """Let it go on until it waits before ``step``."""
        while self.step[0] != step:
            assert self.proceed(), f"it never came to {step}"

    def finish(self):
        """Let it make all its changes; return the outcome it printed."""
        while self.proceed():
            pass
        self.process.communicate()
        return self.step[1]

    def kill(self):
        self._processes.kill(self.process)


def killed_before_each_change(processes, prepare, root, action, way="best"):
    """Yield what ``prepare`` returned, once for each step, after a kill at that step.

    The last time the process has come to its end unkilled.
    """
    steps, done = 0, False
    while not done:
        prepared = prepare()
        running = Stepping(processes, root(), action, prepared, way)
        done = not all(running.proceed() for _ in range(steps)) or running.step[0] == "done"
        running.kill()
        yield prepared
        steps += 1
    assert steps > 3, "the process was never stopped: it does not see the system's calls"


@pytest.mark.parametrize("way", WAYS)
def test_publishing_survives_a_kill_at_every_step(local, processes, way):
    content = random.randbytes(local.part_bytes)
    number = iter(range(1000))

    def prepare():
        return local.filled(content, f"new folder {next(number)}/below/movie.mp4")

    for staged in killed_before_each_change(processes, prepare, lambda: local.root, "publish", way):
        names = [staged.staging_key, staged.target_key]
        assert {local.read(key) for key in names if key in local.leftovers()} == {content}
        assert local.publish(staged) == staged.target_key
        assert local.leftovers() == [staged.target_key]
        assert local.read(staged.target_key) == content
        local.storage.delete(staged.target_key)


def test_creating_survives_a_kill_at_every_step(local, processes):
    content = random.randbytes(local.part_bytes)

    def prepare():
        return local.unstaged(len(content))

    for staged in killed_before_each_change(processes, prepare, lambda: local.root, "create"):
        key = local.opened().create(staged)
        assert local.leftovers() == [key]
        assert local.storage.stat(key).size_bytes == len(content)
        local.put(staged, content)
        assert local.read(local.publish(staged)) == content
        local.storage.delete(staged.target_key)


@pytest.mark.parametrize("way", WAYS)
def test_the_first_start_survives_a_kill_at_every_step(tmp_path, processes, way):
    roots = []

    def root():
        roots.append(tmp_path / str(len(roots)) / "new" / "uploads")
        return roots[-1]

    for _ in killed_before_each_change(processes, lambda: None, root, "start", way):
        first = LocalStorage(roots[-1], INSTANCE)
        assert LocalStorage(roots[-1], INSTANCE).root_id == first.root_id
        assert first.check() > 0


def test_publishing_survives_that_its_new_folder_is_removed_meanwhile(local, processes):
    staged = local.filled(b"content", "folder/below/movie.mp4")
    publishing = Stepping(processes, local.root, "publish", staged)
    publishing.proceed_to("renameat2")
    (local.root / "folder/below").rmdir()
    (local.root / "folder").rmdir()
    publishing.proceed()
    assert publishing.finish() == staged.target_key
    assert local.read(staged.target_key) == b"content"
    local.storage.delete(staged.target_key)


def test_publishing_gives_up_for_now_if_its_folder_is_removed_again_and_again(local, processes):
    staged = local.filled(b"content", "folder/movie.mp4")
    publishing = Stepping(processes, local.root, "publish", staged)
    while publishing.step[0] != "done":
        if publishing.step[0] == "renameat2":
            (local.root / "folder").rmdir()
        publishing.proceed()
    assert publishing.step[1] == "StorageUnavailable"
    assert local.read(local.publish(staged)) == b"content"
    local.storage.delete(staged.target_key)


@pytest.mark.parametrize(
    ("way", "step"),
    [("best", "renameat2"), ("link", "link"), ("link", "unlink"), ("look", "rename")],
)
def test_publishing_survives_that_another_process_is_faster(local, processes, way, step):
    staged = local.filled(b"content", "folder/movie.mp4")
    slow = Stepping(processes, local.root, "publish", staged, way)
    slow.proceed_to(step)
    local.publish(staged)
    assert slow.finish() == staged.target_key
    assert local.leftovers() == [staged.target_key]
    local.storage.delete(staged.target_key)


def test_discarding_while_a_process_publishes_leaves_one_of_the_two_outcomes(local, processes):
    staged = local.filled(b"content")
    publishing = Stepping(processes, local.root, "publish", staged)
    publishing.proceed_to("renameat2")
    local.storage.discard(staged)
    assert publishing.finish() == "PartsLost"


def test_processes_that_start_at_once_agree_on_the_root(tmp_path, processes):
    program = """
import sys
from app.storage.local import LocalStorage
print("ready", flush=True)
sys.stdin.readline()
print(LocalStorage(sys.argv[1], "an-instance").root_id)
"""
    started = [processes.start(program, tmp_path / "uploads") for _ in range(PROCESSES)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    ids = {process.communicate()[0].strip() for process in started}
    assert ids == {LocalStorage(tmp_path / "uploads", "an-instance").root_id}


@pytest.mark.parametrize(("way", "step"), [("best", "renameat2"), ("link", "link")])
def test_a_process_that_meets_another_ones_marker_takes_that(tmp_path, processes, way, step):
    slow = Stepping(processes, tmp_path / "uploads", "start", way=way)
    slow.proceed_to(step)
    first = LocalStorage(tmp_path / "uploads", INSTANCE)
    assert slow.finish() == first.root_id
    found = {path.name for path in (tmp_path / "uploads/.staging").iterdir()}
    assert found == {INSTANCE, "root-id"}


def test_several_processes_write_their_parts_of_one_object(local, processes):
    parts = 32
    staged = local.staged(parts * local.part_bytes)
    program = """
import json, sys
from app.storage.base import StagedObject
from app.storage.local import LocalStorage
root, upload, first, step, parts, size = sys.argv[1:]
storage, staged = LocalStorage(root, "an-instance"), StagedObject(**json.loads(upload))
print("ready", flush=True)
sys.stdin.readline()
for index in range(int(first), int(parts), int(step)):
    with storage.writer(staged, index, index * int(size), int(size)) as writer:
        writer.write(memoryview(bytes([index]) * int(size)))
        writer.commit(durable=True)
"""
    upload = json.dumps(asdict(staged))
    started = [
        processes.start(program, local.root, upload, first, PROCESSES, parts, local.part_bytes)
        for first in range(PROCESSES)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in started:
        process.communicate()
        assert process.returncode == 0
    content = b"".join(bytes([index]) * local.part_bytes for index in range(parts))
    assert local.read(local.publish(staged)) == content
    local.storage.delete(staged.target_key)
