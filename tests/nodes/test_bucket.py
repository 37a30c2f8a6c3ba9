"""Several nodes on one bucket: parts go straight into it, or wait on one node's own disk."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.harness.cluster import Cluster
from tests.harness.native import KIB, MIB, TIMEOUT_SECONDS, Native, Upload
from tests.harness.persistent import TAKEOVER_SECONDS, Persistent
from tests.harness.postgres import Postgres
from tests.harness.request_gate import RequestGate
from tests.harness.resumable import File, Resumable
from tests.harness.s3 import S3Server
from tests.harness.stores import Bucket
from tests.harness.tus import Tus, TusUpload
from tests.live.wire import Connection, final_location, put_head, until
from tests.nodes.conftest import clusters

pytestmark = pytest.mark.live

Content = Callable[[int], bytes]

MARKER = ".staging/root-id"

#: S3's smallest, so that uploads of several parts go straight into the bucket.
PART_MIB = 5
PART_BYTES = PART_MIB * MIB

#: How often the two last parts of an upload meet, in how many places at a time, and
#: every how many the file is looked at.
MEETINGS, PLACES, SAMPLED = 200, 3, 20

#: What is moved into the bucket in more than one request.
TRANSFERRED_BYTES = 16 * MIB + 1


@dataclass
class OnBucket:
    """A cluster whose first node reaches the bucket through ``gate``."""

    cluster: Cluster
    gate: RequestGate
    bucket: Bucket

    def __post_init__(self) -> None:
        self.clients = [Native(node) for node in self.cluster.nodes]

    def file(self, upload: Upload) -> bytes | None:
        """Return the bytes under an upload's final name; None where nothing is."""
        stored = self.bucket.file(self.bucket.location(f"files/{upload.id}_movie.mp4"))
        return stored.read_bytes() if stored.exists() else None

    def require_finished(self, upload: Upload, data: bytes) -> None:
        """Wait until an upload is complete; it is so once, and its file is whole."""
        client = self.clients[1]
        until(
            lambda: client.status(upload)["status"] == "complete",
            seconds=TAKEOVER_SECONDS,
            what=f"{upload.id} is complete",
        )
        assert self.file(upload) == data
        events = self.cluster.events(upload)
        assert (events.count("completed"), events.count("finalized")) == (1, 1)


@pytest.fixture(scope="module")
def started(
    restartable_postgres: Postgres, ceph: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnBucket]:
    directory = tmp_path_factory.mktemp("nodes")
    bucket = Bucket(ceph, directory, CHUNK_SIZE_MB=PART_MIB)
    with (
        closing(RequestGate(ceph.port)) as gate,
        clusters(restartable_postgres, directory) as start,
    ):
        cluster = start(
            store=bucket,
            of_each=[{"S3_ENDPOINT": gate.url}],
            COMPLETE_WAIT_SECS=0,
            MAX_CONCURRENT_FINALIZATIONS=16,
        )
        yield OnBucket(cluster, gate, bucket)


@pytest.fixture
def nodes(started: OnBucket) -> Iterator[OnBucket]:
    """The nodes, all running; a test that leaves anything but files in the bucket fails."""
    for node in started.cluster.nodes:
        if not node.runs:
            node.start()
    yield started
    started.gate.forget()
    files = started.bucket.files()
    until(
        lambda: set(started.bucket.everything()) == {MARKER, *(file.key for file in files)},
        what="nothing is left of what is finished",
    )
    assert started.bucket.staged() == []
    for file in files:
        file.unlink()


def promised(data: bytes) -> dict[str, str]:
    """Return what makes an upload wait on the disk of the node that gets it."""
    return {"checksum_sha256": hashlib.sha256(data).hexdigest()}


