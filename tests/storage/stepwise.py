"""Does one thing with a local storage, and waits for a word before each change of the disk.

Run by tests as a process of its own: stepwise.py ROOT INSTANCE WAY ACTION [UPLOAD]

Before every system call that changes something it prints the call's name and
reads a line; the test answers, meddles with the disk, or kills it there. At the
end it prints ``done`` and the outcome. WAY is how files are renamed: as this
system does it (``best``), or as those do that have only links, or not even them.
"""

from __future__ import annotations

import json
import sys
from types import FrameType

from app.errors import LonghaulError
from app.storage import files
from app.storage.base import StagedObject
from app.storage.local import LocalStorage

CHANGING_CALLS = {"mkdir", "ftruncate", "fchmod", "fsync", "fdatasync", "link", "unlink", "rename"}


def wait_before_changes(frame: FrameType, event: str, argument: object) -> None:
    """Be Python's profiler: it is told of every call of a C function before it happens."""
    name = getattr(argument, "__name__", "")
    is_system_call = getattr(argument, "__module__", "") == "posix" and name in CHANGING_CALLS
    if event == "c_call" and is_system_call:
        ask(name)
    elif event == "call" and frame.f_code is files.rename_noreplace.__code__:
        ask("renameat2")


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def ask(step: str) -> None:
    say(step)
    sys.stdin.readline()


def act(root: str, instance_id: str, action: str, upload: list[str]) -> str:
    if action == "start":
        sys.setprofile(wait_before_changes)
        return LocalStorage(root, instance_id).root_id
    storage = LocalStorage(root, instance_id)
    staged = StagedObject(**json.loads(upload[0]))
    sys.setprofile(wait_before_changes)
    if action == "create":
        return storage.create(staged)
    return storage.publish(staged, {0: None}, lambda done, total: None)


def main() -> None:
    root, instance_id, way, action, *upload = sys.argv[1:]
    if way in {"link", "look"}:
        files._libc_renameat2 = None
    if way == "look":
        files.link_then_unlink = files.look_then_rename
    try:
        outcome = act(root, instance_id, action, upload)
    except LonghaulError as error:
        outcome = type(error).__name__
    sys.setprofile(None)
    say("done", outcome)


main()
