"""What a receiver is to the benchmark: started for one cell, told where bodies go, checked."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.client import Plan, Transfer
from bench.loads import DEFAULT_LOADS, Durability, Load
from bench.source import Source, file_sha256

#: Where ``python -m bench`` is run from; servers of ours find their modules there.
REPOSITORY = Path(__file__).resolve().parent.parent.parent

#: Of receivers whose file is synced from outside; how, is in ``Transfer.sync_path``.
NEVER_SYNCS = "it never syncs; strict is one fdatasync a file more, done by the client"

#: Worker processes of every receiver: the tables compare designs, not settings.
WORKERS = 2


class CallFailed(Exception):
    """A receiver refused a call that prepares or checks a cell, or did not answer it."""


class WrongContent(Exception):
    """A receiver said that it stored the bytes, but it has others or none."""


@dataclass(frozen=True, slots=True)
class Served:
    """A receiver that runs: its root process, its port, and a transfer for each body.

    ``transfers``: ``load.total_count`` of them, the warm-up first. ``check``
    looks, after all have been sent, at what was stored and raises
    WrongContent; with True it reads all of it, which may take seconds.
    ``in_turns`` as in ``Plan``.
    """

    pid: int
    port: int
    transfers: Sequence[Transfer]
    check: Callable[[bool], None]
    in_turns: bool = False

    def plan(self, load: Load, source: Source) -> Plan:
        """Return what the client is to do."""
        path = str(source.path)
        return Plan(self.port, path, load.connections, self.transfers, self.in_turns)


class Peer(ABC):
    """A receiver with one kind of durability. Holds no state of a cell."""

    #: As the tables call it.
    name: str
    #: What the reader of its figures must know.
    remark = ""
    #: Measured only where ``--peers`` names it.
    on_request = False
    #: What it is measured with unless ``--loads`` names others.
    loads: Sequence[str] = DEFAULT_LOADS

    def __init__(self, durability: Durability) -> None:
        self.durability = durability

    def missing(self) -> str | None:
        """Return why it cannot be measured here, None if it can.

        Installs it first, if it comes from a package registry.
        """
        return None

    @abstractmethod
    def serve(self, directory: Path, load: Load, source: Source) -> AbstractContextManager[Served]:
        """Run the receiver, storing under ``directory`` (empty, deleted afterwards).

        Stopped when the context is left. Raises ServerFailed or CallFailed.
        """


def check_files(paths: Sequence[Path], source: Source, thorough: bool) -> None:
    """Check that ``paths[i]`` holds body ``i`` of the source: sizes, and one content or all."""
    for path in paths:
        if not path.is_file() or path.stat().st_size != source.body_bytes:
            raise WrongContent(f"{path.name} is missing or has a wrong size")
    for index in range(len(paths)) if thorough else [len(paths) - 1]:
        if file_sha256(paths[index]) != source.sha256([index]):
            raise WrongContent(f"{paths[index].name} has other bytes than were sent")


def gunicorn_command(application: str, port: int) -> list[str]:
    """Return the command of a plain gunicorn with the worker type and number that we run on."""
    return [
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent"),
        *("--workers", str(WORKERS), "--bind", f"127.0.0.1:{port}", "--log-level", "warning"),
        application,
    ]
