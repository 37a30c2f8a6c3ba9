"""Longhaul's application in which publishing on a disk or a share halts where a test says.

Run by gunicorn instead of ``wsgi:app``, with a folder's path in HALTS. Before each
system call or request by which publishing changes something its name is added to
``<upload id>.steps`` there; where there is a named pipe ``<upload id>.<number>`` the
process stands still, reading that, for as long as somebody has it open for writing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from app.storage import files
from app.storage.local_publish import Publication
from app.storage.smb_channel import Channel
from app.storage.smb_publish import SmbPublication
from app.storage.smb_requests import Command, Disposition
from wsgi import app as app

HALTS = Path(os.environ["HALTS"])

#: What a profiler is told of a call → the step that it is, "" if it changes nothing.
StepOf = Callable[[FrameType, str, object], str]

_SYSTEM_CALLS = frozenset(
    {"mkdir", "ftruncate", "fchmod", "fsync", "fdatasync", "link", "unlink", "rename"}
)

#: Flushing is none: a server that goes on keeps what was not flushed. Nor are claims:
#: how often one is asked for depends on who else has it.
_REQUESTS = frozenset({Command.WRITE, Command.SET_INFO})

#: Where ShareAccess and CreateDisposition are: MS-SMB2 2.2.13.
_CREATE_FIELDS = (32, 36)


def _system_call(frame: FrameType, event: str, argument: object) -> str:
    if event == "c_call" and getattr(argument, "__module__", "") == "posix":
        name = str(getattr(argument, "__name__", ""))
        return name if name in _SYSTEM_CALLS else ""
    is_rename = event == "call" and frame.f_code is files.rename_noreplace.__code__
    return "renameat2" if is_rename else ""


def _request(frame: FrameType, event: str, argument: object) -> str:
    """Requests that belong together are sent together, and are one step."""
    sent: Sequence[tuple[Command, bytes]] = ()
    if event == "call" and frame.f_code is Channel.start.__code__:
        sent = [(frame.f_locals["command"], frame.f_locals["body"])]
    elif event == "call" and frame.f_code is Channel.call_related.__code__:
        sent = frame.f_locals["sent"]
    return "+".join(command.name for command, body in sent if _changes(command, body))


def _changes(command: Command, body: bytes) -> bool:
    """Tell whether a request changes something; one to open does if it makes what is not there."""
    if command is not Command.CREATE:
        return command in _REQUESTS
    fields = [int.from_bytes(body[offset : offset + 4], "little") for offset in _CREATE_FIELDS]
    is_shared, disposition = fields
    return is_shared != 0 and disposition != Disposition.OPEN


def _halt_in_steps(publication_class: type, step_of: StepOf) -> None:
    """Let publications of a class halt."""
    carry_out = publication_class.carry_out  # type: ignore[attr-defined]

    def halting(publication: Any, *arguments: object) -> None:
        upload_id, done = publication.target[-1].partition("_")[0], 0

        def reach(step: str) -> None:
            nonlocal done
            sys.setprofile(None)
            with (HALTS / f"{upload_id}.steps").open("a") as steps:
                steps.write(f"{step}\n")
            pipe = HALTS / f"{upload_id}.{done}"
            if pipe.exists():
                pipe.read_bytes()
            done += 1
            sys.setprofile(look)

        def look(frame: FrameType, event: str, argument: object) -> None:
            """Be this thread's profiler: it is told of every call before it happens."""
            if step := step_of(frame, event, argument):
                reach(step)

        sys.setprofile(look)
        try:
            carry_out(publication, *arguments)
            reach("published")
        finally:
            sys.setprofile(None)

    publication_class.carry_out = halting  # type: ignore[attr-defined]


_halt_in_steps(Publication, _system_call)
_halt_in_steps(SmbPublication, _request)
