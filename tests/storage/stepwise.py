"""Does one thing with a storage, and waits for a word before each change of what is stored.

Run by tests as a process of its own:
stepwise.py KIND PLACE INSTANCE WAY ACTION [UPLOAD RECEIPTS]

Before every system call (KIND local) or request (KIND smb and s3) that changes
something it prints its name and reads a line; the test answers, meddles with the
disk, or kills it there; for s3 in the middle of parts, too (``half``). At the end
it prints ``done`` and the outcome. WAY is how local files are renamed: as this
system does it (``best``), or as those do that have only links, or not even them.
"""

from __future__ import annotations

import json
import sys
import threading
from types import FrameType
from typing import Any

from app.errors import LonghaulError
from app.storage import files
from app.storage.base import StagedObject
from app.storage.smb_channel import Channel
from app.storage.smb_header import HEADER_BYTES
from app.storage.smb_requests import Command
from tests.harness.storages import opened

CHANGING_CALLS = {"mkdir", "ftruncate", "fchmod", "fsync", "fdatasync", "link", "unlink", "rename"}

#: To open is to create, sometimes, and to close is to remove.
CHANGING_COMMANDS = {Command.CREATE, Command.CLOSE, Command.FLUSH, Command.WRITE, Command.SET_INFO}

#: Of a SET_INFO that renames (MS-FSCC 2.4), where SET_INFO tells what it sets.
RENAME_INFORMATION = 10
INFORMATION_OFFSET = HEADER_BYTES + 3


#: Empty until the one thing begins that is done stepwise.
stepping: list[bool] = []


def wait_before_changes(frame: FrameType, event: str, argument: object) -> None:
    """Be Python's profiler: it is told of every call before it happens."""
    name = getattr(argument, "__name__", "")
    is_system_call = getattr(argument, "__module__", "") == "posix" and name in CHANGING_CALLS
    if event == "c_call" and is_system_call:
        ask(name)
    elif event == "call" and frame.f_code is files.rename_noreplace.__code__:
        ask("renameat2")
    elif event == "call" and frame.f_code is Channel._try_send.__code__:
        exchanges, buffer = frame.f_locals["exchanges"], frame.f_locals["buffer"]
        first = exchanges[0]
        renames = buffer[first.offset + INFORMATION_OFFSET] == RENAME_INFORMATION
        if first.command is Command.SET_INFO and renames:
            ask("rename")
        elif any(exchange.command in CHANGING_COMMANDS for exchange in exchanges):
            ask(first.command.name)


def wait_before_requests() -> None:
    """Wait before what changes a bucket, one part after the other, and amid each part."""
    # Large: who steps on a disk does without.
    from app.storage import s3_transfer
    from app.storage.s3 import MIN_PART_BYTES
    from app.storage.s3_client import Clients

    s3_transfer.PART_BYTES, s3_transfer.THREADS = MIN_PART_BYTES, 1
    make_client, read = Clients._new, s3_transfer.FileSpan.read

    def wait_before(request: Any, event_name: str, **_: object) -> None:
        if stepping and request.method in {"PUT", "POST", "DELETE"}:
            ask(event_name.rpartition(".")[2])

    def made(*arguments: Any, **named: Any) -> Any:
        client = make_client(*arguments, **named)
        client.meta.events.register("before-send.s3", wait_before)
        return client

    def read_and_wait(span: Any, size: int = -1) -> memoryview:
        before = span.tell()
        piece = read(span, size)
        if stepping and before < len(span) // 2 <= span.tell():
            ask("half")
        return piece

    Clients._new, s3_transfer.FileSpan.read = made, read_and_wait


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


def ask(step: str) -> None:
    say(step)
    sys.stdin.readline()


def act(kind: str, place: str, instance_id: str, action: str, upload: list[str]) -> str:
    if kind == "s3":
        wait_before_requests()
    if action == "start":
        sys.setprofile(wait_before_changes)
        return opened(kind, place, instance_id).root_id
    storage = opened(kind, place, instance_id)
    staged = StagedObject(**json.loads(upload[0]))
    receipts = {int(index): receipt for index, receipt in json.loads(upload[1]).items()}
    if kind == "s3":
        stepping.append(True)
    else:
        sys.setprofile(wait_before_changes)
    if action == "create":
        return storage.create(staged)
    return storage.publish(staged, receipts, lambda done, total: None)


def main() -> None:
    kind, place, instance_id, way, action, *upload = sys.argv[1:]
    if way in {"link", "look"}:
        files._libc_renameat2 = None
    if way == "look":
        files.link_then_unlink = files.look_then_rename
    try:
        outcome = act(kind, place, instance_id, action, upload)
    except LonghaulError as error:
        outcome = type(error).__name__
    sys.setprofile(None)
    say("done", outcome)


# In a thread, where a storage does everything itself; in the main one it has
# native threads do it, which the profiler does not see.
thread = threading.Thread(target=main)
thread.start()
thread.join()
