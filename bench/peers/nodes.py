"""The native protocol on one node and on two, behind nginx, with PostgreSQL and a shared disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.loads import BRIEF_LOADS, Durability, Load
from bench.nodes import find_postgres
from bench.peers.longhaul import Server, common_settings
from bench.peers.native import NativeParts
from bench.peers.nginx import nginx_program
from bench.procs import free_port, running


class Nodes(NativeParts):
    """``count`` nodes of one worker each; what is compared is two with one."""

    loads = BRIEF_LOADS
    on_request = True
    remark = "behind nginx, PostgreSQL; nodes have a worker each"

    def __init__(self, durability: Durability, count: int) -> None:
        super().__init__(durability)
        self.name = f"Longhaul native, {count} node{'s' if count > 1 else ''}"
        self._count = count

    def missing(self) -> str | None:
        if nginx_program() is None:
            return "nginx is not installed"
        return None if find_postgres() else "PostgreSQL is not installed"

    @contextmanager
    def server(self, directory: Path, load: Load) -> Iterator[Server]:
        port, storage = free_port(), directory / "storage"
        env = common_settings(storage, self.durability, load.body_bytes)
        command = [sys.executable, "-m", "bench.nodes", directory, str(self._count), str(port)]
        with running(command, port=port, log=directory / "log", env=env) as pid:
            yield Server(pid, port, storage)
