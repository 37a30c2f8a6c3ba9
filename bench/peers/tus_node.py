"""@tus/server, the reference server for Node, with its file store, in a cluster of workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.install import NODE_DIRECTORY, node_packages
from bench.peers.base import WORKERS
from bench.tus import ReferenceServer


class TusNode(ReferenceServer):
    name = "@tus/server"

    def missing(self) -> str | None:
        return node_packages()

    def command(self, port: int, target: Path) -> Sequence[str | Path]:
        return ["node", NODE_DIRECTORY / "tus.mjs", str(port), target, str(WORKERS)]


class TusNodeWhole(TusNode):
    """An upload for each body."""

    name = "@tus/server, whole files"
    whole = True
    on_request = True
