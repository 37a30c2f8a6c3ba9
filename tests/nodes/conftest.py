"""Clusters of real nodes, on a PostgreSQL of their own that may be restarted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.cluster import Cluster
from tests.harness.nginx import require_nginx
from tests.harness.postgres import Postgres, new_postgres

StartCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def restartable_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that tests here may restart; skip where there is none, fail in CI."""
    server = new_postgres()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_cluster(restartable_postgres: Postgres, tmp_path: Path) -> Iterator[StartCluster]:
    """Start a cluster of a test's own: ``start_cluster(nodes=2, shared_storage=False)``."""
    program = require_nginx()
    name = restartable_postgres.new_database()
    clusters: list[Cluster] = []

    def start(**options: object) -> Cluster:
        cluster = Cluster(tmp_path, restartable_postgres.url(name), program, **options)
        clusters.append(cluster)
        cluster.start()
        return cluster

    yield start
    for cluster in clusters:
        cluster.close()
    restartable_postgres.drop_database(name)
