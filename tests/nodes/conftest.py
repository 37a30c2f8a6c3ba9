"""Clusters of real nodes, on a PostgreSQL of their own that may be restarted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.cluster import Cluster
from tests.harness.nginx import require_nginx
from tests.harness.postgres import Postgres
from tests.harness.stores import Disk, Share, Store

StartCluster = Callable[..., Cluster]


@pytest.fixture
def start_cluster(restartable_postgres: Postgres, tmp_path: Path) -> Iterator[StartCluster]:
    """Start a cluster of a test's own: ``start_cluster(nodes=2, shared_storage=False)``."""
    with clusters(restartable_postgres, tmp_path) as start:
        yield start


@pytest.fixture(params=["root", "share"])
def shared_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """What all nodes of a test store in: a root on a disk, or an SMB share."""
    if request.param == "root":
        return Disk(tmp_path / "storage")
    return Share(request.getfixturevalue("samba"))


@contextmanager
def clusters(postgres: Postgres, directory: Path) -> Iterator[StartCluster]:
    """Yield what starts clusters with files in a directory; end them afterwards."""
    program = require_nginx()
    name = postgres.new_database()
    started: list[Cluster] = []

    def start(**options: object) -> Cluster:
        cluster = Cluster(directory, postgres.url(name), program, **options)
        started.append(cluster)
        cluster.start()
        return cluster

    try:
        yield start
    finally:
        for cluster in started:
            cluster.close()
        postgres.drop_database(name)
