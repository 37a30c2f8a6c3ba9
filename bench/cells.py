"""Carries out one cell: one receiver, one load, once, in a directory of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import TransferFailed
from bench.loads import Load
from bench.memory import Reserve
from bench.peers.base import REPOSITORY, Peer
from bench.procs import (
    START_SECONDS,
    ServerFailed,
    cpu_seconds,
    machine_cpu,
    peak_memory,
    reset_peaks,
    stop,
)
from bench.source import Source
from bench.stats import Sample

#: Filesystems that live in memory: nothing is durable there, and memory is what is measured.
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})

#: So many cores may be busy, over so long, on a machine that is called quiet.
_QUIET_CORES = 0.1
_QUIET_SECONDS = 0.5

#: A server that has used no tick of CPU for so long (a tick is 10 ms) has started.
_RESTING_SECONDS = 0.3


def filesystem_type(directory: Path, mountinfo: str) -> str:
    """Return the type of the filesystem that holds a directory (proc(5), mountinfo).

    The longest mount point that is above the directory wins; of two mounts on
    the same point, the later one.
    """
    best, kind = -1, "unknown"
    for line in mountinfo.splitlines():
        fields = line.split()
        point = Path(fields[4].encode().decode("unicode_escape"))
        depth = len(point.parts)
        if directory.is_relative_to(point) and depth >= best:
            best, kind = depth, fields[fields.index("-") + 1]
    return kind


def refuse_memory_filesystem(directory: Path) -> str:
    """Return the filesystem's type; raises ValueError where it is no disk."""
    kind = filesystem_type(directory.resolve(), Path("/proc/self/mountinfo").read_text())
    if kind in _MEMORY_FILESYSTEMS:
        raise ValueError(f"{directory} is on {kind}, not on a disk; give another one by --dir")
    return kind


@contextmanager
def cell_directory(path: Path, reserve: Reserve) -> Iterator[Path]:
    """Make a directory, and empty its files and settle the disk afterwards.

    What was written and goes before it reached the disk costs nothing; the sync
    brings the rest (metadata, freed blocks) to rest, so that no cell pays for
    the one before it. The memory goes back to the reserve. The empty files stay
    until the end of the run: ext4 without a journal does not give a deleted
    file's inode out again for seconds, and creating a file walks over all of
    them, which took two thirds of nginx's time with files of 1 MiB.
    """
    path.mkdir()
    try:
        yield path
    finally:
        for file in path.rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
        reserve.fill()
        os.sync()


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cells share: a scratch directory, the sources by body size, the reserve."""

    directory: Path
    sources: Mapping[int, Source]
    reserve: Reserve
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_directory(self) -> Path:
        """Return a path for the next cell."""
        return self.directory / f"cell-{next(self._numbers)}"


def wait_until_quiet(patience_seconds: float) -> None:
    """Wait until hardly anything else runs on this machine, or the patience is at its end."""
    give_up_at = time.monotonic() + patience_seconds
    while time.monotonic() < give_up_at:
        busy_before, _ = machine_cpu()
        time.sleep(_QUIET_SECONDS)
        busy_after, _ = machine_cpu()
        if busy_after - busy_before <= _QUIET_CORES * _QUIET_SECONDS:
            return


def wait_until_started(root: int) -> None:
    """Wait until no process of a server computes any more: all its workers are up.

    The first worker would get all connections of a client that comes before.
    Raises ServerFailed where they never rest.
    """
    give_up_at = time.monotonic() + START_SECONDS
    spent = -1.0
    while spent < (now := cpu_seconds(root)):
        if time.monotonic() > give_up_at:
            raise ServerFailed(f"its processes are still busy after {START_SECONDS:.0f} s")
        spent = now
        time.sleep(_RESTING_SECONDS)


def measure(bench: Bench, peer: Peer, load: Load, number: int, thorough: bool) -> Sample:
    """Run one cell in round ``number`` and return what was measured.

    Raises ServerFailed, CallFailed, TransferFailed or WrongContent. ``thorough``: check all
    that was stored, not only sizes and one body.
    """
    source = bench.sources[load.body_bytes]
    with (
        cell_directory(bench.new_directory(), bench.reserve) as place,
        bench.reserve.feeding(),
        peer.serve(place, load, source) as served,
        client() as process,
    ):
        wait_until_started(served.pid)
        say(process, served.plan(load, source).to_json())
        expect(process, "ready")
        reset_peaks(served.pid)
        cpu_before, (busy_before, all_before) = cpu_seconds(served.pid), machine_cpu()
        say(process, "")
        result = json.loads(expect(process, "{"))
        cpu_after, (busy_after, all_after) = cpu_seconds(served.pid), machine_cpu()
        if "error" in result:
            raise TransferFailed(result["error"])
        largest_peak, sum_of_peaks = peak_memory(served.pid)
        served.check(thorough)
        server_cpu, client_cpu = cpu_after - cpu_before, result["cpu_seconds"]
        busy = busy_after - busy_before
        elapsed = max(all_after - all_before, 0.01) / (os.cpu_count() or 1)
        return Sample(
            peer=peer.name,
            durability=peer.durability,
            load=load,
            round=number,
            seconds=result["seconds"],
            server_cpu_seconds=server_cpu,
            client_cpu_seconds=client_cpu,
            busy_cores=busy / elapsed,
            other_cores=max(busy - server_cpu - client_cpu, 0.0) / elapsed,
            peak_rss_bytes=largest_peak,
            sum_peak_rss_bytes=sum_of_peaks,
        )


@contextmanager
def client() -> Iterator[subprocess.Popen[str]]:
    """Run a client, which waits for its plan (``say``); see ``bench.client``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        stop(process)


def say(process: subprocess.Popen[str], line: str) -> None:
    """Send a line to the client."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def expect(process: subprocess.Popen[str], start: str) -> str:
    """Return the client's next line; raises TransferFailed if it does not begin so."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(start):
        message = json.loads(line).get("error") if line.startswith("{") else "the client died"
        raise TransferFailed(message)
    return line