def held_at_every_step(nodes: OnBucket, data: bytes, **fields: str) -> list[Upload]:
    """Return uploads that the first node finalizes, each held before another change it makes.

    The last one is held after the last change, before the ledger learns of it. The
    other nodes stand still meanwhile.
    """
    client, gate = nodes.clients[0], nodes.gate

    def begun() -> Upload:
        upload = client.init(size=len(data), **fields)
        client.put_all(upload, data)
        return upload

    rehearsed = begun()
    gate.watch(rehearsed.id)
    assert client.complete_raw(rehearsed).status_code == 202
    until(lambda: client.status(rehearsed)["status"] == "complete", what="it is complete")
    steps = gate.seen(rehearsed.id)
    uploads = [begun() for _ in range(len(steps) + 1)]
    for number, upload in enumerate(uploads[:-1]):
        gate.watch(upload.id, number)
    gate.watch(uploads[-1].id, len(steps) - 1, "after")
    for upload in uploads:
        assert client.complete_raw(upload).status_code == 202
    for upload in uploads:
        gate.wait_until_held(upload.id)
        assert nodes.cluster.finalizing_nodes(upload) == [0]
    return uploads


def test_parts_of_one_upload_go_to_different_nodes_and_any_node_answers(
    nodes: OnBucket, content: Content
) -> None:
    cluster, data = nodes.cluster, content(5 * PART_BYTES + 5)
    client = Persistent(cluster, data)
    client.send_all()
    assert all(cluster.requests_seen(node, f"{client.upload.id}/part/") for node in (0, 1))
    assert client.refusals == set()
    seen = [native.status(client.upload) for native in nodes.clients]
    assert seen[0] == seen[1]
    assert seen[0]["uploaded_parts"] == 6
    final_location(Native(cluster.balancer), client.upload)
    nodes.require_finished(client.upload, data)
    for native in nodes.clients:
        assert native.request("GET", f"/download/{client.upload.id}").content == data
    assert [native.pending(client.upload) for native in nodes.clients] == [[], []]


def test_two_last_parts_that_land_on_two_nodes_at_once_complete_the_upload_once(
    nodes: OnBucket, content: Content
) -> None:
    # Compressed by the server, which has to keep a gigabyte of them for a while.
    data = b"".join(content(4 * KIB) * 256 for _ in range(PART_MIB)) + content(1)
    pieces = [data[:PART_BYTES], data[PART_BYTES:]]

    def send(upload: Upload, node: int, part: int, together: threading.Barrier) -> int:
        with Connection(nodes.cluster.nodes[node]) as connection:
            connection.send(put_head(upload, part), pieces[part][:-1])
            together.wait()
            connection.send(pieces[part][-1:])
            answer = connection.read()
        assert answer.status == 200, answer.body
        return int(answer.json["uploaded_parts"])

    def meet(number: int) -> str:
        client, together = (
            Native(nodes.cluster.balancer),
            threading.Barrier(2, timeout=TIMEOUT_SECONDS),
        )
        upload = client.init(size=len(data))
        with ThreadPoolExecutor(2) as pool:
            sent = [pool.submit(send, upload, number + part & 1, part, together) for part in (0, 1)]
        assert sorted(part.result() for part in sent) == [1, 2]
        if number % SAMPLED == 0:
            assert client.complete_raw(upload).status_code == 202
            nodes.require_finished(upload, data)
        else:
            assert client.cancel_raw(upload).status_code == 200
        return upload.id

    with ThreadPoolExecutor(PLACES) as pool:
        met = list(pool.map(meet, range(MEETINGS)))
    completions = nodes.cluster.ask(
        "SELECT upload_id, count(*) FROM events WHERE kind = 'completed' AND upload_id = ANY(%s)"
        " GROUP BY upload_id",
        met,
    )
    assert len(completions) == MEETINGS
    assert {count for _, count in completions} == {1}


def test_a_node_that_dies_in_mid_upload_takes_nothing_acknowledged_with_it(
    nodes: OnBucket, content: Content
) -> None:
    cluster, data = nodes.cluster, content(16 * PART_BYTES)
    client = Persistent(cluster, data)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(client.send_all)
        until(lambda: len(client.acknowledged) >= 4)
        cluster.nodes[0].kill()
        before = dict(client.acknowledged)
        assert len(before) < len(client.upload.tokens), "over too early to prove anything"
        parts = nodes.clients[1].status(client.upload)["parts"]
        for part, checksum in before.items():
            assert parts[part]["checksum_sha256"] == checksum
        sending.result()
    assert client.refusals <= {502, 503}
    assert nodes.clients[1].complete_raw(client.upload).status_code == 202
    nodes.require_finished(client.upload, data)


