"""Several nodes on one storage serve one upload together, and go on when one of them dies."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.harness.cluster import Cluster
from tests.harness.native import MIB, TIMEOUT_SECONDS, Native, Upload
from tests.harness.postgres import Postgres
from tests.live.wire import Connection, final_location, put_head, stored_file, until
from tests.nodes.conftest import StartCluster

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: How often the two last parts of an upload meet.
MEETINGS = 200

#: A dead node's leases run out after 6 s; a busy machine takes a while more.
TAKEOVER_SECONDS = 60.0


class Persistent:
    """Clients that send parts through the balancer until each is acknowledged, whatever happens."""

    def __init__(self, cluster: Cluster, data: bytes) -> None:
        self.cluster = cluster
        self.data = data
        self.upload = Native(cluster.balancer).init(size=len(data))
        self.acknowledged: dict[int, str] = {}
        self.refusals: set[int] = set()

    def send_all(self, threads: int = 4) -> None:
        """Send every part that is not acknowledged yet; return when all are."""
        parts = [part for part in range(len(self.upload.tokens)) if part not in self.acknowledged]
        random.shuffle(parts)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(self._send, parts))

    def _send(self, part: int) -> None:
        offset, length = self.upload.span(part)
        client = Native(self.cluster.balancer)
        give_up_at = time.monotonic() + TAKEOVER_SECONDS
        while time.monotonic() < give_up_at:
            try:
                answer = client.put_raw(self.upload, part, self.data[offset : offset + length])
            except requests.RequestException:
                continue  # the node died under it
            if answer.status_code == 200:
                self.acknowledged[part] = answer.json()["checksum_sha256"]
                return
            self.refusals.add(answer.status_code)
            assert answer.status_code in (502, 503), answer.text
            time.sleep(0.05)  # Retry-After, made short
        raise AssertionError(f"part {part} was never acknowledged")


def test_parts_of_one_upload_go_to_different_nodes(
    start_cluster: StartCluster, content: Content
) -> None:
    cluster = start_cluster()
    data = content(8 * MIB + 5)
    client = Persistent(cluster, data)
    client.send_all()
    native = Native(cluster.balancer)
    assert cluster.nodes[0].file(final_location(native, client.upload)).read_bytes() == data
    assert all(cluster.requests_seen(node, f"{client.upload.id}/part/") for node in (0, 1))
    assert client.refusals == set()


def test_a_node_that_dies_in_mid_upload_takes_nothing_acknowledged_with_it(
    start_cluster: StartCluster, content: Content
) -> None:
    cluster = start_cluster()
    data = content(48 * MIB)
    client = Persistent(cluster, data)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.send_all)
        until(lambda: len(client.acknowledged) >= 8)
        cluster.nodes[0].kill()
        before = dict(client.acknowledged)
        survivor = Native(cluster.nodes[1])
        parts = survivor.status(client.upload)["parts"]
        for part, checksum in before.items():
            assert parts[part]["checksum_sha256"] == checksum
        sending.result()
    assert stored_file(survivor, client.upload).read_bytes() == data


def test_a_node_that_dies_while_finalizing_is_followed_by_another(
    start_cluster: StartCluster, content: Content
) -> None:
    """The checksum of the whole file keeps finalizing busy long enough to be hit."""
    cluster = start_cluster(CHUNK_SIZE_MB=64, COMPLETE_WAIT_SECS=0)
    native = Native(cluster.nodes[0])
    data = b"".join(content(64 * MIB) for _ in range(4))
    upload = native.init(size=len(data), checksum_sha256=hashlib.sha256(data).hexdigest())
    native.put_all(upload, data)
    assert native.complete_raw(upload).status_code == 202
    owner = until(lambda: _lease_owner(cluster, upload, "finalize"))
    busy = cluster.node_of(owner)
    cluster.nodes[busy].kill()
    assert _events(cluster, upload).count("finalized") == 0, "over too early to prove anything"
    other = Native(cluster.nodes[1 - busy])
    status = until(
        lambda: _when(other.status(upload), "status", "complete"), seconds=TAKEOVER_SECONDS
    )
    assert hashlib.sha256(Path(status["final_path"]).read_bytes()).hexdigest() == (
        hashlib.sha256(data).hexdigest()
    )
    assert _events(cluster, upload).count("finalized") == 1


def test_two_last_parts_that_land_on_two_nodes_at_once_complete_the_upload_once(
    start_cluster: StartCluster, content: Content
) -> None:
    cluster = start_cluster()
    data = content(MIB + 1)
    pieces = [data[:MIB], data[MIB:]]
    together = threading.Barrier(2, timeout=TIMEOUT_SECONDS)

    def send(upload: Upload, part: int) -> int:
        with Connection(cluster.nodes[part]) as connection:
            connection.send(put_head(upload, part), pieces[part][:-1])
            together.wait()
            connection.send(pieces[part][-1:])
            answer = connection.read()
        assert answer.status == 200, answer.body
        return int(answer.json["uploaded_parts"])

    native = Native(cluster.nodes[0])
    with ThreadPoolExecutor(2) as pool:
        for _ in range(MEETINGS):
            upload = native.init(size=len(data))
            counts = pool.map(send, [upload, upload], [0, 1])
            assert sorted(counts) == [1, 2]
    completions = cluster.ask(
        "SELECT upload_id, count(*) FROM events WHERE kind = 'completed' GROUP BY upload_id"
    )
    assert len(completions) == MEETINGS
    assert {count for _, count in completions} == {1}
    assert stored_file(native, upload).read_bytes() == data


def test_a_database_restarted_under_load_loses_nothing(
    start_cluster: StartCluster, restartable_postgres: Postgres, content: Content
) -> None:
    cluster = start_cluster()
    data = content(64 * MIB)
    client = Persistent(cluster, data)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.send_all)
        until(lambda: len(client.acknowledged) >= 8)
        restartable_postgres.restart(seconds_down=2)
        sending.result()
    native = Native(cluster.balancer)
    assert cluster.nodes[0].file(final_location(native, client.upload)).read_bytes() == data
    assert client.refusals <= {503}, "clients were told to come back, and nothing else"
    assert client.refusals, "the database was down while parts were sent"


def _lease_owner(cluster: Cluster, upload: Upload, key: str) -> str | None:
    rows = cluster.ask("SELECT owner FROM leases WHERE upload_id = %s AND key = %s", upload.id, key)
    return rows[0][0] if rows else None


def _events(cluster: Cluster, upload: Upload) -> list[str]:
    rows = cluster.ask("SELECT kind FROM events WHERE upload_id = %s ORDER BY id", upload.id)
    return [kind for (kind,) in rows]


def _when(document: dict[str, object], field: str, value: object) -> dict[str, object] | None:
    return document if document[field] == value else None
