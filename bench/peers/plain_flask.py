"""A plain Flask receiver on the gunicorn that we run on: what one writes without thinking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.client import Transfer, put_head
from bench.loads import BRIEF_LOADS, Durability, Load
from bench.peers.base import REPOSITORY, Peer, Served, check_files, gunicorn_command
from bench.procs import free_port, running
from bench.source import Source


class PlainFlask(Peer):
    name = "plain Flask"
    loads = BRIEF_LOADS

    @contextmanager
    def serve(self, directory: Path, load: Load, source: Source) -> Iterator[Served]:
        port = free_port()
        target = directory / "files"
        target.mkdir()
        files = [target / str(index) for index in range(load.total_count)]
        transfers = [
            Transfer(
                put_head(f"/put/{path.name}", load.body_bytes),
                source.offset(index),
                load.body_bytes,
                status=201,
            )
            for index, path in enumerate(files)
        ]
        env = {
            "BENCH_TARGET": str(target),
            "BENCH_SYNC": "1" if self.durability is Durability.STRICT else "",
        }
        command = gunicorn_command("bench.plain_receiver:app", port)
        with running(command, port=port, log=directory / "log", cwd=REPOSITORY, env=env) as pid:
            yield Served(pid, port, transfers, lambda all_: check_files(files, source, all_))