def test_a_node_that_dies_at_any_step_of_publishing_is_followed_by_another(
    nodes: OnBucket, content: Content
) -> None:
    data = content(1000)
    with nodes.cluster.nodes[1].frozen():
        uploads = held_at_every_step(nodes, data)
        assert len(uploads) > 3, "the gate does not see what is changed"
        there = [nodes.file(upload) for upload in uploads]
        assert there[0] is None
        assert there[-1] == data
        assert set(there) == {None, data}, "a half file is visible"
        nodes.cluster.nodes[0].kill()
        nodes.gate.forget()
    for upload in uploads:
        nodes.require_finished(upload, data)


def test_what_waits_on_one_node_s_disk_is_refused_by_others_by_every_protocol(
    nodes: OnBucket, content: Content
) -> None:
    """And it loses nothing: the right node takes the same bytes afterwards."""
    right, wrong = nodes.cluster.nodes
    data = content(300 * KIB)
    tus, upload = Tus(right), Tus(right).create(len(data))
    tus.patch(upload, 0, data[: 100 * KIB])
    file = File(data, chunk_size=100 * KIB)
    Resumable(right).octet(file, 1)
    refusals = [
        Tus(wrong).patch_raw(TusUpload(upload.path), 100 * KIB, data[100 * KIB :]),
        Resumable(wrong).octet_raw(file, 2),
        Resumable(wrong).form_raw(file, 3),
    ]
    for refused in refusals:
        assert (refused.status_code, refused.json()["code"]) == (503, "wrong_root")
        assert int(refused.headers["Retry-After"]) > 0
    assert Tus(wrong).offset(TusUpload(upload.path)) == 100 * KIB
    assert [Resumable(wrong).test(file, number) for number in file.numbers] == [True, False, False]
    tus.patch(upload, 100 * KIB, data[100 * KIB :])
    answers = [Resumable(right).octet(file, number) for number in (2, 3)]
    for upload_id in (upload.id, answers[-1]["id"]):
        finished = until(
            lambda upload_id=upload_id: in_bucket(nodes, upload_id), what="it is there"
        )
        assert finished == data


def in_bucket(nodes: OnBucket, upload_id: str) -> bytes | None:
    """Return the bytes of an upload's file, None while it is not there."""
    for file in nodes.bucket.files():
        if upload_id in file.name:
            return file.read_bytes()
    return None


@pytest.mark.parametrize("size", [1000, TRANSFERRED_BYTES], ids=["one request", "parts"])
def test_a_node_that_dies_at_any_step_of_a_transfer_goes_on_when_it_is_back(
    nodes: OnBucket, content: Content, size: int
) -> None:
    """Only it has the bytes: others say so, and lose nothing."""
    data = content(size)
    first, second = nodes.clients
    unfinished = first.init(size=len(data) + 1, **promised(data + b"!"))
    last = len(unfinished.tokens) - 1
    for part in range(last):
        offset, length = unfinished.span(part)
        first.put(unfinished, part, data[offset : offset + length])
    with nodes.cluster.nodes[1].frozen():
        uploads = held_at_every_step(nodes, data, **promised(data))
        assert {nodes.file(upload) for upload in uploads} == {None, data}
        nodes.cluster.nodes[0].kill()
        nodes.gate.forget()
    for upload in uploads:
        status = second.status(upload)
        assert (status["status"], status["final_path"]) == ("finalizing", None)
        assert second.complete_raw(upload).status_code == 202
    offset, length = unfinished.span(last)
    rest = (data + b"!")[offset : offset + length]
    if last:  # what has received nothing would move
        refused = second.put_raw(unfinished, last, rest)
        assert (refused.status_code, refused.json()["code"]) == (503, "wrong_root")
        assert int(refused.headers["Retry-After"]) > 0
        assert second.pending(unfinished) == [last]
    for line in nodes.cluster.nodes[1].log_lines():
        assert not ('"event": "finalize.' in line and any(up.id in line for up in uploads))
    nodes.cluster.nodes[0].start()
    first.put(unfinished, last, rest)
    assert first.complete_raw(unfinished).status_code == 202
    for upload in uploads:
        nodes.require_finished(upload, data)
    nodes.require_finished(unfinished, data + b"!")
