"""Longhaul's application in which publishing on a disk halts where a test says.

Run by gunicorn instead of ``wsgi:app``, with a folder's path in HALTS. Before each
system call by which publishing changes something its name is added to
``<upload id>.steps`` there; where there is a named pipe ``<upload id>.<number>`` the
process stands still, reading that, for as long as somebody has it open for writing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

from app.storage import files
from app.storage.local_publish import Publication
from wsgi import app as app

HALTS = Path(os.environ["HALTS"])

_CHANGING = frozenset(
    {"mkdir", "ftruncate", "fchmod", "fsync", "fdatasync", "link", "unlink", "rename"}
)

_carry_out = Publication.carry_out


def _halt_in_steps(publication: Publication) -> None:
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
        name = getattr(argument, "__name__", "")
        if event == "c_call" and getattr(argument, "__module__", "") == "posix":
            if name in _CHANGING:
                reach(name)
        elif event == "call" and frame.f_code is files.rename_noreplace.__code__:
            reach("renameat2")

    sys.setprofile(look)
    try:
        _carry_out(publication)
        reach("published")
    finally:
        sys.setprofile(None)


Publication.carry_out = _halt_in_steps  # type: ignore[method-assign]
