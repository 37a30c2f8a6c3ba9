"""Several nodes: each a real Longhaul with a run directory of its own, as on hosts of their own.

They share a PostgreSQL and, unless told otherwise, the storage. An nginx before
them sends requests to one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.harness.native import Upload
from tests.harness.nginx import Nginx
from tests.harness.server import ROOT, Server
from tests.harness.stores import Disk, Store
from tests.harness.tables import Postgresql
from tests.harness.tus import TusUpload

#: How requests find their node: one after the other, or as the configuration we ship has it.
IN_TURN, BY_UPLOAD = "in turn", "by upload"

_SHIPPED = ROOT / "deploy" / "nginx-nodes.conf"

_HTTP = """\
    access_log off;
    client_max_body_size 0;
    upstream longhaul {{ {servers} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://longhaul;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host:$server_port;
            proxy_request_buffering off;
            proxy_buffering off;
            proxy_next_upstream off;
        }}
    }}
"""


class Cluster:
    """``nodes`` behind ``balancer``. Whatever is killed can be started again.

    ``store``: what all nodes store in, instead of a disk. ``of_each``: for each node
    the settings that the others do not have. ``application``: see Server.
    """

    def __init__(
        self,
        directory: Path,
        database_url: str,
        nginx: str,
        *,
        nodes: int = 2,
        shared_storage: bool = True,
        balancing: str = IN_TURN,
        store: Store | None = None,
        of_each: Sequence[Mapping[str, object]] = (),
        application: str = "wsgi:app",
        **settings: object,
    ) -> None:
        self._database_url = database_url
        self._balancing = balancing
        self._application = application
        if store is None and shared_storage:
            store = Disk(directory / "storage")
        own = [*of_each, *[{}] * nodes][:nodes]
        self.nodes = [
            self._node(directory / f"node-{number}", store, settings | dict(own[number]))
            for number in range(nodes)
        ]
        (directory / "nginx").mkdir()
        self.balancer = Nginx(nginx, directory / "nginx")

    def start(self) -> None:
        """Start all nodes and the balancer."""
        for node in self.nodes:
            node.start()
        # max_fails=0: a node that fails is asked again at once, so that clients see its errors.
        servers = " ".join(f"server 127.0.0.1:{node.port} max_fails=0;" for node in self.nodes)
        if self._balancing == IN_TURN:
            self.balancer.start(_HTTP.format(servers=servers, port=self.balancer.port))
        else:
            self.balancer.start_with(self._shipped())

    def _shipped(self) -> str:
        """Return the configuration we ship, with our addresses."""
        text = _SHIPPED.read_text().replace(
            "listen 8080;", f"listen 127.0.0.1:{self.balancer.port};"
        )
        for name, node in zip(("node-a", "node-b"), self.nodes, strict=True):
            assert f"server {name}:3000" in text
            text = text.replace(f"server {name}:3000", f"server 127.0.0.1:{node.port}")
        return text

    def close(self) -> None:
        """End everything; fail if a log tells of a bug."""
        self.balancer.stop()
        for node in self.nodes:
            node.close()

    def ask(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a SELECT on the ledger."""
        url = self._database_url.replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(url) as connection:
            return connection.execute(statement, parameters).fetchall()

    def requests_seen(self, node: int, words: str) -> int:
        """Return how many requests to paths with ``words`` in them a node has answered."""
        lines = self.nodes[node].log_lines()
        return sum('"event": "request"' in line and words in line for line in lines)

    def finalizing_nodes(self, upload: Upload) -> list[int]:
        """Return the number of the node that finalizes an upload now; nothing if none does."""
        return self.nodes_holding(upload, "finalize")

    def nodes_holding(self, upload: Upload, key: str) -> list[int]:
        """Return the numbers of nodes with a lease of an upload; ``key`` as in LIKE."""
        claimed = "SELECT owner FROM leases WHERE upload_id = %s AND key LIKE %s"
        return [self._node_of(owner) for (owner,) in self.ask(claimed, upload.id, key)]

    def events(self, upload: Upload | TusUpload) -> list[str]:
        """Return what has happened to an upload, in order."""
        happened = "SELECT kind FROM events WHERE upload_id = %s ORDER BY id"
        return [kind for (kind,) in self.ask(happened, upload.id)]

    def _node_of(self, owner: str) -> int:
        """Return the number of the node that a lease's owner runs on."""
        return next(
            number
            for number, node in enumerate(self.nodes)
            if (node.directory / "temp" / "run" / f"{owner}.alive").exists()
        )

    def _node(self, place: Path, store: Store | None, settings: dict[str, object]) -> Server:
        place.mkdir()
        return Server(
            place,
            store=store or Disk(place / "storage"),
            tables=Postgresql(self._database_url),
            application=self._application,
            TEMP_STORAGE_PATH=place / "temp",
            WORKERS=1,
            **settings,
        )
