"""Several nodes on one storage serve one upload together, and go on when one of them dies."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from tests.harness.load import Load, ride_out
from tests.harness.native import MIB, TIMEOUT_SECONDS, Native, Upload
from tests.harness.persistent import TAKEOVER_SECONDS, Persistent
from tests.harness.postgres import Postgres
from tests.harness.stores import Store
from tests.live.wire import Connection, final_location, put_head, stored_file, until
from tests.nodes.conftest import StartCluster

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

#: How often the two last parts of an upload meet. What decides who is the last is the
#: ledger, whatever the bytes are on.
MEETINGS = {"local": 200, "smb": 20}

#: What keeps finalizing busy long enough to be hit: its checksum. A share is slower.
VERIFIED_PARTS = {"local": 4, "smb": 1}

#: Some of the steps of publishing.
PUBLISHING = {
    "local": {"mkdir", "renameat2", "published"},
    "smb": {"CREATE", "SET_INFO", "published"},
}

#: Longer than a restart takes.
DATABASE_AWAY_SECONDS = 4.0


def test_parts_of_one_upload_go_to_different_nodes(
    start_cluster: StartCluster, shared_store: Store, content: Content
) -> None:
    cluster = start_cluster(store=shared_store)
    data = content(8 * MIB + 5)
    client = Persistent(cluster, data)
    client.send_all()
    native = Native(cluster.balancer)
    assert cluster.nodes[0].file(final_location(native, client.upload)).read_bytes() == data
    assert all(cluster.requests_seen(node, f"{client.upload.id}/part/") for node in (0, 1))
    assert client.refusals == set()


def test_a_node_that_dies_in_mid_upload_takes_nothing_acknowledged_with_it(
    start_cluster: StartCluster, shared_store: Store, content: Content
) -> None:
    cluster = start_cluster(store=shared_store)
    data = content(48 * MIB)
    client = Persistent(cluster, data)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.send_all)
        until(lambda: len(client.acknowledged) >= 8)
        cluster.nodes[0].kill()
        before = dict(client.acknowledged)
        assert len(before) < len(client.upload.tokens), "over too early to prove anything"
        survivor = Native(cluster.nodes[1])
        parts = survivor.status(client.upload)["parts"]
        for part, checksum in before.items():
            assert parts[part]["checksum_sha256"] == checksum
        sending.result()
    assert stored_file(survivor, client.upload).read_bytes() == data


def test_a_node_that_dies_while_finalizing_is_followed_by_another(
    start_cluster: StartCluster, shared_store: Store, content: Content
) -> None:
    cluster = start_cluster(store=shared_store, CHUNK_SIZE_MB=64, COMPLETE_WAIT_SECS=0)
    native = Native(cluster.nodes[0])
    data = b"".join(content(64 * MIB) for _ in range(VERIFIED_PARTS[shared_store.backend]))
    upload = native.init(size=len(data), checksum_sha256=hashlib.sha256(data).hexdigest())
    native.put_all(upload, data)
    assert native.complete_raw(upload).status_code == 202
    [busy] = until(lambda: cluster.finalizing_nodes(upload))
    cluster.nodes[busy].kill()
    assert cluster.events(upload).count("finalized") == 0, "over too early to prove anything"
    other = Native(cluster.nodes[1 - busy])
    status = until(
        lambda: _when(other.status(upload), "status", "complete"), seconds=TAKEOVER_SECONDS
    )
    assert other.server.file(str(status["final_path"])).read_bytes() == data
    assert cluster.events(upload).count("finalized") == 1


def test_a_node_that_dies_at_any_step_of_publishing_is_followed_by_another(
    start_cluster: StartCluster, shared_store: Store, tmp_path: Path, content: Content
) -> None:
    """An upload for each call or request that changes something, and one after the last."""
    halts = tmp_path / "halts"
    halts.mkdir()
    cluster = start_cluster(
        store=shared_store,
        application="tests.harness.halting:app",
        HALTS=halts,
        COMPLETE_WAIT_SECS=0,
        MAX_CONCURRENT_FINALIZATIONS=16,
    )
    first, second = (Native(node) for node in cluster.nodes)
    data = content(MIB + 1)

    def begun(name: str) -> Upload:
        upload = first.init(f"{name}/movie.mp4", size=len(data))
        first.put_all(upload, data)
        return upload

    with cluster.nodes[1].frozen(), ExitStack() as pipes:
        rehearsed = begun("rehearsed")
        final_location(first, rehearsed)
        steps = (halts / f"{rehearsed.id}.steps").read_text().split()
        assert PUBLISHING[shared_store.backend] <= set(steps)
        uploads = [begun(f"step {number}") for number in range(len(steps))]
        for number, upload in enumerate(uploads):
            pipe = halts / f"{upload.id}.{number}"
            os.mkfifo(pipe)
            assert first.complete_raw(upload).status_code == 202
            pipes.enter_context(until(lambda pipe=pipe: held(pipe), what=f"{steps[number]}"))
            assert cluster.finalizing_nodes(upload) == [0]
        seen = [file.read_bytes() for file in shared_store.files()]
        assert set(seen) == {data}, "a half file is visible"
        assert 1 < len(seen) < len(uploads) + 1, "they did not die at different steps"
        cluster.nodes[0].kill()
        for pipe in halts.glob("*.[0-9]*"):
            pipe.unlink()
    for upload in uploads:
        status = until(
            lambda upload=upload: _when(second.status(upload), "status", "complete"),
            seconds=TAKEOVER_SECONDS,
        )
        assert shared_store.file(str(status["final_path"])).read_bytes() == data
        assert cluster.events(upload).count("finalized") == 1
    assert shared_store.staged() == []
    assert len(shared_store.files()) == len(uploads) + 1


def held(pipe: Path) -> IO[bytes] | None:
    """Hold whoever reads from a named pipe until it is closed; None while nobody does."""
    try:
        return open(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
    except OSError as error:
        assert error.errno == errno.ENXIO, error
        return None


def test_two_last_parts_that_land_on_two_nodes_at_once_complete_the_upload_once(
    start_cluster: StartCluster, shared_store: Store, content: Content
) -> None:
    cluster, meetings = start_cluster(store=shared_store), MEETINGS[shared_store.backend]
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
        for _ in range(meetings):
            upload = native.init(size=len(data))
            counts = pool.map(send, [upload, upload], [0, 1])
            assert sorted(counts) == [1, 2]
    completions = cluster.ask(
        "SELECT upload_id, count(*) FROM events WHERE kind = 'completed' GROUP BY upload_id"
    )
    assert len(completions) == meetings
    assert {count for _, count in completions} == {1}
    assert stored_file(native, upload).read_bytes() == data


def test_a_database_restarted_under_load_loses_nothing(
    start_cluster: StartCluster, restartable_postgres: Postgres
) -> None:
    """Clients of every protocol are told to come back, and finish what they have begun."""
    cluster = start_cluster()
    load = Load(cluster.nodes[0], MIB, front=cluster.balancer)
    ride_out(load, restartable_postgres.away(), DATABASE_AWAY_SECONDS)


def _when(document: dict[str, object], field: str, value: object) -> dict[str, object] | None:
    return document if document[field] == value else None
