"""Several nodes: each a real Longhaul with a run directory of its own, as on hosts of their own.

They share a PostgreSQL and, unless told otherwise, the storage. An nginx before
them sends requests to one after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from tests.harness.nginx import Nginx
from tests.harness.server import ROOT, Server
from tests.harness.stores import Disk
from tests.harness.tables import Postgresql

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
    """``nodes`` behind ``balancer``. Whatever is killed can be started again."""

    def __init__(
        self,
        directory: Path,
        database_url: str,
        nginx: str,
        *,
        nodes: int = 2,
        shared_storage: bool = True,
        balancing: str = IN_TURN,
        **settings: object,
    ) -> None:
        self._database_url = database_url
        self._balancing = balancing
        self.nodes = [
            self._node(directory, number, shared_storage, settings) for number in range(nodes)
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

    def node_of(self, owner: str) -> int:
        """Return the number of the node that a lease's owner runs on."""
        return next(
            number
            for number, node in enumerate(self.nodes)
            if (node.directory / "temp" / "run" / f"{owner}.alive").exists()
        )

    def _node(
        self, directory: Path, number: int, shared: bool, settings: dict[str, object]
    ) -> Server:
        place = directory / f"node-{number}"
        place.mkdir()
        storage = directory / "storage" if shared else place / "storage"
        return Server(
            place,
            store=Disk(storage),
            tables=Postgresql(self._database_url),
            TEMP_STORAGE_PATH=place / "temp",
            WORKERS=1,
            **settings,
        )
