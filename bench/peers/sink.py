"""A receiver that throws the bytes away: what the client can send at most."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import Transfer, put_head
from bench.loads import BRIEF_LOADS, Load
from bench.peers.base import REPOSITORY, Peer, Served
from bench.procs import free_port, running
from bench.source import Source


class Sink(Peer):
    name = "sink (client's ceiling)"
    loads = BRIEF_LOADS

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        port = free_port()
        head = put_head("/", load.body_bytes)
        transfers = [
            Transfer(head, source.offset(index), load.body_bytes, status=204)
            for index in range(load.total_count)
        ]
        command = [sys.executable, "-m", "bench.sink", str(port)]
        with running(command, port=port, log=directory / "log", cwd=REPOSITORY) as pid:
            yield Served(pid, port, transfers, check=lambda thorough: None)
